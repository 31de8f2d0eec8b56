//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/railyard-net/railyard/rdma"
	"github.com/railyard-net/railyard/rdma/topology"
)

// pciTree reads the machine's tree, which must be whole.
func pciTree(t testing.TB) *topology.Tree {
	t.Helper()
	tree, err := topology.Read(os.DirFS("/sys"))
	must(t, err)
	return tree
}

// gpus are the NVMe controllers that stand in for GPUs: gpu0 and gpu1 on node 0, gpu2 on node 1.
func gpus(t testing.TB) []topology.GPU {
	t.Helper()
	serials, err := filepath.Glob("/sys/class/nvme/*/serial")
	must(t, err)
	var out []topology.GPU
	for _, file := range serials {
		serial, err := os.ReadFile(file)
		must(t, err)
		dir, err := filepath.EvalSymlinks(filepath.Join(filepath.Dir(file), "device"))
		must(t, err)
		out = append(out, topology.GPU{Addr: rdma.BusAddr(filepath.Base(dir)), Name: strings.TrimSpace(string(serial))})
	}
	slices.SortFunc(out, func(a, b topology.GPU) int { return strings.Compare(a.Name, b.Name) })
	for i := range out {
		out[i].Rail = i
	}
	if len(out) != 3 {
		t.Fatalf("the machine has %d GPUs, want 3", len(out))
	}
	return out
}

func topologyNICs(t testing.TB) []topology.NIC {
	t.Helper()
	var out []topology.NIC
	for i, n := range nics(t) {
		out = append(out, topology.NIC{Addr: rdma.BusAddr(n.pci), Name: n.name, Rail: i, Speed: 1000})
	}
	return out
}

// The kernel's tree is that of test/vm/qemu/devices.go.
func TestTopologyTree(t *testing.T) {
	tree := pciTree(t)
	for i, n := range nics(t) {
		f, err := tree.Function(rdma.BusAddr(n.pci))
		must(t, err)
		if !f.IsNIC() || f.Vendor != 0x8086 || f.NUMA != i || f.CPUs != fmt.Sprint(i) || f.Port != topology.Endpoint {
			t.Errorf("NIC %d is %+v", i, f)
		}
		if f.IOMMUGroup >= 0 == noIOMMU(t, n.dir) {
			t.Errorf("NIC %d is in group %d", i, f.IOMMUGroup)
		}
		var ports []topology.Port
		for _, addr := range f.Above {
			b, err := tree.Function(addr)
			must(t, err)
			ports = append(ports, b.Port)
			if b.Port == topology.RootPort && b.ACS.Presence == topology.Unknown {
				t.Errorf("%s: root reads all of the configuration space, and ACS is not known", addr)
			}
			if b.Root != f.Root || b.NUMA != i {
				t.Errorf("%s is at %s, node %d; want %s, %d", addr, b.Root, b.NUMA, f.Root, i)
			}
		}
		if want := []topology.Port{topology.Downstream, topology.Upstream, topology.RootPort}; !slices.Equal(ports, want) {
			t.Errorf("above NIC %d are %v, want %v", i, ports, want)
		}
		if f.Link.Width == 0 || f.Link.Rate == 0 || f.Link.MaxWidth == 0 || f.Link.MaxRate == 0 {
			t.Errorf("the link of NIC %d is %+v", i, f.Link)
		}
	}
}

func noIOMMU(t testing.TB, dir string) bool {
	t.Helper()
	_, err := os.Lstat(filepath.Join(dir, "iommu_group"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return err != nil
}

func TestTopologyPaths(t *testing.T) {
	tree, gpus, nics := pciTree(t), gpus(t), topologyNICs(t)
	want := [][]topology.Class{
		{topology.PIX, topology.SYS}, // on the NIC's switch
		{topology.PHB, topology.SYS}, // under a root port of its own
		{topology.SYS, topology.PIX},
	}
	for i, g := range gpus {
		for j, n := range nics {
			if p, err := tree.GPUPath(g, n.Addr); err != nil || p.Class != want[i][j] {
				t.Errorf("%s to NIC %d is %v, %v; want %v", g.Name, j, p, err, want[i][j])
			}
		}
	}
	var text strings.Builder
	must(t, tree.WriteMatrix(&text, gpus, nics))
	t.Logf("\n%s", &text)
}

func TestTopologyPair(t *testing.T) {
	tree, gpus, nics := pciTree(t), gpus(t), topologyNICs(t)
	pairs, err := tree.Pair(gpus, nics, topology.Limits{})
	must(t, err)
	var got []string
	for _, p := range pairs {
		got = append(got, fmt.Sprintf("%s %d %v", p.GPU.Name, p.NIC.Rail, p.Path.Class))
	}
	if want := []string{"gpu0 0 PIX", "gpu2 1 PIX"}; !slices.Equal(got, want) {
		t.Errorf("pairs %v, want %v", got, want)
	}
	if pairs, err = tree.Pair(gpus[1:2], nics, topology.Limits{}); err != nil || len(pairs) != 1 || pairs[0].NIC.Rail != 0 {
		t.Errorf("gpu1 alone: %v, %v; want the NIC of its node", pairs, err)
	}
}

// Virtual functions come and go, and are where their physical function is.
func TestTopologyVirtual(t *testing.T) {
	n := nics(t)[0]
	vfs := n.virtual(t, 2)
	tree := pciTree(t)
	pf, err := tree.Function(rdma.BusAddr(n.pci))
	must(t, err)
	var want []rdma.BusAddr
	for _, v := range vfs {
		want = append(want, rdma.BusAddr(v.pci))
		if f, err := tree.Function(rdma.BusAddr(v.pci)); err != nil || f.PhysFn != pf.Addr {
			t.Errorf("%s is a function of %q, %v", v.pci, f.PhysFn, err)
		}
		if p, err := tree.GPUPath(gpus(t)[0], rdma.BusAddr(v.pci)); err != nil || p.Class != topology.PIX {
			t.Errorf("gpu0 to %s is %v, %v; want PIX", v.pci, p, err)
		}
	}
	if !slices.Equal(pf.VirtFns, want) {
		t.Errorf("virtual functions %v, want %v", pf.VirtFns, want)
	}
}
