// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// compiler is that of the newest kernel, which also takes the flags of older ones.
const compiler = "x86_64-linux-gnu-gcc-14"

// toolchain is a tree of unpacked packages that can build kernel modules. Its programs bring their own libraries, so that they run on a
// machine with older ones, without root and without a namespace.
type toolchain struct{ root string }

// newToolchain fetches a compiler and what kbuild needs beside it, and gives the packages.
func (b builder) newToolchain(ctx context.Context) (toolchain, []string, error) {
	t := toolchain{filepath.Join(b.tmp, "toolchain")}
	a, err := newApt(ctx, filepath.Join(b.tmp, "apt-toolchain"), "trixie")
	if err != nil {
		return t, nil, err
	}
	debs, err := a.withDependencies(ctx, []string{"gcc-14", "make", "libelf1t64"})
	if err != nil {
		return t, nil, err
	}
	return t, debs, t.add(ctx, debs)
}

// add unpacks packages and makes their programs run from where they are.
func (t toolchain) add(ctx context.Context, debs []string) error {
	return firstOf(unpack(ctx, debs, t.root), t.wrap)
}

const wrapper = `#!/bin/sh
exec '%[1]s/usr/lib64/ld-linux-x86-64.so.2' --argv0 "$0" --library-path '%[1]s/usr/lib/x86_64-linux-gnu' '%[2]s' "$@"
`

// unwrapped ends the name of a program that has a wrapper under its own name.
const unwrapped = ".elf"

// wrap puts a script in the place of each program: programs call each other by their paths, the compiler its passes for one, and the
// kernel would give them the machine's loader.
func (t toolchain) wrap() error {
	return filepath.WalkDir(t.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.Contains(d.Name(), ".so") || strings.HasSuffix(d.Name(), unwrapped) {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Mode()&0o111 == 0 || !dynamic(path) {
			return err
		}
		if err := os.Rename(path, path+unwrapped); err != nil {
			return err
		}
		return os.WriteFile(path, fmt.Appendf(nil, wrapper, t.root, path+unwrapped), 0o755)
	})
}

// dynamic says that the file is a program that the kernel gives a loader.
func dynamic(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return f.Section(".interp") != nil
}

// program is a command of the toolchain. The environment is not the caller's: that of a make would reach the one in here.
func (t toolchain) program(ctx context.Context, name string, args ...string) *exec.Cmd {
	bin := filepath.Join(t.root, "usr/bin")
	cmd := exec.CommandContext(ctx, filepath.Join(bin, name), args...)
	cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "LC_ALL=C", "TMPDIR=" + os.TempDir()}
	return cmd
}

// headers makes the packages with a kernel's headers usable, and gives their tree.
func (t toolchain) headers(ctx context.Context, version string, debs []string) (string, error) {
	if err := t.add(ctx, debs); err != nil {
		return "", err
	}
	tree := filepath.Join(t.root, "usr/src/linux-headers-"+version)
	if err := relocate(filepath.Join(tree, "Makefile"), t.root); err != nil {
		return "", err
	}
	// With the kernel's types beside it, kbuild would want to make a module's too.
	if err := os.Remove(filepath.Join(tree, "vmlinux")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return tree, nil
}

// build compiles the module whose sources are in dir, with the headers in tree, and gives its file. The settings are make's.
func (t toolchain) build(ctx context.Context, tree, dir, name string, settings ...string) (string, error) {
	ko := filepath.Join(dir, name+".ko")
	for _, cmd := range []*exec.Cmd{
		t.program(ctx, "make", append([]string{"-j2", "-C", tree, "M=" + dir, "CC=" + compiler, "modules"}, settings...)...),
		t.program(ctx, "strip", "--strip-debug", ko),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build the module %s: %w\n%s", name, err, out)
		}
	}
	return ko, nil
}

// relocate makes a Makefile of the headers find the others in root.
func relocate(makefile, root string) error {
	text, err := os.ReadFile(makefile)
	if err != nil {
		return err
	}
	return os.WriteFile(makefile, []byte(strings.ReplaceAll(string(text), "/usr/src/", root+"/usr/src/")), 0o644)
}
