// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package image makes what the virtual machines are of: QEMU, kernels, and an initramfs with tools, all from Debian's packages; and
// kernel modules built with Debian's compiler: one of our own, and those of Linux that Debian's kernels leave out.
//
// [Ensure] gives the folder of an image, and builds it if nobody has yet. An image lies outside of the work tree, under a name that is
// a hash of this package's sources and the module's, so other clones find it, and whoever changes the sources gets a new one. It appears
// only when it is whole; of two that want it at once, one waits for the other. The machine that builds it is not touched: apt works on
// lists and a cache of its own, trusts Debian's archive key only, and nothing is installed. An image that is there is used without any
// network.
//
// Suites are pinned, versions are not, because a backport that has a successor can no longer be fetched. packages.txt in the
// image says which versions it has.
package image

import (
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/test/vm/module"
)

// Kernel names a kernel that an image has.
type Kernel string

const (
	// Linux612 lacks much: no rxe can change its network namespace.
	Linux612 Kernel = "6.12"
	// Linux73 is the first kernel whose rxe can be moved.
	Linux73 Kernel = "7.3"
)

// Image is a built image.
type Image struct{ dir string }

//go:embed *.go
var sources embed.FS

// key is a hash of everything that decides what an image is.
func key() (string, error) {
	h := sha256.New()
	for _, tree := range []embed.FS{sources, module.Sources} {
		err := fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
				return err
			}
			data, err := tree.ReadFile(path)
			fmt.Fprintf(h, "%s %d\n%s", path, len(data), data)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))[:16], nil
}

// Ensure gives the image under the folder cache, which may be shared. say tells a person what takes its time.
func Ensure(ctx context.Context, cache string, say func(format string, args ...any)) (Image, error) {
	name, err := key()
	if err != nil {
		return Image{}, err
	}
	home := filepath.Join(cache, name)
	img := Image{dir: filepath.Join(home, "image")}
	if img.whole() {
		return img, nil
	}
	if err := os.MkdirAll(home, 0o755); err != nil {
		return Image{}, err
	}
	unlock, err := lock(ctx, filepath.Join(home, ".lock"), func() { say("another build fills %s; waiting for it", home) })
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	if img.whole() {
		return img, nil
	}
	if err := removeScratch(home); err != nil {
		return Image{}, err
	}
	tmp, err := os.MkdirTemp(home, scratch)
	if err != nil {
		return Image{}, err
	}
	defer os.RemoveAll(tmp)
	say("building the image of the virtual machines into %s", home)
	b := builder{say: say, tmp: tmp, out: Image{dir: filepath.Join(tmp, "image")}}
	if err := b.build(ctx); err != nil {
		return Image{}, fmt.Errorf("build the image of the virtual machines: %w", err)
	}
	return img, os.Rename(b.out.dir, img.dir)
}

const scratch = ".tmp."

// removeScratch removes what builds left that were killed; the caller holds the lock.
func removeScratch(home string) error {
	left, err := filepath.Glob(filepath.Join(home, scratch+"*"))
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// lock takes the lock file, or calls wait and waits. The lock ends with the process at the latest.
func lock(ctx context.Context, path string, wait func()) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		wait()
		done := make(chan error, 1)
		go func() { done <- unix.Flock(int(f.Fd()), unix.LOCK_EX) }()
		select {
		case err = <-done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

func (i Image) whole() bool {
	_, err := os.Stat(i.dir)
	return err == nil
}

// Dir is the image's folder.
func (i Image) Dir() string { return i.dir }

// Root is a tree of unpacked Debian packages.
func (i Image) Root() string { return filepath.Join(i.dir, "root") }

// Vmlinuz is the kernel's file.
func (i Image) Vmlinuz(k Kernel) string { return filepath.Join(i.dir, "vmlinuz-"+string(k)) }

// Initramfs is the kernel's uncompressed initramfs, without an init: a second archive, appended, brings it.
func (i Image) Initramfs(k Kernel) string { return filepath.Join(i.dir, "initramfs-"+string(k)) }

// Command is a program of the image for the machine at hand. It brings its own libraries, so that nothing needs to be installed.
func (i Image) Command(ctx context.Context, program string, args ...string) (*exec.Cmd, error) {
	path, err := i.find(program)
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, filepath.Join(i.Root(), loader), append([]string{
		"--argv0", program, "--library-path", strings.Join(under(i.Root(), libDirs()), ":"), path}, args...)...), nil
}

const loader = "lib64/ld-linux-x86-64.so.2"

func binDirs() []string { return []string{"usr/bin", "usr/sbin", "bin", "sbin"} }
func libDirs() []string { return []string{"usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"} }

func under(root string, dirs []string) []string {
	var out []string
	for _, d := range dirs {
		out = append(out, filepath.Join(root, d))
	}
	return out
}

// find gives the path of a program of the image.
func (i Image) find(program string) (string, error) {
	for _, dir := range under(i.Root(), binDirs()) {
		path := filepath.Join(dir, program)
		if s, err := os.Stat(path); err == nil && s.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", fmt.Errorf("the image has no program %s", program)
}
