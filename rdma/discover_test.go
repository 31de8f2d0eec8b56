// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func theCard() []Device {
	return []Device{
		{Name: "mlx5_0", Bus: "0000:3b:00.0", NodeGUID: 0xb83fd20300aabb00, NUMA: 1, Ports: port1(Ethernet, StateActive, "ens1f0np0"), CharDevs: chars(0)},
		{Name: "mlx5_1", Bus: "0000:3b:00.1", NodeGUID: 0xb83fd20300aabb01, NUMA: 1, Ports: port1(Ethernet, StateActive, "ens1f1np1"), CharDevs: chars(1)},
		{Name: "mlx5_2", Bus: "0000:3b:00.2", NUMA: 1, Ports: port1(Ethernet, StateDown, "ens1f0v0"), CharDevs: chars(2)},
	}
}

type discovery struct {
	make func(tree)
	want []Device
}

func discoveries() map[string]discovery {
	const ib = "devices/pci0000:17/0000:17:00.0"
	return map[string]discovery{
		"no RDMA":                   {make: func(t tree) { t.netdev("", "lo", 0) }},
		"RDMA and no device":        {make: func(t tree) { t.mkdir("class/infiniband"); t.mkdir("class/misc/rdma_cm") }},
		"a card with a VF in a pod": {make: func(t tree) { t.card([2]string{"mlx5_0", "mlx5_1"}) }, want: theCard()},
		"InfiniBand, two ports": {
			make: func(t tree) {
				t.function(ib, "-1")
				t.netdev(ib, "ibs1", 0)
				t.netdev(ib, "ibs1.8001", 0)
				t.netdev(ib, "ibs1d1", 1)
				dir := t.rdma(ib, "mlx4_0", "0002:c903:0030:8e52")
				t.port(dir, 1, InfiniBand, active, 1, map[int][3]string{0: {"fe80:0000:0000:0000:0002:c903:0030:8e53", v1, refuses(syscall.EINVAL)}})
				t.port(dir, 2, InfiniBand, "2: INIT", 1, nil)
			},
			want: []Device{{Name: "mlx4_0", Bus: "0000:17:00.0", NodeGUID: 0x0002c90300308e52, NUMA: -1, Ports: []Port{
				{Number: 1, LinkLayer: InfiniBand, State: StateActive, NetDevs: []string{"ibs1", "ibs1.8001"}},
				{Number: 2, LinkLayer: InfiniBand, State: StateInit, NetDevs: []string{"ibs1d1"}},
			}}},
		},
		"a subfunction": {
			make: func(t tree) {
				t.function(pf0, "1")
				t.function(pf0+"/mlx5_core.sf.4", "")
				t.netdev(pf0+"/mlx5_core.sf.4", "enp59s0f0s88", 0)
				t.port(t.rdma(pf0+"/mlx5_core.sf.4", "mlx5_4", "0000:00ff:fe00:0088"), 1, Ethernet, active, 2, nil)
			},
			want: []Device{{Name: "mlx5_4", Bus: "mlx5_core.sf.4", NodeGUID: 0x000000fffe000088, NUMA: 1, Ports: port1(Ethernet, StateActive, "enp59s0f0s88")}},
		},
		"two devices on one function": {
			make: func(t tree) {
				t.function(pf0, "0")
				t.port(t.rdma(pf0, "mlx5_1", "0000:0000:0000:0002"), 1, InfiniBand, active, 1, nil)
				t.port(t.rdma(pf0, "mlx5_0", "0000:0000:0000:0001"), 1, InfiniBand, active, 1, nil)
			},
			want: []Device{
				{Name: "mlx5_0", Bus: "0000:3b:00.0", NodeGUID: 1, Ports: port1(InfiniBand, StateActive)},
				{Name: "mlx5_1", Bus: "0000:3b:00.0", NodeGUID: 2, Ports: port1(InfiniBand, StateActive)},
			},
		},
		"a bond in RoCE LAG": {
			make: lag,
			want: []Device{{Name: "mlx5_bond_0", Bus: "0000:3b:00.0", NodeGUID: 0xb83fd20300aabb00, NUMA: 1, Ports: port1(Ethernet, StateActive, "bond0")}},
		},
		"soft RoCE": {
			make: soft,
			want: []Device{{Name: "rxe0", Parent: "eth0", Node: NodeCA, NodeGUID: 0x505400fffe123456, NUMA: -1, Ports: port1(Ethernet, StateActive, "eth0")}},
		},
		"soft iWARP, on an interface of a pod": {
			make: func(t tree) { softIWARP(t, "net1") },
			want: []Device{{Name: "siw0", Parent: "net1", Node: NodeRNIC, NodeGUID: 0x505400fffe123456, NUMA: -1, Ports: port1(Ethernet, StateActive, "net1")}},
		},
		"soft iWARP of a kernel that does not say on what": {
			make: func(t tree) { softIWARP(t, refuses(syscall.EINVAL)) },
			want: []Device{{Name: "siw0", Node: NodeRNIC, NodeGUID: 0x505400fffe123456, NUMA: -1, Ports: port1(Ethernet, StateActive)}},
		},
	}
}

func TestDiscover(t *testing.T) {
	for name, test := range discoveries() {
		t.Run(name, func(t *testing.T) {
			sys := tree{}
			test.make(sys)
			got, err := Discover(sys)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("devices (-want +got):\n%s", diff)
			}
			for _, d := range test.want {
				at, err := DiscoverAt(sys, d.Bus)
				if err != nil {
					t.Error(err)
				}
				if diff := cmp.Diff(Of(test.want, d.Bus), at, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("devices at %s (-want +got):\n%s", d.Bus, diff)
				}
			}
		})
	}
}

// lag is a card with its ports in a bond: one device for both, on the first function.
func lag(t tree) {
	for i, place := range []string{pf0, pf1} {
		name := [...]string{"ens1f0np0", "ens1f1np1"}[i]
		t.function(place, "1")
		t.netdev(place, name, 0)
		t.link("devices/virtual/net/bond0/lower_"+name, netPath(place, name))
	}
	t.netdev("", "bond0", 0)
	t.netdev("", "bond0.100", 0)
	t.link("devices/virtual/net/bond0.100/lower_bond0", "devices/virtual/net/bond0")
	dir := t.rdma(pf0, "mlx5_bond_0", "b83f:d203:00aa:bb00")
	t.port(dir, 1, Ethernet, active, 4, map[int][3]string{0: {"fe80:0000:0000:0000:ba3f:d2ff:feaa:bb00", v1, "bond0"}})
}

func netPath(place, netdev string) string { return filepath.Join(place, "net", netdev) }

func soft(t tree) {
	t.netdev("", "eth0", 0)
	dir := t.rdma("", "rxe0", "5054:00ff:fe12:3456")
	t.files(dir, map[string]string{"parent": "eth0\n", "node_type": "1: CA\n"})
	t.port(dir, 1, Ethernet, active, 1024, map[int][3]string{
		0:    {"fe80:0000:0000:0000:5054:00ff:fe12:3456", v2, "eth0"},
		1:    {"0000:0000:0000:0000:0000:ffff:c0a8:0102", v2, "eth0"},
		1023: {"fd00:0000:0000:0000:0000:0000:0000:0002", v2, "eth0"},
	})
}

// softIWARP has one GID, the hardware address of its interface.
func softIWARP(t tree, netdev string) {
	dir := t.rdma("", "siw0", "5054:00ff:fe12:3456")
	t.file(dir+"/node_type", "4: RNIC\n")
	t.port(dir, 1, Ethernet, active, 1, map[int][3]string{0: {"5254:0012:3456:0000:0000:0000:0000:0000", v1, netdev}})
}

func TestRoCE(t *testing.T) {
	port := func(l LinkLayer) Port { return Port{Number: 1, LinkLayer: l} }
	for name, tt := range map[string]struct {
		node NodeType
		port Port
		want bool
	}{
		"RoCE":                      {NodeCA, port(Ethernet), true},
		"a kernel that doesn't say": {0, port(Ethernet), true},
		"iWARP":                     {NodeRNIC, port(Ethernet), false},
		"InfiniBand":                {NodeCA, port(InfiniBand), false},
		"another network":           {6, port("Unknown"), false},
	} {
		if got := (Device{Node: tt.node}).RoCE(tt.port); got != tt.want {
			t.Errorf("%s: %t, want %t", name, got, tt.want)
		}
	}
}

// TestDiscoverDisk reads the same through the links of a real file system.
func TestDiscoverDisk(t *testing.T) {
	sys := tree{}
	sys.card([2]string{"mlx5_0", "mlx5_1"})
	dir := t.TempDir()
	if err := os.CopyFS(dir, sys); err == nil {
		t.Fatal("want the error of the files that can't be read")
	}
	for name, f := range sys {
		if strings.HasPrefix(string(f.Data), "\x00") {
			delete(sys, name)
		}
	}
	dir = t.TempDir()
	if err := os.CopyFS(dir, sys); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, disk := range map[string]fs.FS{"DirFS": os.DirFS(dir), "Root": root.FS()} {
		got, err := Discover(disk)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(theCard(), got); diff != "" {
			t.Errorf("devices by %s (-want +got):\n%s", name, diff)
		}
	}
}

// TestNamesSwapped finds the same hardware after the names have changed places.
func TestNamesSwapped(t *testing.T) {
	before, after := tree{}, tree{}
	before.card([2]string{"mlx5_0", "mlx5_1"})
	after.card([2]string{"mlx5_1", "mlx5_0"})
	was, err := Discover(before)
	if err != nil {
		t.Fatal(err)
	}
	is, err := Discover(after)
	if err != nil {
		t.Fatal(err)
	}
	for _, bus := range []BusAddr{"0000:3b:00.0", "0000:3b:00.1"} {
		a, b := Of(was, bus), Of(is, bus)
		if len(a) != 1 || len(b) != 1 {
			t.Fatalf("%s has %d devices, then %d", bus, len(a), len(b))
		}
		if a[0].Name == b[0].Name || a[0].NodeGUID != b[0].NodeGUID || !cmp.Equal(a[0].Ports, b[0].Ports) {
			t.Errorf("%s was %+v, is %+v", bus, a[0], b[0])
		}
	}
}

func TestDiscoverDamaged(t *testing.T) {
	const dir = pf0 + "/infiniband/mlx5_0"
	tests := map[string]struct {
		damage func(tree)
		want   string // part of the error; all of them name the device
	}{
		"GUID":           {func(t tree) { t.file(dir+"/node_guid", "b83f:d203\n") }, "node_guid"},
		"no GUID":        {func(t tree) { delete(t, dir+"/node_guid") }, "node_guid"},
		"GUID unread":    {func(t tree) { t.file(dir+"/node_guid", refuses(syscall.EIO)) }, "node_guid"},
		"state":          {func(t tree) { t.file(dir+"/ports/1/state", "ACTIVE\n") }, "ports/1/state"},
		"state unread":   {func(t tree) { t.file(dir+"/ports/1/state", refuses(syscall.EINVAL)) }, "ports/1/state"},
		"no link layer":  {func(t tree) { delete(t, dir+"/ports/1/link_layer") }, "ports/1/link_layer"},
		"port":           {func(t tree) { t.mkdir(dir + "/ports/one") }, "ports"},
		"first GID":      {func(t tree) { t.file(dir+"/ports/1/gid_attrs/ndevs/0", refuses(syscall.EIO)) }, "ndevs/0"},
		"NUMA node":      {func(t tree) { t.file(pf0+"/numa_node", "near\n") }, "numa_node"},
		"NUMA unread":    {func(t tree) { t.file(pf0+"/numa_node", refuses(syscall.EIO)) }, "numa_node"},
		"link elsewhere": {func(t tree) { t.link("class/infiniband/mlx5_0", "../outside") }, "class/infiniband/mlx5_0"},
		"no link":        {func(t tree) { delete(t, "class/infiniband/mlx5_0"); t.mkdir("class/infiniband/mlx5_0") }, "class/infiniband/mlx5_0"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			sys := tree{}
			sys.card([2]string{"mlx5_0", "mlx5_1"})
			test.damage(sys)
			got, err := Discover(sys)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "rdma device mlx5_0: ") {
				t.Errorf("got the error %v, want one on mlx5_0 and %s", err, test.want)
			}
			if diff := cmp.Diff(theCard()[1:], got); diff != "" {
				t.Errorf("the others (-want +got):\n%s", diff)
			}
		})
	}
}

// vanishing loses a device on the first look at its GUID.
type vanishing struct{ tree }

func (v vanishing) Open(name string) (fs.File, error) {
	if strings.HasSuffix(name, "mlx5_0/node_guid") {
		delete(v.tree, "class/infiniband/mlx5_0")
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return v.tree.Open(name)
}

func TestDiscoverVanishing(t *testing.T) {
	sys := tree{}
	sys.card([2]string{"mlx5_0", "mlx5_1"})
	got, err := Discover(vanishing{sys})
	if err != nil || len(got) != 2 {
		t.Errorf("got %+v, %v, want the other two and no error", got, err)
	}
}

func TestDiscoverNoLinks(t *testing.T) {
	sys := tree{}
	sys.card([2]string{"mlx5_0", "mlx5_1"})
	if _, err := Discover(struct{ fs.FS }{sys}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("got %v, want an error that tells of links", err)
	}
}

func TestCharDevs(t *testing.T) {
	sys := tree{}
	sys.card([2]string{"mlx5_0", "mlx5_1"})
	delete(sys, "class/infiniband/mlx5_1") // moved to another namespace
	got, err := CharDevsOf(sys, "mlx5_1")
	if diff := cmp.Diff(chars(1), got); diff != "" || err != nil {
		t.Errorf("%v, character devices (-want +got):\n%s", err, diff)
	}
	sys.file("class/infiniband_verbs/uverbs0/ibdev", refuses(syscall.ENODEV)) // going away
	if got, err := CharDevsOf(sys, "mlx5_0"); err != nil || got.Verbs != "" {
		t.Errorf("got %+v, %v", got, err)
	}
	sys.file("class/infiniband_verbs/uverbs0/ibdev", refuses(syscall.EIO))
	devices, err := Discover(sys)
	if err == nil || !strings.Contains(err.Error(), "uverbs0/ibdev") || len(devices) != 2 {
		t.Errorf("got %+v, %v", devices, err)
	}
}
