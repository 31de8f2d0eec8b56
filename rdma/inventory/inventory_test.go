// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"errors"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/rdma"
	"github.com/railyard-net/railyard/rdma/gpu"
	"github.com/railyard-net/railyard/test/sysfs"
)

const card = `
pci0000:10 numa=1
  0000:10:00.0 root
    0000:18:00.0 nic NIC0 speed=400000
    0000:18:00.1 vf VF0 of=0000:18:00.0
    0000:18:00.2 vf VF1 of=0000:18:00.0
    0000:19:00.0 nic IB0 ib down
    0000:1a:00.0 nic RAW0 driver=none
`

func draw(t *testing.T) (*sysfs.Machine, string) {
	t.Helper()
	m, err := sysfs.Draw(card)
	if err != nil {
		t.Fatal(err)
	}
	return m, t.TempDir()
}

func read(t *testing.T, m *sysfs.Machine, dir string) Snapshot {
	t.Helper()
	if err := m.Write(dir); err != nil {
		t.Fatal(err)
	}
	s, err := Source{Sys: os.DirFS(dir + "/sys")}.Read()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRead(t *testing.T) {
	m, dir := draw(t)
	s := read(t, m, dir)
	n, ok := s.NIC("0000:18:00.2")
	if !ok || len(s.NICs) != 5 {
		t.Fatalf("%d NICs", len(s.NICs))
	}
	if got := n.RDMANames(); !slices.Equal(got, []string{"mlx5_2"}) {
		t.Errorf("RDMA devices %v", got)
	}
	n.RDMA = nil
	want := NIC{
		Addr: "0000:18:00.2", Kind: Virtual, Vendor: "15b3", Device: "101e", Driver: "mlx5_core", NetDevs: []string{"vf1"}, LinkType: "ether",
		PF: "0000:18:00.0", PFName: "nic0", Index: 1, NUMA: 1, Capable: true, Up: true, Link: true,
		Files: rdma.CharDevs{Verbs: "/dev/infiniband/uverbs2", CM: "/dev/infiniband/rdma_cm", UMAD: []string{"/dev/infiniband/umad2"}, ISSM: []string{"/dev/infiniband/issm2"}},
	}
	if diff := cmp.Diff(want, n); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n, _ := s.NIC("0000:18:00.0"); n.Kind != Physical || n.Speed != 400000 || n.PFName != "nic0" {
		t.Errorf("%+v", n)
	}
	if n, _ := s.NIC("0000:19:00.0"); n.LinkType != "infiniband" || n.Up || !n.Link || n.PKey != "0xffff" {
		t.Errorf("%+v", n)
	}
	if n, _ := s.NIC("0000:1a:00.0"); n.Driver != "" || n.Capable || n.Files.Verbs != "" {
		t.Errorf("%+v", n)
	}
}

// What is in a pod is still there, with its files and its place.
func TestAway(t *testing.T) {
	m, dir := draw(t)
	m.At("VF1").Away, m.At("IB0").Away = true, true
	s := read(t, m, dir)
	n, _ := s.NIC("0000:18:00.2")
	if len(n.NetDevs)+len(n.RDMA) != 0 || !n.Capable || n.Files.Verbs != "/dev/infiniband/uverbs2" || n.PFName != "nic0" || n.Index != 1 {
		t.Errorf("%+v", n)
	}
	if n, _ := s.NIC("0000:19:00.0"); n.LinkType != "infiniband" {
		t.Errorf("an InfiniBand card that is in a pod is %+v", n)
	}
}

// A sub-function is on the auxiliary bus, below its card.
func TestSubfunction(t *testing.T) {
	m, dir := draw(t)
	if err := m.Write(dir); err != nil {
		t.Fatal(err)
	}
	sys := dir + "/sys"
	place := "devices/pci0000:10/0000:10:00.0/0000:18:00.0/mlx5_core.sf.4"
	for name, text := range map[string]string{place + "/sfnum": "88\n", place + "/net/sf0/type": "1\n", "bus/auxiliary/devices/x": ""} {
		if err := errors.Join(os.MkdirAll(path.Dir(sys+"/"+name), 0o755), os.WriteFile(sys+"/"+name, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.MkdirAll(sys+"/bus/auxiliary/devices", 0o755), os.Symlink("../../../"+place, sys+"/bus/auxiliary/devices/mlx5_core.sf.4"),
		os.Symlink("../../../"+place, sys+"/bus/auxiliary/devices/mlx5_core.eth.4")); err != nil {
		t.Fatal(err)
	}
	s, err := Source{Sys: os.DirFS(sys)}.Read()
	if err != nil {
		t.Fatal(err)
	}
	n, ok := s.NIC("mlx5_core.sf.4")
	if !ok || n.Kind != Subfunction || n.PF != "0000:18:00.0" || n.PFName != "nic0" || n.Index != 88 || n.NUMA != 1 || n.LinkType != "ether" || !slices.Equal(n.NetDevs, []string{"sf0"}) {
		t.Errorf("%+v, %v", n, ok)
	}
	if len(s.NICs) != 6 {
		t.Errorf("%d NICs: an auxiliary device that is no sub-function is one", len(s.NICs))
	}
}

func TestDefaultRoutes(t *testing.T) {
	const head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	for name, tt := range map[string]struct {
		v4, v6 string
		want   []string
	}{
		"none":  {head + "eth0\t0000640A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n", "", nil},
		"v4":    {head + "nic0\t00000000\t0164640A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n", "", []string{"nic0"}},
		"v6":    {head, strings.Repeat("0", 32) + " 00 " + strings.Repeat("0", 32) + " 00 fe80 00000400 00000001 00000000 00000003 nic0\n" + strings.Repeat("0", 32) + " 00 " + strings.Repeat("0", 32) + " 00 0 ffffffff 1 0 200200 lo\n", []string{"nic0"}},
		"short": {"x\n\n", "y\n", nil},
	} {
		got, err := defaultRoutes(fstest.MapFS{"net/route": {Data: []byte(tt.v4)}, "net/ipv6_route": {Data: []byte(tt.v6)}})
		if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
	m, dir := draw(t)
	if err := m.Write(dir); err != nil {
		t.Fatal(err)
	}
	s, err := Source{Sys: os.DirFS(dir + "/sys"), Proc: fstest.MapFS{"net/route": {Data: []byte(head + "nic0\t00000000\t0164640A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n")}}}.Read()
	if n, _ := s.NIC("0000:18:00.0"); err != nil || !n.DefaultRoute {
		t.Errorf("%+v, %v", n, err)
	}
}

// One who can't be asked does not hide the others.
func TestReadFaults(t *testing.T) {
	m, dir := draw(t)
	if err := m.Write(dir); err != nil {
		t.Fatal(err)
	}
	lost := errors.New("no answer")
	s, err := Source{Sys: os.DirFS(dir + "/sys"), GPUs: func() (gpu.Inventory, error) {
		return gpu.Inventory{State: gpu.Ready, GPUs: []gpu.GPU{{UUID: "GPU-0", Addr: "0000:20:00.0"}}}, lost
	}}.Read()
	if !errors.Is(err, lost) || len(s.NICs) != 5 || len(s.GPUs.GPUs) != 1 {
		t.Errorf("%v, %d NICs, %d GPUs", err, len(s.NICs), len(s.GPUs.GPUs))
	}
	if s, err := (Source{Sys: os.DirFS(t.TempDir())}).Read(); err != nil || len(s.NICs) != 0 || s.Tree == nil {
		t.Errorf("a machine without PCI: %+v, %v", s, err)
	}
}
