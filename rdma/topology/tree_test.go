// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/rdma"
)

const server = `
pci0000:3a numa=1 cpus=16-31
  0000:3a:00.0 root acs=0 link=x16@32/x16@32
    0000:3b:00.0 up link=x16@32/x16@32
      0000:3c:00.0 down acs=1d link=x16@32/x16@32
        0000:3d:00.0 nic NIC0 ats=on group=7 link=x8@32/x16@32
        0000:3d:00.2 vf VF0 of=0000:3d:00.0 group=8
        0000:3d:00.3 vf VF1 of=0000:3d:00.0 group=9
      0000:3c:01.0 down acs=1 link=x16@16/x16@64
        0000:3e:00.0 gpu GPU0 ats=off link=x16@16/x16@64
  0000:3a:01.0 root
    0000:3f:00.0 pci
      0000:40:00.0 other
pci10000:e0
  10000:e0:00.0 other
`

func TestFunction(t *testing.T) {
	tree := draw(t, server).read(t)
	for addr, want := range map[rdma.BusAddr]Function{
		"0000:3d:00.0": {
			Addr: "0000:3d:00.0", Vendor: 0x15b3, Device: 0x101d, Code: 0x020000,
			Root: "pci0000:3a", Above: []rdma.BusAddr{"0000:3c:00.0", "0000:3b:00.0", "0000:3a:00.0"},
			NUMA: 1, CPUs: "16-31", IOMMUGroup: 7, Link: Link{32000, 32000, 8, 16},
			ACS: ACS{Presence: Absent}, ATS: ATS{Present, true},
			VirtFns: []rdma.BusAddr{"0000:3d:00.2", "0000:3d:00.3"},
		},
		"0000:3d:00.3": {
			Addr: "0000:3d:00.3", Vendor: 0x15b3, Device: 0x101e, Code: 0x020000,
			Root: "pci0000:3a", Above: []rdma.BusAddr{"0000:3c:00.0", "0000:3b:00.0", "0000:3a:00.0"},
			NUMA: 1, CPUs: "16-31", IOMMUGroup: 9, PhysFn: "0000:3d:00.0",
		},
		"0000:3c:00.0": {
			Addr: "0000:3c:00.0", Vendor: 0x1000, Device: 0xc010, Code: 0x060400, Port: Downstream,
			Root: "pci0000:3a", Above: []rdma.BusAddr{"0000:3b:00.0", "0000:3a:00.0"},
			NUMA: 1, CPUs: "16-31", IOMMUGroup: -1, Link: Link{32000, 32000, 16, 16},
			ACS: ACS{Present, 0x5f, 0x1d}, ATS: ATS{Presence: Absent},
		},
		"10000:e0:00.0": {
			Addr: "10000:e0:00.0", Vendor: 0x144d, Device: 0xa80a, Code: 0x010802, Root: "pci10000:e0",
			NUMA: -1, IOMMUGroup: -1, ACS: ACS{Presence: Absent}, ATS: ATS{Presence: Absent},
		},
	} {
		got, err := tree.Function(addr)
		if diff := gocmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", addr, err, diff)
		}
	}
	for addr, want := range map[rdma.BusAddr]Port{
		"0000:3a:00.0": RootPort, "0000:3b:00.0": Upstream, "0000:3c:01.0": Downstream, "0000:3f:00.0": Bridge, "0000:40:00.0": Endpoint,
	} {
		if f, err := tree.Function(addr); f.Port != want || err != nil {
			t.Errorf("%s is %v, %v; want %v", addr, f.Port, err, want)
		}
	}
	if _, err := tree.Function("0000:99:00.0"); !errors.Is(err, rdma.ErrNotFound) {
		t.Errorf("a function that is not there: %v", err)
	}
}

// What is returned is the caller's: changing it changes nothing.
func TestFunctionsAreCopies(t *testing.T) {
	tree := draw(t, server).read(t)
	first := tree.Functions()
	if !slices.IsSortedFunc(first, func(a, b Function) int { return compareAddrs(a.Addr, b.Addr) }) || first[len(first)-1].Addr != "10000:e0:00.0" {
		t.Errorf("the functions are in the order %v", first)
	}
	want := tree.Functions()
	for i := range first {
		clear(first[i].Above)
		clear(first[i].VirtFns)
	}
	if diff := gocmp.Diff(want, tree.Functions()); diff != "" {
		t.Errorf("the tree changed (-before +after):\n%s", diff)
	}
}

// Without privilege the ports follow from the places, and so do the classes.
func TestUnprivileged(t *testing.T) {
	short := strings.ReplaceAll(server, " root", " root x config=64")
	for _, kind := range []string{" up", " down"} {
		short = strings.ReplaceAll(short, kind, kind+" x config=64")
	}
	whole, tree := draw(t, server).read(t), draw(t, short).read(t)
	for _, f := range whole.Functions() {
		got, err := tree.Function(f.Addr)
		if err != nil || got.Port != f.Port {
			t.Errorf("%s is %v, %v; want %v", f.Addr, got.Port, err, f.Port)
		}
		if f.IsBridge() && f.Port != Bridge && got.ACS.Presence != Unknown {
			t.Errorf("%s: ACS is %+v, which nobody could read", f.Addr, got.ACS)
		}
	}
	p, err := tree.Path("0000:3d:00.0", "0000:3e:00.0")
	if want := (Path{Class: PIX, Hops: 3, MayRedirect: []rdma.BusAddr{"0000:3c:00.0", "0000:3c:01.0"}}); err != nil || !gocmp.Equal(p, want) {
		t.Errorf("%+v, %v; want %+v", p, err, want)
	}
}

func TestHalfReadable(t *testing.T) {
	const nic = "0000:3d:00.0"
	at := "devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0/0000:3c:00.0/" + nic
	for name, tt := range map[string]struct {
		damage    func(m *machine)
		check     func(f Function) bool // of the NIC
		wantErr   string
		wantErrno error
	}{
		"class refused": {
			func(m *machine) { m.file(at+"/class", refuses(syscall.EIO)) },
			func(f Function) bool { return f.Code == 0 && f.Vendor == mellanox },
			"PCI function 0000:3d:00.0: read bus/pci/devices/0000:3d:00.0/class: input/output error", syscall.EIO,
		},
		"NUMA node damaged": {
			func(m *machine) { m.file(at+"/numa_node", "one\n") },
			func(f Function) bool { return f.NUMA == -1 && f.IOMMUGroup == 7 },
			`PCI function 0000:3d:00.0: bus/pci/devices/0000:3d:00.0/numa_node holds "one", not a number of 32 bits`, nil,
		},
		"speed damaged": {
			func(m *machine) { m.file(at+"/current_link_speed", "fast\n") },
			func(f Function) bool { return f.Link == Link{0, 32000, 8, 16} },
			`PCI function 0000:3d:00.0: bus/pci/devices/0000:3d:00.0/current_link_speed holds "fast", not the speed of a link`, nil,
		},
		"configuration refused": {
			func(m *machine) { m.file(at+"/config", refuses(syscall.EPERM)) },
			func(f Function) bool { return f.ACS == ACS{} && f.ATS == ATS{} && f.CPUs == "16-31" },
			"PCI function 0000:3d:00.0: read bus/pci/devices/0000:3d:00.0/config: operation not permitted", syscall.EPERM,
		},
		"configuration missing": {
			func(m *machine) { delete(m.sysfs, at+"/config") },
			func(f Function) bool { return f.ACS == ACS{} && f.ATS == ATS{} }, "", nil,
		},
		"nothing but its place": {
			func(m *machine) {
				for name := range m.sysfs {
					if path.Dir(name) == at {
						delete(m.sysfs, name)
					}
				}
			},
			func(f Function) bool {
				return f.NUMA == -1 && f.IOMMUGroup == -1 && f.Root == "pci0000:3a" && len(f.Above) == 3
			}, "", nil,
		},
		"group of no number": {
			func(m *machine) { m.link(at+"/iommu_group", "kernel/iommu_groups/x") },
			func(f Function) bool { return f.IOMMUGroup == -1 },
			`PCI function 0000:3d:00.0: bus/pci/devices/0000:3d:00.0/iommu_group leads to "x", which is no number of a group`, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := draw(t, server)
			whole := len(m.read(t).functions)
			tt.damage(m)
			tree, err := Read(m)
			if (err == nil) != (tt.wantErr == "") || err != nil && err.Error() != tt.wantErr {
				t.Errorf("error %v, want %s", err, tt.wantErr)
			}
			var of *FunctionError
			if err != nil && (!errors.As(err, &of) || of.Addr != nic) {
				t.Errorf("the error does not say whose it is: %#v", err)
			}
			if tt.wantErrno != nil && !errors.Is(err, tt.wantErrno) {
				t.Errorf("the error hides %v", tt.wantErrno)
			}
			f, err := tree.Function(nic)
			if err != nil || !tt.check(f) || len(tree.functions) != whole {
				t.Errorf("%+v, %v, of %d functions", f, err, len(tree.functions))
			}
			if p, err := tree.Path(nic, "0000:3e:00.0"); p.Class != PIX || err != nil {
				t.Errorf("its place is %v, %v; want PIX from the GPU", p, err)
			}
		})
	}
}

// A bridge whose folder leads nowhere is not in the tree; what is below keeps its place, and the class.
func TestUnreadableBridge(t *testing.T) {
	m := draw(t, server)
	for _, addr := range []string{"0000:3b:00.0", "0000:3c:00.0"} {
		m.sysfs[path.Join(devices, addr)] = &fstest.MapFile{Mode: fs.ModeSymlink, Data: []byte("../../../nowhere/" + addr)}
	}
	tree, err := Read(m)
	if err == nil || !strings.Contains(err.Error(), "0000:3b:00.0") || !strings.Contains(err.Error(), "0000:3c:00.0") {
		t.Errorf("error %v; want one that names both", err)
	}
	p, err := tree.Path("0000:3d:00.0", "0000:3e:00.0")
	if want := (Path{Class: PIX, Hops: 3, MayRedirect: []rdma.BusAddr{"0000:3c:00.0"}}); err != nil || !gocmp.Equal(p, want) {
		t.Errorf("%+v, %v; want %+v", p, err, want)
	}
}

func TestReadNothing(t *testing.T) {
	if tree, err := Read(sysfs{}); err != nil || len(tree.Functions()) != 0 {
		t.Errorf("a machine without PCI: %v, %v", tree, err)
	}
	tree, err := Read(sysfs{devices: {Data: []byte("no folder")}})
	if err == nil || tree == nil || len(tree.Functions()) != 0 {
		t.Errorf("no folder: %v, %v; want an empty tree and an error", tree, err)
	}
}

// leaving is a sysfs whose function goes while it is read.
type leaving struct {
	*machine
	addr string
}

func (l leaving) Lstat(name string) (fs.FileInfo, error) {
	if name == path.Join(devices, l.addr) {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrNotExist}
	}
	return l.machine.Lstat(name)
}

func TestReadLeaving(t *testing.T) {
	m := draw(t, server)
	m.file("devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0/0000:3c:01.0/0000:3e:00.0/class", refuses(syscall.ENODEV))
	tree, err := Read(leaving{m, "0000:3e:00.0"})
	if err != nil {
		t.Errorf("a function that went: %v", err)
	}
	if _, err := tree.Function("0000:3e:00.0"); !errors.Is(err, rdma.ErrNotFound) {
		t.Errorf("half of it is still there: %v", err)
	}
}

func TestPlace(t *testing.T) {
	for target, want := range map[string]struct {
		root  string
		above []rdma.BusAddr
	}{
		"../../../devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0":                                    {"pci0000:3a", []rdma.BusAddr{"0000:3a:00.0"}},
		"../../../devices/pci0000:00/0000:3b:00.0":                                                 {"pci0000:00", nil},
		"../../../devices/platform/40000000.pcie/pci0008:00/0008:00:00.0/0000:3b:00.0":             {"pci0008:00", []rdma.BusAddr{"0008:00:00.0"}},
		"../../../devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00/8a/pci8a00:00/0000:3b:00.0": {"pci8a00:00", nil},
		"../../../devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:01.0/0000:3b:00.0":          {"pci10000:e0", []rdma.BusAddr{"10000:e0:01.0"}},
		"../../../devices/pci0000:3a/0000:3a:00.0":                                                 {},
		"../../../devices/virtual/0000:3b:00.0":                                                    {},
		"../../../devices/pci0000:3a":                                                              {},
		"0000:3b:00.0":                                                                             {},
		"":                                                                                         {},
		"../../../devices/pci3a/x/0000:3b:00.0":                                                    {},
		"../../../devices/pci0000:3a/x/0000:3b:00.0":                                               {},
	} {
		root, above, err := place(target, "0000:3b:00.0")
		if root != want.root || !slices.Equal(above, want.above) || (err == nil) != (want.root != "") {
			t.Errorf("%s: %s, %v, %v; want %v", target, root, above, err, want)
		}
	}
}

func TestDegraded(t *testing.T) {
	tree := draw(t, server).read(t)
	for addr, want := range map[rdma.BusAddr]struct {
		able string
		bad  bool
	}{
		"0000:3d:00.0":  {"x16 32 GT/s", true},  // eight lanes of sixteen
		"0000:3e:00.0":  {"x16 64 GT/s", true},  // a quarter of the speed of both ends
		"0000:3c:00.0":  {"x16 32 GT/s", false}, // as good as can be
		"0000:3d:00.2":  {"unknown", false},     // a virtual function has no link
		"10000:e0:00.0": {"unknown", false},
	} {
		able, bad, err := tree.Degraded(addr)
		if able.Width = able.MaxWidth; able.String() != want.able && want.able != "unknown" || bad != want.bad || err != nil {
			t.Errorf("%s: %v, %v, %v; want %v", addr, able, bad, err, want)
		}
	}
	// A slot that can do no more is no fault of what is in it.
	old := draw(t, strings.Replace(server, "down acs=1d link=x16@32/x16@32", "down acs=1d link=x8@32/x8@32", 1)).read(t)
	if able, bad, err := old.Degraded("0000:3d:00.0"); bad || err != nil || able.MaxWidth != 8 {
		t.Errorf("in a slot of eight lanes: %v, %v, %v", able, bad, err)
	}
	// One end is enough to know.
	for _, link := range []string{"acs=1d link=x16@32/x16@32", "link=x8@32/x16@32"} {
		half := draw(t, strings.Replace(server, link, "", 1)).read(t)
		if able, _, err := half.Degraded("0000:3d:00.0"); err != nil || able.MaxWidth != 16 || able.MaxRate != 32000 {
			t.Errorf("without %s: %+v, %v", link, able, err)
		}
	}
	if _, _, err := tree.Degraded("0000:99:00.0"); !errors.Is(err, rdma.ErrNotFound) {
		t.Errorf("a function that is not there: %v", err)
	}
}

func TestLinkAttributes(t *testing.T) {
	for text, want := range map[string]Rate{
		"32.0 GT/s PCIe\n": 32000, "2.5 GT/s PCIe\n": 2500, "8 GT/s\n": 8000, "Unknown\n": 0, "Unknown speed\n": 0,
	} {
		l := &look{sys: sysfs{"d/f": {Data: []byte(text)}}, dir: "d"}
		if got := l.rate("f"); got != want || len(l.errs) > 0 {
			t.Errorf("%q: %v, %v; want %v", text, got, l.errs, want)
		}
	}
	for _, text := range []string{"", "GT/s", "-1 GT/s", "NaN GT/s", "1e9 GT/s", "8 MB/s"} {
		l := &look{sys: sysfs{"d/f": {Data: []byte(text)}}, dir: "d"}
		if got := l.rate("f"); got != 0 || len(l.errs) != 1 {
			t.Errorf("%q: %v, %v; want an error", text, got, l.errs)
		}
	}
	for text, want := range map[string]int{"16\n": 16, "0\n": 0, "255\n": 0} {
		l := &look{sys: sysfs{"d/f": {Data: []byte(text)}}, dir: "d"}
		if got := l.width("f"); got != want || len(l.errs) > 0 {
			t.Errorf("%q lanes: %v, %v; want %v", text, got, l.errs, want)
		}
	}
}

func TestPathRedirects(t *testing.T) {
	tree := draw(t, server).read(t)
	for name, tt := range map[string]struct {
		a, b rdma.BusAddr
		want Path
	}{
		"over a port that redirects": {"0000:3d:00.0", "0000:3e:00.0", Path{Class: PIX, Hops: 3, Redirects: []rdma.BusAddr{"0000:3c:00.0"}}},
		"virtual function":           {"0000:3d:00.3", "0000:3e:00.0", Path{Class: PIX, Hops: 3, Redirects: []rdma.BusAddr{"0000:3c:00.0"}}},
		"virtual and physical":       {"0000:3d:00.3", "0000:3d:00.0", Path{Class: PIX, Hops: 1}},
		"itself":                     {"0000:3d:00.0", "0000:3d:00.0", Path{}},
		"host bridge":                {"0000:3d:00.0", "0000:40:00.0", Path{Class: PHB, Hops: 5}},
		"domains":                    {"0000:3d:00.0", "10000:e0:00.0", Path{Class: SYS, Hops: 3}},
	} {
		got, err := tree.Path(tt.a, tt.b)
		if err != nil || !gocmp.Equal(got, tt.want) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, tt.want)
		}
	}
	for _, pair := range [][2]rdma.BusAddr{{"0000:99:00.0", "0000:3d:00.0"}, {"0000:3d:00.0", "0000:99:00.0"}} {
		if _, err := tree.Path(pair[0], pair[1]); !errors.Is(err, rdma.ErrNotFound) {
			t.Errorf("%v: %v", pair, err)
		}
	}
}

// Vital product data is read where it is needed, and what can't be read is told.
func TestDataDirectUnreadable(t *testing.T) {
	const nic, dma = "0000:02:00.0", "0001:02:00.0"
	const drawing = `
pci0000:00 numa=0
  0000:00:00.0 root
    0000:02:00.0 nic NIC0 card=s
pci0001:00 numa=0
  0001:00:00.0 root
    0001:01:00.0 up
      0001:03:00.0 down
        0001:02:00.0 dma DMA0 card=s
      0001:03:01.0 down
        0001:04:00.0 gpu GPU0
`
	m := draw(t, drawing)
	p, err := m.read(t).GPUPath(m.gpus[0], nic)
	if err != nil || p.Class != PIX || p.DataDirect != dma {
		t.Errorf("%+v, %v; want PIX by %s", p, err, dma)
	}
	m.file(path.Join(m.places[nic], "vpd"), refuses(syscall.EACCES))
	tree, err := Read(m)
	var of *FunctionError
	if !errors.As(err, &of) || of.Addr != nic || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("error %v; want one of %s", err, nic)
	}
	if p, err := tree.GPUPath(m.gpus[0], nic); err != nil || p.Class != NODE || p.DataDirect != "" {
		t.Errorf("%+v, %v; want NODE", p, err)
	}
	// Without a function for it, nobody looks.
	m = draw(t, strings.ReplaceAll(drawing, "dma DMA0", "other X"))
	m.file(path.Join(m.places[nic], "vpd"), refuses(syscall.EACCES))
	m.read(t)
}

// A function beside a switch, on the same link, has no port of a switch at its turning point.
func TestPathBesideSwitch(t *testing.T) {
	tree := draw(t, `
pci0000:00
  0000:00:00.0 root
    0000:01:00.0 up x config=64
      0000:02:00.0 down
        0000:03:00.0 nic NIC0
    0000:01:00.1 other
`).read(t)
	for _, pair := range [][2]rdma.BusAddr{{"0000:01:00.1", "0000:03:00.0"}, {"0000:03:00.0", "0000:01:00.1"}} {
		p, err := tree.Path(pair[0], pair[1])
		if want := (Path{Class: PXB, Hops: 3}); err != nil || !gocmp.Equal(p, want) {
			t.Errorf("%v: %+v, %v; want %+v", pair, p, err, want)
		}
	}
}

// The processor of a GPU is that of its root port, whatever node the functions below that are said to be of.
func TestC2CBelowSwitch(t *testing.T) {
	m := draw(t, `
pci0000:00 numa=0
  0000:00:00.0 root
    0000:01:00.0 nic NIC0
pci0001:00 numa=2
  0001:00:00.0 root x numa=0
    0001:01:00.0 up
      0001:02:00.0 down
        0001:03:00.0 gpu GPU0 c2c
`)
	if p, err := m.read(t).GPUPath(m.gpus[0], m.nics[0].Addr); err != nil || p.Class != P2C {
		t.Errorf("%v, %v; want P2C", p, err)
	}
}

// Of two ways of one class the shorter is taken.
func TestDataDirectNearer(t *testing.T) {
	m := draw(t, `
pci0000:00 numa=0
  0000:00:00.0 root
    0000:01:00.0 gpu GPU0
pci0001:00 numa=0
  0001:00:00.0 root
    0001:01:00.0 up
      0001:02:00.0 down
        0001:03:00.0 nic NIC0 card=s
  0001:00:01.0 root
    0001:04:00.0 dma DMA0 card=s
`)
	if p, err := m.read(t).GPUPath(m.gpus[0], m.nics[0].Addr); err != nil || p.Class != NODE || p.Hops != 2 || p.DataDirect != "0001:04:00.0" {
		t.Errorf("%+v, %v; want NODE by the DMA function", p, err)
	}
}
