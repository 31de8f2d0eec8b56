// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"encoding/json"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/railyard-net/railyard/netdef/api/v1alpha1"
)

// TestSchemaRefuses: what the API server itself refuses names the field and the fix, and nothing is stored.
func TestSchemaRefuses(t *testing.T) {
	long := strings.Repeat("n", 64)
	for name, tc := range map[string]struct {
		name      string
		spec      map[string]any
		wantField string
		wantText  string
	}{
		"name of 64":              {name: long, wantField: "metadata.name", wantText: "shorten it"},
		"name of 254":             {name: strings.Repeat("n", 254), wantField: "metadata.name", wantText: "must be no more than"},
		"name in capitals":        {name: "Rail0", wantField: "metadata.name", wantText: "lower case"},
		"namespace too long":      {spec: map[string]any{"networkNamespace": long}, wantField: "spec.networkNamespace", wantText: "63"},
		"namespace with a dot":    {spec: map[string]any{"networkNamespace": "a.b"}, wantField: "spec.networkNamespace", wantText: "lower-case letters"},
		"namespace a list":        {spec: map[string]any{"networkNamespace": []any{"a"}}, wantField: "spec.networkNamespace", wantText: "must be of type string"},
		"master with a blank":     {spec: map[string]any{"master": "ens 1"}, wantField: "spec.master", wantText: "remove blanks"},
		"master with a slash":     {spec: map[string]any{"master": "../ens1"}, wantField: "spec.master", wantText: "slashes"},
		"master too long":         {spec: map[string]any{"master": strings.Repeat("m", 128)}, wantField: "spec.master", wantText: "127"},
		"master a number":         {spec: map[string]any{"master": int64(7)}, wantField: "spec.master", wantText: "must be of type string"},
		"mode":                    {spec: map[string]any{"mode": "brigde"}, wantField: "spec.mode", wantText: `"bridge", "private", "vepa", "passthru"`},
		"mtu negative":            {spec: map[string]any{"mtu": int64(-1)}, wantField: "spec.mtu", wantText: "greater than or equal to 0"},
		"mtu 67":                  {spec: map[string]any{"mtu": int64(67)}, wantField: "spec.mtu", wantText: "use 0 for the master's"},
		"mtu 65536":               {spec: map[string]any{"mtu": int64(65536)}, wantField: "spec.mtu", wantText: "less than or equal to 65535"},
		"mtu beyond 32 bits":      {spec: map[string]any{"mtu": int64(1) << 40}, wantField: "spec.mtu", wantText: "less than or equal to 65535"},
		"mtu a string":            {spec: map[string]any{"mtu": "9000"}, wantField: "spec.mtu", wantText: "must be of type integer"},
		"ipam an object":          {spec: map[string]any{"ipam": map[string]any{"type": "x"}}, wantField: "spec.ipam", wantText: "must be of type string"},
		"ipam no object":          {spec: map[string]any{"ipam": `"dhcp"`}, wantField: "spec.ipam", wantText: `write it as '{"type": ...}'`},
		"ipam too long":           {spec: map[string]any{"ipam": "{" + strings.Repeat(" ", 16384) + "}"}, wantField: "spec.ipam", wantText: "16384"},
		"ipam and pool":           {spec: map[string]any{"ipam": `{"type":"x"}`, "pool": map[string]any{"name": "p"}}, wantField: "spec.ipam", wantText: "exclude each other"},
		"metaPlugins no fragment": {spec: map[string]any{"metaPlugins": "tuning"}, wantField: "spec.metaPlugins", wantText: "separated by commas"},
		"pool a string":           {spec: map[string]any{"pool": "rail0"}, wantField: "spec.pool", wantText: "must be of type object"},
		"pool without name":       {spec: map[string]any{"pool": map[string]any{}}, wantField: "spec.pool.name", wantText: "Required value"},
		"pool with an empty name": {spec: map[string]any{"pool": map[string]any{"name": ""}}, wantField: "spec.pool.name", wantText: "at least 1"},
		"pool name too long":      {spec: map[string]any{"pool": map[string]any{"name": long}}, wantField: "spec.pool.name", wantText: "63"},
		"pool name in capitals":   {spec: map[string]any{"pool": map[string]any{"name": "Rail0"}}, wantField: "spec.pool.name", wantText: "lower-case letters"},
		"CNI version":             {spec: map[string]any{"cniVersion": "0.3.1"}, wantField: "spec.cniVersion", wantText: `"1.0.0", "1.1.0"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tc.name == "" {
				tc.name = unique("bad")
			}
			err := shared.client.Create(t.Context(), networkObject("MacvlanNetwork", tc.name, tc.spec))
			if !apierrors.IsInvalid(err) {
				t.Fatalf("error %v", err)
			}
			if !strings.Contains(err.Error(), tc.wantField) || !strings.Contains(err.Error(), tc.wantText) {
				t.Errorf("error lacks %q or %q:\n%v", tc.wantField, tc.wantText, err)
			}
		})
	}
}

// TestKindsSchemaRefuses is the same for what the kinds do not have in common.
func TestKindsSchemaRefuses(t *testing.T) {
	const hostDevice, ipoib, rails = "HostDeviceNetwork", "IPoIBNetwork", "RailNetwork"
	for name, tc := range map[string]struct{ kind, spec, wantField, wantText string }{
		"rdma a word":             {"MacvlanNetwork", `{"rdma":"on"}`, "spec.rdma", `"auto", "required", "off"`},
		"rdma off, unquoted":      {"MacvlanNetwork", `{"rdma":false}`, "spec.rdma", "must be of type string"},
		"pool and ipam":           {ipoib, `{"ipam":"{}{}","pool":{"name":"p"}}`, "spec.ipam", "exclude each other"},
		"host-device of nothing":  {hostDevice, `{}`, "spec.resourceName", "exactly one of"},
		"host-device twice":       {hostDevice, `{"resourceName":"a","device":"b"}`, "spec.resourceName", "exactly one of"},
		"both empty":              {hostDevice, `{"resourceName":"","device":""}`, "spec.resourceName", "exactly one of"},
		"resource":                {hostDevice, `{"resourceName":"a/b/c"}`, "spec.resourceName", "intel.com/sriov"},
		"device":                  {hostDevice, `{"device":"a b"}`, "spec.device", "remove blanks"},
		"host-device's mtu":       {hostDevice, `{"device":"a","mtu":67}`, "spec.mtu", "or the device's MTU"},
		"vlan":                    {hostDevice, `{"device":"a","sriov":{"vlan":4095}}`, "spec.sriov.vlan", "4094"},
		"vlan missing":            {hostDevice, `{"device":"a","sriov":{"vlanQoS":3}}`, "spec.sriov.vlan", "is needed for vlanQoS"},
		"vlan 0 with a protocol":  {hostDevice, `{"device":"a","sriov":{"vlan":0,"vlanProto":"802.1ad"}}`, "spec.sriov.vlan", "is needed for"},
		"vlan protocol":           {hostDevice, `{"device":"a","sriov":{"vlan":1,"vlanProto":"qinq"}}`, "spec.sriov.vlanProto", "802.1ad"},
		"spoof check a string":    {hostDevice, `{"device":"a","sriov":{"spoofCheck":"on"}}`, "spec.sriov.spoofCheck", "must be of type boolean"},
		"link state":              {hostDevice, `{"device":"a","sriov":{"linkState":"up"}}`, "spec.sriov.linkState", `"enable"`},
		"rates":                   {hostDevice, `{"device":"a","sriov":{"minTxRate":9,"maxTxRate":5}}`, "spec.sriov.minTxRate", "more than maxTxRate"},
		"ToS":                     {"MacvlanNetwork", `{"roceToS":256}`, "spec.roceToS", "255"},
		"ToS without RDMA":        {hostDevice, `{"device":"a","roceToS":4,"rdma":"off"}`, "spec.roceToS", "means nothing where spec.rdma is off"},
		"ToS on InfiniBand":       {ipoib, `{"roceToS":4}`, "spec.roceToS", "is for RoCE"},
		"rail's ToS":              {rails, `{"rails":[{"roceToS":-1}]}`, "spec.rails[0].roceToS", "greater than or equal to 0"},
		"label":                   {rails, `{"rails":[{"label":"a b"}]}`, "spec.rails[0].label", "is no label"},
		"label and master":        {rails, `{"rails":[{"label":"a","master":"b"}]}`, "spec.rails[0].label", "write one of them"},
		"auto and label":          {rails, `{"kind":"sriov","rails":[{"label":"a","auto":true}]}`, "spec.rails[0].label", "write one of them"},
		"same label":              {rails, `{"rails":[{"label":"a"},{"label":"a"}]}`, "spec.rails", "same label"},
		"IPoIB mode":              {ipoib, `{"mode":"bridge"}`, "spec.mode", `"datagram"`},
		"pkey":                    {ipoib, `{"pkey":"8001h"}`, "spec.pkey", "0x8001"},
		"no spec":                 {rails, `null`, "spec", "Required value"},
		"no rails":                {rails, `{}`, "spec.rails", "Required value"},
		"empty rails":             {rails, `{"rails":[]}`, "spec.rails", "at least 1"},
		"too many rails":          {rails, `{"rails":[` + strings.Repeat("{},", 32) + `{}]}`, "spec.rails", "at most 32"},
		"kind of rails":           {rails, `{"kind":"ipoib","rails":[{}]}`, "spec.kind", `"host-device"`},
		"another kind's mode":     {rails, `{"kind":"ipvlan","mode":"bridge","rails":[{}]}`, "spec.mode", "l2, l3 or l3s for ipvlan"},
		"a mode of none":          {rails, `{"kind":"sriov","mode":"l2","rails":[{"device":"a"}]}`, "spec.mode", "nothing for the others"},
		"another kind's settings": {rails, `{"sriov":{},"rails":[{}]}`, "spec.sriov", "for virtual functions"},
		"device on macvlan":       {rails, `{"rails":[{},{"device":"a"}]}`, "spec.rails", "write master in each"},
		"master on host-device":   {rails, `{"kind":"host-device","rails":[{"device":"a","master":"b"}]}`, "spec.rails", "write device in each"},
		"rail without device":     {rails, `{"kind":"sriov","rails":[{"device":"a"},{}]}`, "spec.rails", "device is missing"},
		"same device":             {rails, `{"kind":"sriov","rails":[{"device":"a"},{"device":"a"}]}`, "spec.rails", "moved once only"},
		"same interface":          {rails, `{"rails":[{"interface":"a"},{},{"interface":"a"}]}`, "spec.rails", "same interface"},
		"same table":              {rails, `{"rails":[{"table":9},{},{"table":9}]}`, "spec.rails", "same table"},
		"kernel's table":          {rails, `{"rails":[{"table":254}]}`, "spec.rails[0].table", "256 and more"},
		"interface":               {rails, `{"rails":[{"interface":"net%d"}]}`, "spec.rails[0].interface", "percent signs"},
		"interface with a dash":   {rails, `{"rails":[{"interface":"-2"}]}`, "spec.rails[0].interface", "write one like net1"},
		"interface too long":      {rails, `{"rails":[{"interface":"sixteen-letters-"}]}`, "spec.rails[0].interface", "15"},
		"ipam and a rail's pool":  {rails, `{"ipam":"{\"type\":\"x\"}","rails":[{"pool":{"name":"p"}}]}`, "spec.ipam", "exclude each other"},
		"a rail without pool":     {rails, `{"rails":[{"pool":{"name":"p"}},{}]}`, "spec.pool", "write one here"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var spec map[string]any
			if err := json.Unmarshal([]byte(tc.spec), &spec); err != nil {
				t.Fatal(err)
			}
			o := networkObject(tc.kind, unique("bad"), spec)
			if spec == nil {
				delete(o.Object, "spec")
			}
			err := shared.client.Create(t.Context(), o)
			if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tc.wantField) || !strings.Contains(err.Error(), tc.wantText) {
				t.Errorf("error lacks %q or %q, or is none of Invalid:\n%v", tc.wantField, tc.wantText, err)
			}
		})
	}
}

// TestControllerRefuses: what only a parser can judge is said in the condition, and nothing is rendered.
func TestControllerRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		spec     map[string]any
		wantText string
	}{
		"ipam no JSON":             {map[string]any{"ipam": `{"type": "x",}`}, "spec.ipam: is no JSON"},
		"ipam without type":        {map[string]any{"ipam": `{"range": "10.0.0.0/8"}`}, "spec.ipam.type: is missing: name the CNI plugin's binary"},
		"own ipam without pool":    {map[string]any{"ipam": `{"type": "railyard-ipam"}`}, "spec.ipam.pool: is empty: write the name of an IPPool"},
		"metaPlugins with a comma": {map[string]any{"metaPlugins": `{"type":"a"},,{"type":"b"}`}, "spec.metaPlugins: is no JSON"},
		"metaPlugins break out":    {map[string]any{"metaPlugins": `{"type":"a"}],"x":[{"type":"b"}`}, "spec.metaPlugins: is no JSON (something follows"},
		"metaPlugins of a number":  {map[string]any{"metaPlugins": `[7]`}, "spec.metaPlugins[0]: is a JSON number"},
		"master with a colon":      {map[string]any{"master": "eth0:1"}, "spec.master: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := networkObject("MacvlanNetwork", unique("bad"), tc.spec)
			shared.create(t, n)
			got := shared.awaitReady(t, n.GetName(), v1alpha1.ReasonInvalidSpec)
			if got.Status.State != v1alpha1.StateError || !strings.Contains(got.Status.Reason, tc.wantText) {
				t.Errorf("status %+v lacks %q", got.Status, tc.wantText)
			}
			if nad, err := shared.nad(t, "default", n.GetName()); !apierrors.IsNotFound(err) {
				t.Errorf("it was rendered: %v, %v", nad, err)
			}
			if err := shared.client.Delete(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			shared.awaitGone(t, n)
		})
	}
}

// TestNVIDIASpecIsTaken: every field of the kinds of mellanox.com/v1alpha1, as its users write it.
func TestNVIDIASpecIsTaken(t *testing.T) {
	ipam := "{\n  \"type\": \"whereabouts\",\n  \"range\": \"192.168.2.225/28\",\n  \"exclude\": [\n    \"192.168.2.229/30\"\n  ]\n}\n"
	for kind, spec := range map[string]map[string]any{
		"MacvlanNetwork":    {"master": "ens2f0np0", "mode": "bridge", "mtu": int64(1500), "metaPlugins": `{"type": "tuning"}, {"type": "sbr"}`},
		"HostDeviceNetwork": {"resourceName": "hostdev", "metaPlugins": `{"type": "rdma"}`},
		"IPoIBNetwork":      {"master": "ibs3"},
	} {
		t.Run(kind, func(t *testing.T) {
			spec["networkNamespace"], spec["ipam"] = "", ipam
			o := networkObject(kind, unique("nvidia"), spec)
			shared.create(t, o)
			for _, n := range v1alpha1.Networks() {
				if v1alpha1.KindOf(n) != kind {
					continue
				}
				n.SetName(o.GetName())
				if got := shared.await(t, n, v1alpha1.ReasonRendered).NetworkAttachmentDefinition; got != "default/"+o.GetName() {
					t.Errorf("rendered to %s", got)
				}
			}
		})
	}
}

func networkObject(kind, name string, spec map[string]any) *unstructured.Unstructured {
	if spec == nil {
		spec = map[string]any{}
	}
	o := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	o.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	o.SetName(name)
	return o
}
