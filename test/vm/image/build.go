// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// builder fills out; tmp is gone afterwards.
type builder struct {
	say func(format string, args ...any)
	tmp string
	out Image
}

func (b builder) build(ctx context.Context) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("the virtual machines are of amd64, this is %s", runtime.GOARCH)
	}
	var a apt
	err := b.step("the package lists", func() (err error) {
		a, err = newApt(ctx, filepath.Join(b.tmp, "apt"), "bookworm", "bookworm-backports", "trixie-backports")
		return err
	})
	if err != nil {
		return err
	}
	var all []string
	if err := b.step("QEMU and the tools", func() error {
		debs, err := a.withDependencies(ctx, packages())
		all = append(all, debs...)
		return firstOf(err, func() error { return unpack(ctx, debs, b.out.Root()) }, b.slim)
	}); err != nil {
		return err
	}
	var t toolchain
	if err := b.step("a compiler", func() (err error) {
		var debs []string
		t, debs, err = b.newToolchain(ctx)
		all = append(all, debs...)
		return err
	}); err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(kernels())) {
		if err := b.step("Linux "+string(k), func() error {
			debs, err := b.kernel(ctx, a, t, k)
			all = append(all, debs...)
			return err
		}); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(b.out.dir, "packages.txt"), []byte(list(all)), 0o644)
}

// step says what is being done, and how long it took.
func (b builder) step(what string, f func() error) error {
	begin := time.Now()
	b.say("fetching %s …", what)
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	b.say("fetched %s in %.0fs", what, time.Since(begin).Seconds())
	return nil
}

// firstOf goes on until something fails.
func firstOf(err error, then ...func() error) error {
	for _, f := range then {
		if err != nil {
			return err
		}
		err = f()
	}
	return err
}

// slim removes what nobody reads in an image.
func (b builder) slim() error {
	for _, dir := range []string{"usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"} {
		if err := os.RemoveAll(filepath.Join(b.out.Root(), dir)); err != nil {
			return err
		}
	}
	return nil
}

// list gives the packages' names and versions, as their files are called.
func list(debs []string) string {
	var lines []string
	for _, deb := range debs {
		lines = append(lines, strings.ReplaceAll(strings.TrimSuffix(filepath.Base(deb), ".deb"), "%3a", ":")+"\n")
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// kernel fetches a kernel, builds for it the modules that its packages lack, and makes its initramfs.
func (b builder) kernel(ctx context.Context, a apt, t toolchain, k Kernel) ([]string, error) {
	debs, err := a.kernel(ctx, kernels()[k], filepath.Join(b.tmp, "debs-"+string(k)))
	if err != nil {
		return nil, err
	}
	tree := filepath.Join(b.tmp, "linux-"+string(k))
	defer os.RemoveAll(tree)
	if err := unpack(ctx, debs, tree); err != nil {
		return nil, err
	}
	from, err := only(tree, "lib/modules/*", "usr/lib/modules/*")
	if err != nil {
		return nil, err
	}
	if version := filepath.Base(from); !strings.HasPrefix(version, string(k)+".") {
		return nil, fmt.Errorf("%s now has Linux %s: see what the tests say to it, and name it in test/vm/image", kernels()[k], version)
	}
	more, err := b.moreModules(ctx, a, t, k, from)
	if err != nil {
		return nil, err
	}
	debs = append(debs, more...)
	vmlinuz, err := only(tree, "boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz")
	if err != nil {
		return nil, err
	}
	if err := os.Rename(vmlinuz, b.out.Vmlinuz(k)); err != nil {
		return nil, err
	}
	mods, err := b.pickModules(ctx, from, filepath.Join(b.tmp, "modules-"+string(k)))
	if err != nil {
		return nil, err
	}
	return debs, b.initramfs(k, mods)
}

// only gives the one file that matches a pattern in dir: Debian's kernels have moved files about.
func only(dir string, patterns ...string) (string, error) {
	var all []string
	for _, p := range patterns {
		found, err := filepath.Glob(filepath.Join(dir, p))
		if err != nil {
			return "", err
		}
		all = append(all, found...)
	}
	if len(all) != 1 {
		return "", fmt.Errorf("the packages have %d of %s, want one", len(all), strings.Join(patterns, ", "))
	}
	return all[0], nil
}
