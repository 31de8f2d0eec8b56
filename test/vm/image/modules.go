// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// modules are what the initramfs holds, with all that they depend on. One that a kernel lacks is built into it or not made for it.
func modules() []string {
	return []string{
		// links
		"veth", "dummy", "macvlan", "ipvlan", "8021q", "bridge", "bonding", "vrf", "tun", "ifb",
		// RDMA
		"ib_core", "ib_uverbs", "ib_umad", "ib_ipoib", "rdma_cm", "rdma_ucm", "rdma_rxe", "siw", "ryfab",
		"crc32_generic", "crc32c_generic", "crc32-pclmul", // which rxe asks for by name up to 6.12
		// devices
		"igb", "igbvf", "e1000e", "virtio_pci", "virtio_net", "nvme", "vfio", "vfio-pci", "vfio_iommu_type1", "netdevsim",
		// rules on packets
		"nf_tables", "nft_compat", "sch_ingress", "cls_u32", "act_mirred",
	}
}

// pickModules copies the wanted modules of a kernel's folder into a tree with the lists that modprobe reads, and gives that tree.
func (b builder) pickModules(ctx context.Context, from, into string) (string, error) {
	p := picker{b: b, from: from, into: filepath.Join(into, "lib/modules", filepath.Base(from)), files: map[string]string{}, done: map[string]bool{}}
	if err := p.index(); err != nil {
		return "", err
	}
	for _, name := range modules() {
		if err := p.pick(ctx, name); err != nil {
			return "", fmt.Errorf("module %s: %w", name, err)
		}
	}
	for _, name := range []string{"modules.builtin", "modules.builtin.modinfo", "modules.order"} {
		if err := os.Rename(filepath.Join(p.from, name), filepath.Join(p.into, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	depmod, err := b.out.Command(ctx, "kmod", "-b", into, filepath.Base(p.into))
	if err != nil {
		return "", err
	}
	depmod.Args[2] = "depmod" // kmod goes by the name it is called
	if out, err := depmod.CombinedOutput(); err != nil {
		return "", fmt.Errorf("depmod: %w\n%s", err, out)
	}
	return into, nil
}

type picker struct {
	b          builder
	from, into string
	files      map[string]string // by module name
	done       map[string]bool
}

func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

func (p picker) index() error {
	return filepath.WalkDir(p.from, func(path string, d fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(filepath.Base(path), ".ko"); ok && err == nil && !d.IsDir() {
			p.files[moduleName(name)] = path
		}
		return err
	})
}

// pick unpacks a module and those it depends on.
func (p picker) pick(ctx context.Context, name string) error {
	name = moduleName(name)
	from := p.files[name]
	if from == "" || p.done[name] {
		return nil
	}
	p.done[name] = true
	data, err := p.read(ctx, from)
	if err != nil {
		return err
	}
	info, err := modinfo(data)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(from), err)
	}
	rel, err := filepath.Rel(p.from, from)
	if err != nil {
		return err
	}
	stem, _, _ := strings.Cut(rel, ".ko")
	to := filepath.Join(p.into, stem+".ko")
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(to, data, 0o644); err != nil {
		return err
	}
	for _, d := range info {
		if err := p.pick(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// read gives a module uncompressed: unpacking it on every boot would take longer than reading it.
func (p picker) read(ctx context.Context, path string) ([]byte, error) {
	if !strings.HasSuffix(path, ".xz") {
		return os.ReadFile(path)
	}
	xz, err := p.b.out.Command(ctx, "xz", "-dc", path)
	if err != nil {
		return nil, err
	}
	return xz.Output()
}

// modinfo gives the modules that a module depends on, or wants loaded beside it.
func modinfo(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no .modinfo in it")
	}
	text, err := section.Data()
	if err != nil {
		return nil, err
	}
	var out []string
	for field := range strings.SplitSeq(string(text), "\x00") {
		switch key, value, _ := strings.Cut(field, "="); key {
		case "depends":
			out = append(out, strings.Split(value, ",")...)
		case "softdep": // "pre: a b post: c"
			out = append(out, strings.Fields(value)...)
		}
	}
	return out, nil
}
