// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/railyard-net/railyard/rdma/gpu"
	"github.com/railyard-net/railyard/rdma/inventory"
	"github.com/railyard-net/railyard/rdma/topology"
	"github.com/railyard-net/railyard/test/sysfs"
)

// machine is what placement looks at.
type machine struct {
	name, about string
	// path is from a GPU to a NIC, between from a GPU to a GPU.
	path, between    [][]topology.Class
	gpuNUMA, nicNUMA []int
	// switched: NVLink by switches makes all GPUs equal to each other.
	switched bool
}

// load reads a drawing. Where some NICs are on rails, the others are for storage, and nobody would put them into a pool.
func load(file string) (*machine, error) {
	a, err := txtar.ParseFile(file)
	if err != nil {
		return nil, err
	}
	m := &machine{name: strings.TrimSuffix(filepath.Base(file), ".txtar")}
	m.about, _, _ = strings.Cut(string(a.Comment), "\n")
	m.switched = strings.HasPrefix(m.name, "dgx") || strings.HasPrefix(m.name, "hgx") || strings.HasPrefix(m.name, "gb")
	var drawing *sysfs.Machine
	c2c := false
	for _, part := range a.Files {
		switch part.Name {
		case "tree":
			if drawing, err = sysfs.Draw(string(part.Data)); err != nil {
				return nil, err
			}
		case "c2c":
			c2c = true
		}
	}
	if drawing == nil {
		return nil, fmt.Errorf("has no tree")
	}
	dir, err := os.MkdirTemp("", "railyard-pairing-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := drawing.Write(dir); err != nil {
		return nil, err
	}
	s, err := inventory.Source{Sys: os.DirFS(filepath.Join(dir, "sys")), GPUs: func() (gpu.Inventory, error) { return drawing.GPUs(), nil }}.Read()
	if err != nil {
		return nil, err
	}
	return m, m.measure(s, drawing, c2c)
}

func (m *machine) measure(s inventory.Snapshot, drawing *sysfs.Machine, c2c bool) error {
	rails := false
	for _, f := range drawing.Functions {
		_, on := f.Options["rail"]
		rails = rails || on
	}
	var nics []inventory.NIC
	for _, n := range s.NICs {
		if _, on := drawing.At(string(n.Addr)).Options["rail"]; n.Capable && (on || !rails) {
			nics = append(nics, n)
			m.nicNUMA = append(m.nicNUMA, n.NUMA)
		}
	}
	for _, g := range s.GPUs.GPUs {
		f, err := s.Tree.Function(g.Addr)
		if err != nil {
			return err
		}
		m.gpuNUMA = append(m.gpuNUMA, f.NUMA)
		var to, among []topology.Class
		for _, n := range nics {
			p, err := s.Tree.GPUPath(topology.GPU{Addr: g.Addr, C2C: c2c || g.C2C}, n.Addr)
			if err != nil {
				return err
			}
			to = append(to, p.Class)
		}
		for _, other := range s.GPUs.GPUs {
			p, err := s.Tree.Path(g.Addr, other.Addr)
			if err != nil {
				return err
			}
			among = append(among, p.Class)
		}
		m.path, m.between = append(m.path, to), append(m.between, among)
	}
	return nil
}

// near is what GPUDirect wants.
func (m *machine) near(gpu, nic int) bool { return m.path[gpu][nic] <= topology.P2C }

// match pairs as many GPUs with NICs near them as there can be, and returns each GPU's NIC, or -1.
func (m *machine) match(gpus, nics []int) map[int]int {
	by := map[int]int{} // NIC: GPU
	var try func(g int, seen map[int]bool) bool
	try = func(g int, seen map[int]bool) bool {
		for _, n := range nics {
			if !m.near(g, n) || seen[n] {
				continue
			}
			seen[n] = true
			if other, taken := by[n]; !taken || try(other, seen) {
				by[n] = g
				return true
			}
		}
		return false
	}
	for _, g := range gpus {
		try(g, map[int]bool{})
	}
	of := map[int]int{}
	for n, g := range by {
		of[g] = n
	}
	return of
}
