// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// tools are the programs of the initramfs, beside what busybox is.
func tools() []string {
	return []string{
		"dash", "busybox", "kmod", "ip", "rdma", "devlink", "bridge", "tc", "ss", "ethtool", "lspci", "ping",
		"ibv_devices", "ibv_devinfo", "ibv_rc_pingpong", "ibv_ud_pingpong", "ib_write_bw", "ib_write_lat", "ib_send_lat", "rping",
	}
}

// hidden are what tools load while they run, which their headers don't say.
func hidden() []string {
	return []string{
		"usr/lib/x86_64-linux-gnu/libibverbs/librxe-rdmav34.so", "usr/lib/x86_64-linux-gnu/libibverbs/libsiw-rdmav34.so",
		"lib/x86_64-linux-gnu/libgcc_s.so.1", // a thread that ends, in rping
	}
}

// initramfs writes a kernel's initramfs with the modules in the folder mods.
func (b builder) initramfs(k Kernel, mods string) (err error) {
	f, err := os.Create(b.out.Initramfs(k))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r := ramfs{img: b.out, Archive: NewArchive(f)}
	for _, dir := range []string{"dev", "proc", "sys", "run", "tmp", "etc", "root", "var", "mnt"} {
		r.Dir(dir)
	}
	r.Link("var/run", "/run")
	r.File("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	r.File("etc/group", 0o644, []byte("root:x:0:\n"))
	r.File("etc/hosts", 0o644, []byte("127.0.0.1 localhost vm\n::1 localhost\n"))
	if err := r.programs(); err != nil {
		return err
	}
	if err := r.tree(mods, "lib/modules", "lib/modules"); err != nil {
		return err
	}
	return r.Close()
}

// ramfs is an initramfs in the making, from the tree of an image.
type ramfs struct {
	*Archive
	img Image
}

func (r ramfs) programs() error {
	for _, name := range tools() {
		path, err := r.img.find(name)
		if err != nil {
			return err
		}
		r.Copy("bin/"+name, path)
		if err := r.libraries(path); err != nil {
			return err
		}
	}
	// Not busybox: its shell runs its own ip and ping before those in PATH.
	r.Link("bin/sh", "dash")
	r.Link("sbin", "bin")
	r.Link("usr/bin", "../bin")
	r.Link("usr/sbin", "../bin")
	for _, name := range []string{"modprobe", "insmod", "rmmod", "lsmod", "modinfo", "depmod"} {
		r.Link("bin/"+name, "kmod")
	}
	for _, path := range hidden() {
		full := filepath.Join(r.img.Root(), path)
		r.Copy(path, full)
		if err := r.libraries(full); err != nil {
			return err
		}
	}
	for _, driver := range []string{"rxe", "siw"} { // libibverbs complains about each that it can't load
		r.Copy("etc/libibverbs.d/"+driver+".driver", filepath.Join(r.img.Root(), "etc/libibverbs.d", driver+".driver"))
	}
	applets, err := exec.Command(filepath.Join(r.img.Root(), "bin/busybox"), "--list").Output()
	if err != nil {
		return fmt.Errorf("ask busybox what it can: %w", err)
	}
	for _, name := range strings.Fields(string(applets)) {
		if !r.Has("bin/" + name) {
			r.Link("bin/"+name, "busybox")
		}
	}
	return nil
}

// libraries adds what a program or library is linked with, to any depth.
func (r ramfs) libraries(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close()
	if f.Section(".interp") != nil && !r.Has(loader) {
		r.Copy(loader, filepath.Join(r.img.Root(), loader))
	}
	names, err := f.ImportedLibraries()
	if err != nil && f.Section(".dynamic") != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, name := range names {
		i := slices.IndexFunc(libDirs(), func(dir string) bool {
			_, err := os.Stat(filepath.Join(r.img.Root(), dir, name))
			return err == nil
		})
		switch {
		case i < 0 && name == filepath.Base(loader):
			continue
		case i < 0:
			return fmt.Errorf("%s needs %s, which no package brings", path, name)
		}
		to := filepath.Join(libDirs()[i], name)
		if r.Has(to) {
			continue
		}
		r.Copy(to, filepath.Join(r.img.Root(), to))
		if err := r.libraries(filepath.Join(r.img.Root(), to)); err != nil {
			return err
		}
	}
	return nil
}

// tree adds the files of the folder from, which is in root.
func (r ramfs) tree(root, from, to string) error {
	top := filepath.Join(root, from)
	return filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(top, path)
		r.Copy(filepath.Join(to, rel), path)
		return err
	})
}
