// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What the README of k8s-rdma-shared-dev-plugin gives as an example.
const sharedExample = `{
  "periodicUpdateInterval": 300,
  "configList": [
    {"resourceName": "hca_shared_devices_a", "resourcePrefix": "example_prefix.com", "rdmaHcaMax": 1000, "devices": ["ib0", "ib1"]},
    {"resourceName": "hca_shared_devices_b", "rdmaHcaMax": 500, "selectors": {"vendors": ["15b3"], "deviceIDs": ["1017"], "ifNames": ["ib3", "ib4"]}}
  ]}`

// In the words of the README of sriov-network-device-plugin.
const sriovExample = `{
  "resourceList": [
    {"resourceName": "intel_sriov_netdevice", "selectors": {"vendors": ["8086"], "devices": ["154c", "10ed"], "drivers": ["i40evf", "ixgbevf"]}},
    {"resourceName": "mlnx_sriov_rdma", "resourcePrefix": "mellanox.com", "excludeTopology": true,
     "selectors": [{"vendors": ["15b3"], "devices": ["1018"], "drivers": ["mlx5_ib"], "isRdma": true}, {"pfNames": ["ens1f0#0,2-7"], "linkTypes": ["infiniband"], "pKeys": ["0x7fff"]}],
     "additionalInfo": {"*": {"token": "3e49019f"}}},
    {"resourceName": "sfs", "deviceType": "auxNetDevice", "selectors": [{"vendors": ["15b3"], "auxTypes": ["sf"], "rootDevices": ["0000:3b:00.0#1-3"]}]}
  ]}`

func TestParse(t *testing.T) {
	c, warnings, err := Parse(Sources{Shared: []byte(strings.Replace(sharedExample, "_prefix", "", 1)), SRIOV: []byte(sriovExample)})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	want := &Config{
		Rescan: 5 * time.Minute,
		Shared: []SharedPool{
			{Resource: "example.com/hca_shared_devices_a", Slots: 1000, Selectors: Selectors{IfNames: []string{"ib0", "ib1"}}},
			{Resource: "rdma/hca_shared_devices_b", Slots: 500, Selectors: Selectors{Vendors: []string{"15b3"}, Devices: []string{"1017"}, IfNames: []string{"ib3", "ib4"}}},
		},
		Net: []NetPool{
			{Resource: "intel.com/intel_sriov_netdevice", Selectors: []Selectors{{Vendors: []string{"8086"}, Devices: []string{"154c", "10ed"}, Drivers: []string{"i40evf", "ixgbevf"}}}},
			{
				Resource: "mellanox.com/mlnx_sriov_rdma", NoTopology: true, AdditionalInfo: map[string]map[string]string{"*": {"token": "3e49019f"}},
				Selectors: []Selectors{
					{Vendors: []string{"15b3"}, Devices: []string{"1018"}, Drivers: []string{"mlx5_ib"}, IsRDMA: true},
					{PFNames: []string{"ens1f0#0,2-7"}, LinkTypes: []string{"infiniband"}, PKeys: []string{"0x7fff"}},
				},
			},
			{Resource: "intel.com/sfs", Aux: true, Selectors: []Selectors{{Vendors: []string{"15b3"}, AuxTypes: []string{"sf"}, RootDevices: []string{"0000:3b:00.0#1-3"}}}},
		},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseRailyard(t *testing.T) {
	c, _, err := Parse(Sources{Railyard: []byte(`
version: v1
shared: {configList: [{resourceName: a, rdmaHcaMax: 1, selectors: {vendors: ["15b3"]}, unknown: 1}]}
sriov: {resourceList: [{resourceName: b, resourcePrefix: x.io}]}
gpu: {resourceName: nvidia.com/gpu, migStrategy: mixed, timeSlicing: {replicas: 4, renameByDefault: true}, deviceListStrategy: [envvar], health: {recoverAfter: 30s, ignoreXids: [94]}}
pair: {numaResourceName: "", gpus: ["0"], accounting: dynamic, nics: {pfNames: [ib0]}, inject: {env: [UCX_NET_DEVICES]}}
`)})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"rdma/a", "x.io/b", "nvidia.com/gpu.shared", "railyard.dev/gpu-nic"}, c.Names()); diff != "" {
		t.Errorf("resources (-want +got):\n%s", diff)
	}
	if g := c.GPU; g.Replicas != 4 || g.RecoverAfter != 30*time.Second || g.IgnoreXIDs[len(g.IgnoreXIDs)-1] != 94 || g.Strategies[0] != EnvVar || g.MIG != MIGMixed {
		t.Errorf("%+v", g)
	}
	if p := c.Pair; !p.Dynamic || p.NICs[0].PFNames[0] != "ib0" || p.NUMAResource != "" || !p.Health.Link || p.Strategies[0] != CDICRI {
		t.Errorf("%+v", p)
	}
	if !c.Owns("nvidia.com/mig-1g.10gb") || c.Owns("nvidia.com/gpu") || !c.Owns("rdma/a") {
		t.Error("Owns is wrong about instances")
	}
}

func TestParseFaults(t *testing.T) {
	shared := func(entry string) Sources { return Sources{Shared: []byte(`{"configList": [` + entry + `]}`)} }
	sriov := func(entry string) Sources { return Sources{SRIOV: []byte(`{"resourceList": [` + entry + `]}`)} }
	own := func(text string) Sources { return Sources{Railyard: []byte("version: v1\n" + text)} }
	for name, tt := range map[string]struct {
		sources Sources
		want    string
	}{
		"no JSON":            {Sources{Shared: []byte(`{`)}, "shared: the file: is no JSON as k8s-rdma-shared-dev-plugin reads"},
		"nothing":            {Sources{Shared: []byte(`{}`)}, "shared: configList: is empty"},
		"interval":           {Sources{Shared: []byte(`{"periodicUpdateInterval": -1, "configList": []}`)}, "shared: periodicUpdateInterval: -1 is no number of seconds"},
		"compat":             {Sources{Shared: []byte(`{"compat": "old"}`)}, `shared: compat: "old" is neither upstream nor left out`},
		"name":               {shared(`{"resourceName": "a-b", "rdmaHcaMax": 1, "devices": ["x"]}`), `shared: configList[0].resourceName: "a-b" is not made of`},
		"prefix":             {shared(`{"resourceName": "a", "resourcePrefix": "A", "rdmaHcaMax": 1, "devices": ["x"]}`), "has no domain before a slash"},
		"kubernetes.io":      {shared(`{"resourceName": "a", "resourcePrefix": "kubernetes.io", "rdmaHcaMax": 1, "devices": ["x"]}`), "kubernetes.io is not for extended resources"},
		"no slots":           {shared(`{"resourceName": "a", "devices": ["x"]}`), "configList[0].rdmaHcaMax: is missing"},
		"negative":           {shared(`{"resourceName": "a", "rdmaHcaMax": -1, "devices": ["x"]}`), "-1 is not between 0"},
		"nothing selected":   {shared(`{"resourceName": "a", "rdmaHcaMax": 1}`), "configList[0].selectors: is missing"},
		"both":               {shared(`{"resourceName": "a", "rdmaHcaMax": 1, "devices": ["x"], "selectors": {}}`), "goes not with selectors"},
		"environment":        {shared(`{"resourceName": "a", "rdmaHcaMax": 1, "devices": ["x"], "inject": {"env": ["LD_PRELOAD"]}}`), `inject.env: "LD_PRELOAD" is none of NCCL_IB_HCA`},
		"twice":              {shared(`{"resourceName": "a", "rdmaHcaMax": 1, "devices": ["x"]}, {"resourceName": "a", "rdmaHcaMax": 1, "devices": ["y"]}`), "rdma/a is there twice"},
		"accelerator":        {sriov(`{"resourceName": "a", "deviceType": "accelerator"}`), "accelerators are not served"},
		"ddp":                {sriov(`{"resourceName": "a", "selectors": {"ddpProfiles": ["x"]}}`), "selectors[0].ddpProfiles: is not served"},
		"vdpa":               {sriov(`{"resourceName": "a", "selectors": [{}, {"vdpaType": "vhost"}]}`), "selectors[1].vdpaType: is not served"},
		"vhost":              {sriov(`{"resourceName": "a", "selectors": {"needVhostNet": true}}`), "needVhostNet: is not served"},
		"address":            {sriov(`{"resourceName": "a", "selectors": {"pciAddresses": ["3b:00"]}}`), "neither a PCI address"},
		"range":              {sriov(`{"resourceName": "a", "selectors": {"pfNames": ["x#7-2"]}}`), "7-2 is no range of numbers"},
		"pkeys":              {sriov(`{"resourceName": "a", "selectors": {"pKeys": ["0x1"]}}`), "goes with"},
		"version":            {Sources{Railyard: []byte(`{}`)}, `railyard: version: "" is not v1`},
		"unknown key":        {own("gpus: {}"), `unknown field "gpus"`},
		"MIG":                {own("gpu: {migStrategy: both}"), `gpu.migStrategy: "both" is neither`},
		"strategy":           {own("gpu: {deviceListStrategy: [magic]}"), `"magic" is none of cdi-cri`},
		"replicas":           {own("gpu: {timeSlicing: {replicas: 1}}"), "gpu.timeSlicing.replicas: 1 is not between 2"},
		"time":               {own("gpu: {health: {recoverAfter: soon}}"), `gpu.health.recoverAfter: "soon" is no time`},
		"accounting":         {own("pair: {accounting: exact}"), `pair.accounting: "exact" is neither static nor dynamic`},
		"fault in a section": {own("shared: {configList: []}"), "shared: configList: is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			c, _, err := Parse(tt.sources)
			if err == nil || !strings.Contains(err.Error(), tt.want) || c != nil {
				t.Errorf("%v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	_, warnings, err := Parse(Sources{Shared: []byte(`{"configList": [{"resourceName": "a", "rdmaHcaMax": 1, "devices": ["x"], "rdmaHCAmax2": 1}], "x": 1}`)})
	want := []string{"shared: x is not known and has no effect", "shared: configList[0].rdmaHCAmax2 is not known and has no effect"}
	if diff := cmp.Diff(want, warnings); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// FuzzParse: whatever is in the files, a config comes out that a kubelet could be told of, or an error.
func FuzzParse(f *testing.F) {
	f.Add([]byte(sharedExample), []byte(sriovExample), []byte("version: v1\ngpu: {migStrategy: mixed}\npair: {nics: [{isRdma: true}]}\n"))
	f.Add([]byte(`{"configList": [null]}`), []byte(`{"resourceList": [{"selectors": null}]}`), []byte("version: v1\nshared: []\n"))
	f.Fuzz(func(t *testing.T, shared, sriov, own []byte) {
		for _, s := range []Sources{{Shared: shared}, {SRIOV: sriov}, {Railyard: own}} {
			c, _, err := Parse(s)
			if (c == nil) != (err != nil) {
				t.Fatalf("%v and %v", c, err)
			}
			if c == nil {
				continue
			}
			for _, name := range c.Names() {
				if err := resource("", name); err != nil {
					t.Error(err)
				}
			}
			for _, p := range c.Shared {
				if p.Slots < 0 || p.Slots > maxSlots {
					t.Errorf("%d slots", p.Slots)
				}
			}
			for _, p := range c.Net {
				for _, s := range p.Selectors {
					for _, name := range s.PFNames {
						if _, in, err := SplitRange(name); err != nil || in == nil {
							t.Errorf("%q: %v", name, err)
						}
					}
				}
			}
		}
	})
}
