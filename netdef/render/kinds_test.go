// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/netdef/api/v1alpha1"
	"github.com/railyard-net/railyard/netdef/render"
)

// document is a network of the kind with a spec in YAML's flow style.
func document(kind, spec string) []byte {
	return []byte("{apiVersion: railyard.dev/v1alpha1, kind: " + kind + ", metadata: {name: n}, spec: " + spec + "}")
}

// TestKindsRefused: what is wrong with a spec is said of the field that its user wrote, not of the plugin's key. It holds without the
// schema, which refuses most of this first.
func TestKindsRefused(t *testing.T) {
	const hostDevice, ipoib, rails = "HostDeviceNetwork", "IPoIBNetwork", "RailNetwork"
	for name, tc := range map[string]struct {
		kind, spec string
		wantField  []string
		wantText   string
	}{
		"rdma":                    {"MacvlanNetwork", `{rdma: "on"}`, []string{"spec.rdma"}, "write auto, required or off"},
		"rdma twice":              {"MacvlanNetwork", `{rdma: auto, metaPlugins: '{"type":"sbr"},{"type":"rdma"}'}`, []string{"spec.rdma"}, "spec.metaPlugins[1]"},
		"ToS":                     {"MacvlanNetwork", `{roceToS: 256}`, []string{"spec.roceToS"}, "0 to 255"},
		"ToS without RDMA":        {"MacvlanNetwork", `{roceToS: 4, rdma: "off"}`, []string{"spec.roceToS"}, "leave one of them out"},
		"ToS on InfiniBand":       {ipoib, `{roceToS: 4}`, []string{"spec.roceToS"}, "means nothing to a ipoib"},
		"rail's ToS":              {rails, `{rails: [{}, {roceToS: -1}]}`, []string{"spec.rails[1].roceToS"}, "0 to 255"},
		"rail's label":            {rails, `{rails: [{label: "a b"}]}`, []string{"spec.rails[0].label"}, "leaf-3"},
		"label and master":        {rails, `{rails: [{label: a, master: b}]}`, []string{"spec.rails[0].label"}, "one of them"},
		"no device":               {hostDevice, `{}`, []string{"spec.resourceName"}, "so is spec.device"},
		"resource and device":     {hostDevice, `{resourceName: a, device: b}`, []string{"spec.device"}, "together with spec.resourceName"},
		"resource":                {hostDevice, `{resourceName: a/b/c}`, []string{"spec.resourceName"}, "intel.com/sriov"},
		"resource's prefix":       {hostDevice, `{resourceName: A_B/c}`, []string{"spec.resourceName"}, "hostdev"},
		"device":                  {hostDevice, `{device: "a b"}`, []string{"spec.device"}, "PCI address"},
		"device's mtu":            {hostDevice, `{device: a, mtu: 9}`, []string{"spec.mtu"}, "68"},
		"two at once":             {hostDevice, `{resourceName: "-", ipam: "{", metaPlugins: "x"}`, []string{"spec.resourceName", "spec.ipam", "spec.metaPlugins"}, "hostdev"},
		"vlan":                    {hostDevice, `{device: a, sriov: {vlan: 4095}}`, []string{"spec.sriov.vlan"}, "0 to 4094"},
		"vlan missing":            {hostDevice, `{device: a, sriov: {vlanProto: 802.1q}}`, []string{"spec.sriov.vlan"}, "is needed for vlanQoS and vlanProto"},
		"rates":                   {hostDevice, `{device: a, sriov: {minTxRate: 9, maxTxRate: 5}}`, []string{"spec.sriov.minTxRate"}, "more than maxTxRate 5"},
		"VF":                      {hostDevice, `{device: a, sriov: {vlan: 1, vlanQoS: 8, vlanProto: x, linkState: up, maxTxRate: -1}}`, []string{"spec.sriov.vlanQoS", "spec.sriov.maxTxRate", "spec.sriov.vlanProto", "spec.sriov.linkState"}, "auto, enable or disable"},
		"IPoIB mode":              {ipoib, `{mode: bridge}`, []string{"spec.mode"}, "datagram, connected"},
		"pkey":                    {ipoib, `{pkey: "0"}`, []string{"spec.pkey"}, "0x8001"},
		"own ipam without pool":   {ipoib, `{ipam: '{"type": "railyard-ipam"}'}`, []string{"spec.ipam.pool"}, "IPPool"},
		"no rails":                {rails, `{}`, []string{"spec.rails"}, "at least one"},
		"kind of rails":           {rails, `{kind: chained, rails: [{}]}`, []string{"spec.kind"}, "macvlan, ipvlan, host-device, sriov"},
		"another kind's mode":     {rails, `{kind: ipvlan, mode: bridge, rails: [{}]}`, []string{"spec.mode"}, "l2, l3, l3s"},
		"a mode of none":          {rails, `{kind: sriov, mode: l2, rails: [{device: a}]}`, []string{"spec.mode"}, "has no modes"},
		"another kind's settings": {rails, `{kind: ipvlan, sriov: {vlan: 5, spoofCheck: true}, rails: [{}]}`, []string{"spec.sriov.spoofCheck", "spec.sriov.vlan"}, "a key of sriov"},
		"device on macvlan":       {rails, `{rails: [{}, {}, {device: a}]}`, []string{"spec.rails[2].device"}, "write master"},
		"master on host-device":   {rails, `{kind: host-device, rails: [{device: a}, {device: b, master: c}]}`, []string{"spec.rails[1].master"}, "write device"},
		"rail without device":     {rails, `{kind: sriov, rails: [{device: a}, {}]}`, []string{"spec.rails[1].device"}, "is missing"},
		"rail's master":           {rails, `{rails: [{}, {}, {master: "a b"}]}`, []string{"spec.rails[2].master"}, "link"},
		"rail's interface":        {rails, `{rails: [{interface: "a/b"}]}`, []string{"spec.rails[0].interface"}, "net1"},
		"rail's table and mtu":    {rails, `{rails: [{table: 254, mtu: 5}]}`, []string{"spec.rails[0].mtu", "spec.rails[0].table"}, "252"},
		"same interface":          {rails, `{rails: [{interface: a}, {interface: a}]}`, []string{"spec.rails[1].interface"}, "another rail"},
		"same table, by default":  {rails, `{rails: [{table: 1001}, {}]}`, []string{"spec.rails[1].table"}, "another rail"},
		"too many rails":          {rails, `{rails: [` + strings.Repeat("{},", 32) + `{}]}`, []string{"spec.rails"}, "at most 32"},
		"rail without pool":       {rails, `{rails: [{pool: {name: a}}, {}]}`, []string{"spec.rails[1].pool"}, "spec.pool for all"},
		"pool and another's ipam": {rails, `{ipam: '{"type": "x"}', rails: [{}, {pool: {name: a}}]}`, []string{"spec.rails[1].pool"}, "railyard-ipam"},
	} {
		t.Run(name, func(t *testing.T) {
			nad, err := render.Network(read(t, document(tc.kind, tc.spec)))
			if err == nil {
				t.Fatalf("rendered %s", nad.Spec.Config)
			}
			if !errors.Is(err, render.ErrInvalid) || !strings.Contains(err.Error(), tc.wantText) {
				t.Errorf("error %q is no ErrInvalid with %q", err, tc.wantText)
			}
			if diff := cmp.Diff(tc.wantField, fields(err)); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPoolNames(t *testing.T) {
	for name, tc := range map[string]struct {
		kind, spec string
		want       []string
	}{
		"by reference":      {"MacvlanNetwork", `{pool: {name: p}}`, []string{"p"}},
		"by ipam":           {"IPoIBNetwork", `{ipam: '{"type":"railyard-ipam","pool":"p"}'}`, []string{"p"}},
		"another's":         {"HostDeviceNetwork", `{device: a, ipam: '{"type":"nv-ipam","pool":"p"}'}`, nil},
		"none":              {"MacvlanNetwork", `{}`, nil},
		"unreadable":        {"MacvlanNetwork", `{ipam: '{"type":'}`, nil},
		"rails":             {"RailNetwork", `{pool: {name: p}, rails: [{}, {pool: {name: b}}, {pool: {name: a}}, {}]}`, []string{"a", "b", "p"}},
		"rails, each's own": {"RailNetwork", `{rails: [{pool: {name: b}}, {pool: {name: a}}, {pool: {name: b}}]}`, []string{"a", "b"}},
		"default unused":    {"RailNetwork", `{pool: {name: p}, rails: [{pool: {name: a}}]}`, []string{"a"}},
		"rails unfinished":  {"RailNetwork", `{rails: [{pool: {name: b}}, {}]}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, render.PoolNames(read(t, document(tc.kind, tc.spec)))); diff != "" {
				t.Errorf("pools (-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzSpec renders specs of each kind: what is not refused, with an ErrInvalid, the runtime can load.
func FuzzSpec(f *testing.F) {
	for _, spec := range []string{
		`{"roceToS":106,"kind":"sriov","rails":[{"label":"leaf-0"},{"auto":true,"roceToS":0}]}`,
		`{"master":"a","rdma":"off"}`, `{"resourceName":"a","sriov":{"vlan":7,"trust":true}}`, `{"device":"0000:3b:00.1"}`, `{"mode":"connected","pkey":"0x8001"}`,
		`{"kind":"ipvlan","rails":[{"master":"a","pool":{"name":"p"}},{"interface":"x","table":9,"pool":{"name":"q"}}]}`,
	} {
		for kind := range v1alpha1.Networks() {
			f.Add(uint8(kind), spec)
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, spec string) {
		all := v1alpha1.Networks()
		n := all[int(kind)%len(all)]
		if json.Unmarshal([]byte(`{"metadata":{"name":"n"},"spec":`+spec+`}`), n) != nil || n.GetName() != "n" {
			return
		}
		render.PoolNames(n)
		nad, err := render.Network(n)
		if err == nil {
			loads(t, nad.Spec.Config, "n")
		} else if !errors.Is(err, render.ErrInvalid) {
			t.Fatalf("%v is no ErrInvalid", err)
		}
	})
}
