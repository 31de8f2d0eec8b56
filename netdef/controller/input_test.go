// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

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
			err := shared.client.Create(t.Context(), networkObject(tc.name, tc.spec))
			if !apierrors.IsInvalid(err) {
				t.Fatalf("error %v", err)
			}
			if !strings.Contains(err.Error(), tc.wantField) || !strings.Contains(err.Error(), tc.wantText) {
				t.Errorf("error lacks %q or %q:\n%v", tc.wantField, tc.wantText, err)
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
			n := networkObject(unique("bad"), tc.spec)
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

// TestNVIDIASpecIsTaken: every field of mellanox.com/v1alpha1 MacvlanNetwork, as its users write it.
func TestNVIDIASpecIsTaken(t *testing.T) {
	n := networkObject(unique("nvidia"), map[string]any{
		"networkNamespace": "", "master": "ens2f0np0", "mode": "bridge", "mtu": int64(1500),
		"ipam":        "{\n  \"type\": \"whereabouts\",\n  \"range\": \"192.168.2.225/28\",\n  \"exclude\": [\n    \"192.168.2.229/30\"\n  ]\n}\n",
		"metaPlugins": `{"type": "tuning"}, {"type": "sbr"}`,
	})
	shared.create(t, n)
	got := shared.awaitReady(t, n.GetName(), v1alpha1.ReasonRendered)
	if got.Status.NetworkAttachmentDefinition != (types.NamespacedName{Namespace: "default", Name: n.GetName()}).String() {
		t.Errorf("status %+v", got.Status)
	}
}

func networkObject(name string, spec map[string]any) *unstructured.Unstructured {
	if spec == nil {
		spec = map[string]any{}
	}
	o := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	o.SetGroupVersionKind(networkGVK)
	o.SetName(name)
	return o
}
