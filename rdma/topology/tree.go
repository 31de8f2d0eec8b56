// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/railyard-net/railyard/rdma"
)

// Tree is the PCI functions of a machine as they were when it was read. It does not change, so it may be used concurrently;
// what it returns is the caller's.
type Tree struct {
	functions []Function
	index     map[rdma.BusAddr]int
	direct    map[string][]rdma.BusAddr // Data Direct functions by card
}

// Read reads the tree from a sysfs. The tree is never nil: what could not be read is told by the error, one *FunctionError a
// function, joined, and the tree has the rest. A function that went away meanwhile is left out.
func Read(sys fs.FS) (*Tree, error) {
	entries, err := fs.ReadDir(sys, devices)
	if errors.Is(err, fs.ErrNotExist) {
		return newTree(nil), nil
	}
	if err != nil {
		return newTree(nil), err
	}
	var functions []Function
	var errs []error
	for _, e := range entries {
		addr := rdma.BusAddr(e.Name())
		if !addr.IsPCI() {
			errs = append(errs, fmt.Errorf("%s has %.64q, which is no PCI address", devices, e.Name()))
			continue
		}
		f, ok, err := readFunction(sys, addr)
		if gone(sys, addr) {
			continue
		}
		if ok {
			functions = append(functions, f)
		}
		if err != nil {
			errs = append(errs, &FunctionError{addr, err})
		}
	}
	errs = append(errs, readCards(sys, functions)...)
	return newTree(functions), errors.Join(errs...)
}

// gone says that a function went away, which explains every error in reading it and makes half of it worthless.
func gone(sys fs.FS, addr rdma.BusAddr) bool {
	_, err := fs.Lstat(sys, path.Join(devices, string(addr)))
	return errors.Is(err, fs.ErrNotExist)
}

// readCards is for machines with Data Direct: reading vital product data takes the firmware milliseconds.
func readCards(sys fs.FS, functions []Function) (errs []error) {
	if !slices.ContainsFunc(functions, Function.isDataDirect) {
		return nil
	}
	for i := range functions {
		f := &functions[i]
		if f.PhysFn != "" || f.Vendor != mellanox || !f.IsNIC() && !f.isDataDirect() {
			continue
		}
		card, err := readCard(sys, *f)
		if err != nil {
			errs = append(errs, &FunctionError{f.Addr, err})
		}
		f.Card = card
	}
	return errs
}

func newTree(functions []Function) *Tree {
	slices.SortFunc(functions, func(a, b Function) int { return compareAddrs(a.Addr, b.Addr) })
	t := &Tree{functions, make(map[rdma.BusAddr]int, len(functions)), map[string][]rdma.BusAddr{}}
	for i, f := range functions {
		t.index[f.Addr] = i
	}
	for i := range functions {
		f := &functions[i]
		if pf, ok := t.index[f.PhysFn]; ok {
			functions[pf].VirtFns = append(functions[pf].VirtFns, f.Addr)
		}
		if f.isDataDirect() && f.Card != "" {
			t.direct[f.Card] = append(t.direct[f.Card], f.Addr)
		}
	}
	for i := range functions {
		if f := &functions[i]; f.Port == Endpoint && f.IsBridge() {
			f.Port = t.port(append([]rdma.BusAddr{f.Addr}, f.Above...))
		}
	}
	return t
}

// compareAddrs orders as numbers do: domains have four digits or more.
func compareAddrs(a, b rdma.BusAddr) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(string(a), string(b)))
}

// port says what the first of some bridges is, which are followed by those above it. That of a bridge which could not be read
// follows from the next.
func (t *Tree) port(bridges []rdma.BusAddr) Port {
	if i, ok := t.index[bridges[0]]; ok && t.functions[i].Port != Endpoint {
		return t.functions[i].Port
	}
	if len(bridges) == 1 {
		return RootPort
	}
	switch above := t.port(bridges[1:]); above {
	case Upstream:
		return Downstream
	case Bridge:
		return Bridge
	default:
		return Upstream
	}
}

// Functions returns all functions by address.
func (t *Tree) Functions() []Function {
	all := make([]Function, 0, len(t.functions))
	for _, f := range t.functions {
		all = append(all, f.clone())
	}
	return all
}

// Function returns one function. It is an [rdma.ErrNotFound] if the tree has none of that address.
func (t *Tree) Function(addr rdma.BusAddr) (Function, error) {
	f, err := t.at(addr)
	if err != nil {
		return Function{}, err
	}
	return f.clone(), nil
}

func (f Function) clone() Function {
	f.Above, f.VirtFns = slices.Clone(f.Above), slices.Clone(f.VirtFns)
	return f
}

func (t *Tree) at(addr rdma.BusAddr) (*Function, error) {
	i, ok := t.index[addr]
	if !ok {
		return nil, fmt.Errorf("PCI function %.64q: %w", string(addr), rdma.ErrNotFound)
	}
	return &t.functions[i], nil
}

// Degraded says that a function's link is slower or narrower than its two ends allow, and what they allow. A GPU that idles has its
// link slowed down by its driver: a narrow link is a fault at any time, a slow one under load only. What is not known is not degraded.
func (t *Tree) Degraded(addr rdma.BusAddr) (able Link, degraded bool, err error) {
	f, err := t.at(addr)
	if err != nil {
		return Link{}, false, err
	}
	able = Link{MaxRate: f.Link.MaxRate, MaxWidth: f.Link.MaxWidth}
	if len(f.Above) > 0 {
		if i, ok := t.index[f.Above[0]]; ok {
			port := t.functions[i].Link
			able.MaxRate, able.MaxWidth = lower(able.MaxRate, port.MaxRate), lower(able.MaxWidth, port.MaxWidth)
		}
	}
	able.Rate, able.Width = able.MaxRate, able.MaxWidth
	slow := f.Link.Rate != 0 && f.Link.Rate < able.Rate
	narrow := f.Link.Width != 0 && f.Link.Width < able.Width
	return able, slow || narrow, nil
}

// lower is the smaller of two of which either may not be known.
func lower[T Rate | int](a, b T) T {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
