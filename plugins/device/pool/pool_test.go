// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/plugins/device/config"
	"github.com/railyard-net/railyard/rdma"
	"github.com/railyard-net/railyard/rdma/gpu"
	"github.com/railyard-net/railyard/rdma/inventory"
	"github.com/railyard-net/railyard/rdma/ledger"
	"github.com/railyard-net/railyard/test/sysfs"

	"os"
)

// Two GPUs and two NICs on each of two switches.
const box = `
pci0000:10 numa=0
  0000:10:00.0 root
    0000:11:00.0 up
      0000:12:00.0 down
        0000:18:00.0 nic NIC0 speed=400000
      0000:12:01.0 down
        0000:1b:00.0 gpu GPU0
      0000:12:02.0 down
        0000:1c:00.0 gpu GPU1
pci0000:80 numa=1
  0000:80:00.0 root
    0000:81:00.0 up
      0000:82:00.0 down
        0000:88:00.0 nic NIC1 speed=400000
      0000:82:01.0 down
        0000:8b:00.0 gpu GPU2
      0000:82:02.0 down
        0000:8c:00.0 gpu GPU3
`

func snapshot(t *testing.T, drawing string) inventory.Snapshot {
	t.Helper()
	m, err := sysfs.Draw(drawing)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := m.Write(dir); err != nil {
		t.Fatal(err)
	}
	s, err := inventory.Source{Sys: os.DirFS(dir + "/sys"), GPUs: func() (gpu.Inventory, error) { return m.GPUs(), nil }}.Read()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func parse(t *testing.T, s config.Sources) *config.Config {
	t.Helper()
	c, _, err := config.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func named(t *testing.T, all []Resource, name string) Resource {
	t.Helper()
	i := slices.IndexFunc(all, func(r Resource) bool { return r.Name == name })
	if i < 0 {
		t.Fatalf("no resource %s", name)
	}
	return all[i]
}

func ids(r Resource) (all []string) {
	for _, d := range r.Devices {
		all = append(all, d.ID)
	}
	return all
}

func TestPreferGPUs(t *testing.T) {
	s := snapshot(t, box)
	c := parse(t, config.Sources{Railyard: []byte("version: v1\ngpu: {}\n")})
	all := []string{"GPU-0", "GPU-1", "GPU-2", "GPU-3"}
	busy := func(units ...ledger.Unit) (used []ledger.Record) {
		for _, u := range units {
			used = append(used, ledger.Record{Device: ledger.Device{Resource: "x", ID: string(u)}, Claims: []ledger.Claim{{Unit: u}}})
		}
		return used
	}
	for name, tt := range map[string]struct {
		used      []ledger.Record
		available []string
		must      []string
		size      int
		want      string
	}{
		"one":                          {nil, all, nil, 1, "GPU-0"},
		"two on one switch":            {nil, all, nil, 2, "GPU-0 GPU-1"},
		"two that are left":            {nil, all[1:], nil, 2, "GPU-2 GPU-3"},
		"one of a switch that is open": {nil, all[1:], nil, 1, "GPU-1"},
		"with one that must be":        {nil, all, []string{"GPU-2"}, 2, "GPU-2 GPU-3"},
		"the NIC beside it is used":    {busy("nic 0000:88:00.0"), all, nil, 1, "GPU-2"},
		"all":                          {nil, all, nil, 4, "GPU-0 GPU-1 GPU-2 GPU-3"},
		"more than there are":          {nil, all[:1], nil, 4, "GPU-0"},
		"none that are ours":           {nil, []string{"GPU-9"}, nil, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := named(t, Build(Input{Config: c, Snapshot: s, Used: tt.used}), "railyard.dev/gpu")
			if got := strings.Join(r.Prefer(tt.available, tt.must, tt.size), " "); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// NVLink outweighs PCI.
func TestPreferNVLink(t *testing.T) {
	s := snapshot(t, box)
	for i := range s.GPUs.GPUs {
		s.GPUs.GPUs[i].NVSwitch = 0
	}
	s.GPUs.GPUs[0].NVLinks = map[rdma.BusAddr]int{"0000:8c:00.0": 4}
	c := parse(t, config.Sources{Railyard: []byte("version: v1\ngpu: {}\n")})
	r := named(t, Build(Input{Config: c, Snapshot: s}), "railyard.dev/gpu")
	if got := r.Prefer(ids(r), nil, 2); !slices.Equal(got, []string{"GPU-0", "GPU-3"}) {
		t.Errorf("%v, want those with NVLink between them", got)
	}
}

func TestPreferNICBesideUsedGPU(t *testing.T) {
	s := snapshot(t, box)
	c := parse(t, config.Sources{SRIOV: []byte(`{"resourceList": [{"resourceName": "nics", "resourcePrefix": "x.io"}]}`)})
	used := []ledger.Record{{Device: ledger.Device{Resource: "g", ID: "x"}, Claims: []ledger.Claim{{Unit: "gpu 0000:8b:00.0"}, {Unit: "gpu 0000:8c:00.0"}}}}
	r := named(t, Build(Input{Config: c, Snapshot: s, Used: used}), "x.io/nics")
	if got := r.Prefer(ids(r), nil, 1); got[0] != "0000:88:00.0" {
		t.Errorf("%v, want the NIC whose GPUs are in use", got)
	}
}

func TestReplicas(t *testing.T) {
	s := snapshot(t, box)
	for policy, want := range map[string]string{"distributed": "GPU-1::1", "packed": "GPU-0::1"} {
		c := parse(t, config.Sources{Railyard: []byte("version: v1\ngpu: {timeSlicing: {replicas: 2, failRequestsGreaterThanOne: true, policy: " + policy + "}}\n")})
		r := named(t, Build(Input{Config: c, Snapshot: s}), "railyard.dev/gpu")
		if len(r.Devices) != 8 || !r.RefuseSeveral {
			t.Fatalf("%d replicas of 4 GPUs", len(r.Devices))
		}
		if got := r.Prefer([]string{"GPU-0::1", "GPU-1::0", "GPU-1::1"}, nil, 1)[0]; policy == "distributed" && !strings.HasPrefix(got, "GPU-1") || policy == "packed" && got != want {
			t.Errorf("%s: %s", policy, got)
		}
		a, err := NewAnswer(r.Name, r.Devices[:4])
		if err != nil || !slices.Equal(a.CDI, []string{"railyard.dev/gpu=GPU-0", "railyard.dev/gpu=GPU-1"}) {
			t.Errorf("%v, %v", a.CDI, err)
		}
	}
}

// partitioned gives the first two GPUs instances.
func partitioned(s inventory.Snapshot, profiles ...string) inventory.Snapshot {
	s.GPUs.GPUs = slices.Clone(s.GPUs.GPUs)
	for i, p := range profiles {
		g := &s.GPUs.GPUs[i]
		g.MIG, g.Instances = true, []gpu.Instance{{UUID: fmt.Sprintf("MIG-%d-0", i), Name: "GPU MIG " + p}, {UUID: fmt.Sprintf("MIG-%d-1", i), Name: "GPU MIG " + p}}
	}
	return s
}

func TestMIG(t *testing.T) {
	s := snapshot(t, box)
	for name, tt := range map[string]struct {
		strategy string
		profiles []string
		want     map[string]string
	}{
		"none":    {"none", []string{"1g.10gb"}, map[string]string{"railyard.dev/gpu": "GPU-0 GPU-1 GPU-2 GPU-3"}},
		"mixed":   {"mixed", []string{"1g.10gb", "3g.40gb+me"}, map[string]string{"railyard.dev/gpu": "GPU-2 GPU-3", "railyard.dev/mig-1g.10gb": "MIG-0-0 MIG-0-1", "railyard.dev/mig-3g.40gb.me": "MIG-1-0 MIG-1-1"}},
		"single":  {"single", []string{"1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb"}, map[string]string{"railyard.dev/gpu": "MIG-0-0 MIG-0-1 MIG-1-0 MIG-1-1 MIG-2-0 MIG-2-1 MIG-3-0 MIG-3-1"}},
		"unequal": {"single", []string{"1g.10gb", "2g.20gb"}, map[string]string{"railyard.dev/gpu": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			c := parse(t, config.Sources{Railyard: []byte("version: v1\ngpu: {migStrategy: " + tt.strategy + "}\n")})
			got := map[string]string{}
			for _, r := range Build(Input{Config: c, Snapshot: partitioned(s, tt.profiles...)}) {
				var healthy []string
				for _, d := range r.Devices {
					if d.Unhealthy == "" {
						healthy = append(healthy, d.ID)
					}
				}
				got[r.Name] = strings.Join(healthy, " ")
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A sick GPU takes its instances and replicas with it, a sick instance only itself.
func TestSick(t *testing.T) {
	s := partitioned(snapshot(t, box), "1g.10gb", "1g.10gb")
	c := parse(t, config.Sources{Railyard: []byte("version: v1\ngpu: {migStrategy: mixed, timeSlicing: {replicas: 2}}\n")})
	sick := map[ledger.Unit]string{GPUUnit("0000:1b:00.0"): "XID 79", MIGUnit("MIG-1-0"): "XID 94", GPUUnit("0000:8b:00.0"): "XID 79"}
	well := map[string]int{}
	for _, r := range Build(Input{Config: c, Snapshot: s, Sick: sick}) {
		for _, d := range r.Devices {
			if d.Unhealthy == "" {
				well[r.Name]++
			}
		}
	}
	if diff := cmp.Diff(map[string]int{"railyard.dev/gpu": 2, "railyard.dev/mig-1g.10gb": 2}, well); diff != "" {
		t.Errorf("healthy devices (-want +got):\n%s", diff)
	}
}

func TestSelects(t *testing.T) {
	n := inventory.NIC{
		Addr: "0000:18:00.2", Kind: inventory.Virtual, Vendor: "15b3", Device: "101e", Driver: "mlx5_core", NetDevs: []string{"eth1"},
		LinkType: "ether", PF: "0000:18:00.0", PFName: "ens1", Index: 3, Capable: true, ACPIIndex: "7",
	}
	for name, tt := range map[string]struct {
		s    config.Selectors
		want bool
	}{
		"all":          {config.Selectors{}, true},
		"and":          {config.Selectors{Vendors: []string{"15b3"}, Devices: []string{"1018"}}, false},
		"or":           {config.Selectors{Devices: []string{"1018", "101e"}}, true},
		"index in":     {config.Selectors{PFNames: []string{"ens1#0-1", "ens1#3"}}, true},
		"index out":    {config.Selectors{PFNames: []string{"ens1#0-2,4"}}, false},
		"root device":  {config.Selectors{RootDevices: []string{"0000:18:00.0"}}, true},
		"interface":    {config.Selectors{IfNames: []string{"eth1"}}, true},
		"other link":   {config.Selectors{LinkTypes: []string{"infiniband"}}, false},
		"rdma":         {config.Selectors{IsRDMA: true}, true},
		"sub-function": {config.Selectors{AuxTypes: []string{"sf"}}, false},
		"acpi":         {config.Selectors{ACPIIndexes: []string{"7"}}, true},
	} {
		if got := Selects(tt.s, n); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	n.Kind, n.Addr = inventory.Physical, n.PF
	if Selects(config.Selectors{PFNames: []string{"ens1#0-9"}}, n) || !Selects(config.Selectors{PFNames: []string{"ens1"}}, n) {
		t.Error("a physical function has no index, and is its own")
	}
}

// NICs that the host needs itself are not given away.
func TestHostsOwn(t *testing.T) {
	s := snapshot(t, strings.Replace(box, "nic NIC0 speed=400000\n", "nic NIC0 speed=400000\n        0000:18:00.1 vf VF0 of=0000:18:00.0\n", 1))
	for i := range s.NICs {
		s.NICs[i].DefaultRoute = s.NICs[i].Addr == "0000:88:00.0"
	}
	c := parse(t, config.Sources{SRIOV: []byte(`{"resourceList": [{"resourceName": "nics", "resourcePrefix": "x.io"}, {"resourceName": "rest", "resourcePrefix": "x.io"}]}`)})
	all := Build(Input{Config: c, Snapshot: s})
	if got := ids(named(t, all, "x.io/nics")); !slices.Equal(got, []string{"0000:18:00.1"}) || len(named(t, all, "x.io/rest").Devices) != 0 {
		t.Errorf("offered are %v; want the virtual function alone, by the first pool alone", got)
	}
}

func TestVFIO(t *testing.T) {
	s := snapshot(t, strings.Replace(box, "nic NIC0", "nic NIC0 driver=vfio-pci group=42", 1))
	c := parse(t, config.Sources{SRIOV: []byte(`{"resourceList": [{"resourceName": "nics", "resourcePrefix": "x.io", "selectors": {"drivers": ["vfio-pci"]}}]}`)})
	r := named(t, Build(Input{Config: c, Snapshot: s}), "x.io/nics")
	a, err := NewAnswer(r.Name, r.Devices)
	want := []Node{{"/dev/vfio/vfio", "rw"}, {"/dev/vfio/42", "rw"}}
	if diff := cmp.Diff(want, a.Nodes); diff != "" || err != nil || !strings.Contains(a.Env["PCIDEVICE_X_IO_NICS_INFO"], `"dev-mount":"/dev/vfio/42"`) {
		t.Errorf("%v, %v (-want +got):\n%s", a.Env, err, diff)
	}
}

// Eight GPUs and 128 virtual functions: a kubelet waits for Build in every Allocate that it makes meanwhile.
func BenchmarkBuild(b *testing.B) {
	var drawing strings.Builder
	for i := range 8 {
		fmt.Fprintf(&drawing, "pci%04x:10 numa=%d\n  %04x:10:00.0 root\n    %04x:11:00.0 up\n      %04x:12:00.0 down\n        %04x:18:00.0 nic NIC%d speed=400000\n", i, i/4, i, i, i, i, i)
		for v := range 16 {
			fmt.Fprintf(&drawing, "        %04x:18:%02x.%d vf VF%d-%d of=%04x:18:00.0\n", i, 1+v/8, v%8, i, v, i)
		}
		fmt.Fprintf(&drawing, "      %04x:12:01.0 down\n        %04x:1b:00.0 gpu GPU%d\n", i, i, i)
	}
	m, err := sysfs.Draw(drawing.String())
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	if err := m.Write(dir); err != nil {
		b.Fatal(err)
	}
	s, err := inventory.Source{Sys: os.DirFS(dir + "/sys"), GPUs: func() (gpu.Inventory, error) { return m.GPUs(), nil }}.Read()
	if err != nil {
		b.Fatal(err)
	}
	c, _, err := config.Parse(config.Sources{
		Railyard: []byte("version: v1\ngpu: {}\npair: {nics: {isRdma: true}}\n"), SRIOV: []byte(`{"resourceList": [{"resourceName": "nics", "resourcePrefix": "x.io"}]}`),
	})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		Build(Input{Config: c, Snapshot: s})
	}
}
