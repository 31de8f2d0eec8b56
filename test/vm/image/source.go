// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/railyard-net/railyard/test/vm/module"
)

// sourceModule is a module of Linux that Debian's packages leave out: it is built of Debian's sources of the very kernel.
type sourceModule struct {
	name   string
	folder string // of its sources
	config string // without which its Makefile makes nothing
}

// leftOut are those that a kernel gets. siw is iWARP in software, netdevsim a NIC that does what drivers are asked to do.
func leftOut() map[Kernel][]sourceModule {
	return map[Kernel][]sourceModule{Linux612: {
		{"siw", "drivers/infiniband/sw/siw", "CONFIG_RDMA_SIW"},
		{"netdevsim", "drivers/net/netdevsim", "CONFIG_NETDEVSIM"},
	}}
}

// moreModules puts our module, and those of Linux that Debian leaves out, among the kernel's in the folder into, and gives the packages of
// which they were built.
func (b builder) moreModules(ctx context.Context, a apt, t toolchain, k Kernel, into string) ([]string, error) {
	debs, err := a.headers(ctx, kernels()[k], filepath.Join(b.tmp, "headers-"+string(k)))
	if err != nil {
		return nil, err
	}
	release := filepath.Base(into)
	tree, err := t.headers(ctx, release, debs)
	if err != nil {
		return nil, err
	}
	extra := filepath.Join(into, "extra")
	if err := os.MkdirAll(extra, 0o755); err != nil {
		return nil, err
	}
	add := func(dir, name string, settings ...string) error {
		ko, err := t.build(ctx, tree, dir, name, settings...)
		if err != nil {
			return err
		}
		return os.Rename(ko, filepath.Join(extra, filepath.Base(ko)))
	}
	own, err := fs.Sub(module.Sources, module.Dir)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.tmp, "module-"+string(k))
	if err := firstOf(os.CopyFS(dir, own), func() error { return add(dir, module.Name) }); err != nil {
		return nil, err
	}
	modules := leftOut()[k]
	if len(modules) == 0 {
		return debs, nil
	}
	source, err := a.source(ctx, k, release, debs, filepath.Join(b.tmp, "source-"+string(k)))
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(b.tmp, "linux-source-"+string(k))
	if err := b.unpackSource(ctx, source, dir, modules); err != nil {
		return nil, err
	}
	for _, m := range modules {
		if err := add(filepath.Join(dir, m.folder), m.name, m.config+"=m"); err != nil {
			return nil, err
		}
	}
	return append(debs, source), nil
}

// source fetches the package with the sources of the kernel whose headers are given.
func (a apt) source(ctx context.Context, k Kernel, release string, headers []string, dir string) (string, error) {
	for _, deb := range headers {
		if !strings.HasPrefix(filepath.Base(deb), "linux-headers-"+release+"_") {
			continue
		}
		version, err := exec.CommandContext(ctx, "dpkg-deb", "--field", deb, "Version").Output()
		if err != nil {
			return "", fmt.Errorf("read the version of %s: %w", filepath.Base(deb), err)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
		if _, err := a.run(ctx, dir, "apt-get", "download", "-q", "linux-source-"+string(k)+"="+strings.TrimSpace(string(version))); err != nil {
			return "", err
		}
		return only(dir, "*.deb")
	}
	return "", fmt.Errorf("none of the packages has the headers of Linux %s", release)
}

// unpackSource unpacks the modules' folders of the sources in a package into dir.
func (b builder) unpackSource(ctx context.Context, deb, dir string, modules []sourceModule) error {
	packed := filepath.Join(filepath.Dir(deb), "packed")
	if err := unpack(ctx, []string{deb}, packed); err != nil {
		return err
	}
	file, err := only(packed, "usr/src/linux-source-*.tar.xz")
	if err != nil {
		return err
	}
	xz, err := b.out.Command(ctx, "xz", "-dc", file)
	if err != nil {
		return err
	}
	out, err := xz.StdoutPipe()
	if err != nil {
		return err
	}
	if err := xz.Start(); err != nil {
		return err
	}
	if err := untar(out, dir, modules); err != nil {
		_ = xz.Process.Kill() // it may have more to say than anybody reads
		return errors.Join(fmt.Errorf("unpack %s: %w", filepath.Base(file), err), xz.Wait())
	}
	return xz.Wait()
}

// untar writes the modules' files of an archive, which has all below one folder, into dir.
func untar(r io.Reader, dir string, modules []sourceModule) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		_, name, _ := strings.Cut(h.Name, "/")
		if h.Typeflag != tar.TypeReg || !wanted(name, modules) {
			continue
		}
		data, err := io.ReadAll(archive)
		if err != nil {
			return err
		}
		if err := errors.Join(root.MkdirAll(path.Dir(name), 0o755), root.WriteFile(name, data, 0o644)); err != nil {
			return err
		}
	}
}

func wanted(name string, modules []sourceModule) bool {
	for _, m := range modules {
		if path.Dir(name) == m.folder {
			return true
		}
	}
	return false
}
