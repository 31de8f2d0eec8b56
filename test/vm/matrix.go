// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/railyard-net/railyard/test/vm/image"
)

// machine is one row of the matrix.
type machine struct {
	name     string
	kernel   image.Kernel
	rdma     string // mode of RDMA's network namespaces: shared or exclusive
	packages []string
	leaveOut []leftOut
}

// leftOut is a test that a machine does not run. It is reported as skipped.
type leftOut struct {
	pkg, test string
	why       string
}

const (
	netns = "./test/netns"
	rails = "./test/vm/rails"
)

// matrix is what make test-vm runs. All machines have the same devices.
func matrix() []machine {
	slow := []leftOut{
		{netns, "TestConformance_H", "64 pods at once outlast the plugin's patience on an emulated processor; make test runs it"},
		{netns, "TestConformance_C_Killed", "kills the plugin at every step, which takes two minutes here; make test runs it"},
	}
	return []machine{
		{"7.3-shared", image.Linux73, "shared", []string{netns, rails}, slow},
		{"7.3-exclusive", image.Linux73, "exclusive", []string{rails}, nil},
		{"6.12-shared", image.Linux612, "shared", []string{netns, rails}, slow},
		{"6.12-exclusive", image.Linux612, "exclusive", []string{rails}, nil},
	}
}

func names() []string {
	var out []string
	for _, m := range matrix() {
		out = append(out, m.name)
	}
	return out
}

// choose leaves of the matrix what was asked for: the named machines, and of those the named packages.
func choose(all []machine, machines string, packages []string) ([]machine, error) {
	if machines != "" {
		var some []machine
		for name := range strings.SplitSeq(machines, ",") {
			i := slices.IndexFunc(all, func(m machine) bool { return m.name == name })
			if i < 0 {
				return nil, fmt.Errorf("no machine is called %q; there are %s", name, strings.Join(names(), ", "))
			}
			some = append(some, all[i])
		}
		all = some
	}
	if len(packages) == 0 {
		return all, nil
	}
	var some []machine
	for _, m := range all {
		m.packages = slices.DeleteFunc(slices.Clone(m.packages), func(p string) bool {
			return !slices.ContainsFunc(packages, func(want string) bool { return "./"+path.Clean(want) == p })
		})
		if len(m.packages) > 0 {
			some = append(some, m)
		}
	}
	if len(some) == 0 {
		return nil, fmt.Errorf("no machine runs %s; test/vm/matrix.go says which run what", strings.Join(packages, ", "))
	}
	return some, nil
}

// env is what tests know about the machine they run in.
func (m machine) env() []string {
	return []string{
		"PATH=/bin", "HOME=/root", "TMPDIR=/tmp",
		"RAILYARD_VM=" + m.name,
		"RAILYARD_VM_KERNEL=" + string(m.kernel),
		"RAILYARD_VM_RDMA=" + m.rdma,
		"RAILYARD_TEST_PLUGIN=" + pluginPath,
	}
}

// commandLine is what the kernel is told. The mode is chosen as the module loads: later it can only be changed while there is no
// namespace but the first.
func (m machine) commandLine() []string {
	if m.rdma == "exclusive" {
		return []string{"ib_core.netns_mode=0"}
	}
	return nil
}

// modules are those that the guest loads, as far as the kernel has them: siw and netdevsim are built for 6.12. rxe up to 6.12 asks the kernel's crypto for crc32 by name.
func modules() []string {
	return []string{
		"crc32_generic", "ib_core", "ib_uverbs", "rdma_cm", "rdma_ucm", "ib_umad", "ib_ipoib", "rdma_rxe", "siw", "ryfab",
		"veth", "dummy", "macvlan", "ipvlan", "8021q", "bridge", "igb", "igbvf", "nvme", "netdevsim",
	}
}

// skips are the tests of a package that the machine leaves out.
func (m machine) skips(pkg string) []leftOut {
	return slices.DeleteFunc(slices.Clone(m.leaveOut), func(l leftOut) bool { return l.pkg != pkg })
}
