// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"
	nadutils "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/utils"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/railyard-net/railyard/netdef/api/v1alpha1"
	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/netdef/render"
)

var update = flag.Bool("update", false, "write the golden files")

func network(name string, spec v1alpha1.MacvlanNetworkSpec) *v1alpha1.MacvlanNetwork {
	return &v1alpha1.MacvlanNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
}

// read is the network in a document of YAML, of whatever kind it says.
func read(t *testing.T, text []byte) v1alpha1.Network {
	t.Helper()
	var head metav1.TypeMeta
	if err := yaml.Unmarshal(text, &head); err != nil {
		t.Fatal(err)
	}
	for _, n := range v1alpha1.Networks() {
		if v1alpha1.KindOf(n) == head.Kind {
			if err := yaml.UnmarshalStrict(text, n); err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("kind %q", head.Kind)
	return nil
}

// TestGolden renders testdata/NAME.in.yaml and compares with testdata/NAME.golden.yaml.
func TestGolden(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no inputs in testdata (%v)", err)
	}
	for _, in := range inputs {
		name := strings.TrimSuffix(filepath.Base(in), ".in.yaml")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(in)
			if err != nil {
				t.Fatal(err)
			}
			n := read(t, text)
			nad, err := render.Network(n)
			if err != nil {
				t.Fatal(err)
			}
			loads(t, nad.Spec.Config, n.GetName())
			got, err := yaml.Marshal(nad)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".golden.yaml")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("run the test with -update if this is meant (-golden +got):\n%s", diff)
			}
		})
	}
}

// loads checks that a runtime takes the configuration, by the library that Multus reads it with.
func loads(t *testing.T, config, name string) {
	t.Helper()
	text, err := nadutils.GetCNIConfigFromSpec(config, name)
	if err != nil {
		t.Fatal(err)
	}
	readName, readType := "", ""
	if strings.Contains(config, `"plugins":[`) {
		list, err := libcni.NetworkConfFromBytes(text)
		if err != nil {
			t.Fatal(err)
		}
		readName, readType = list.Name, list.Plugins[0].Network.Type
	} else {
		plugin, err := libcni.NetworkPluginConfFromBytes(text)
		if err != nil {
			t.Fatal(err)
		}
		readName, readType = plugin.Network.Name, plugin.Network.Type
	}
	if readName != name || readType != conf.Type {
		t.Errorf("the runtime reads network %q of type %q", readName, readType)
	}
}

// TestStringsStay guards against what text templates do to JSON: blanks taken out of strings, quotes that end the document.
func TestStringsStay(t *testing.T) {
	const value = "two  blanks, a 'quote', a \\\"double\\\", <b>&\u2028 and {{ .Braces }}\\n"
	section := `{ "type" : "other", "z": 1, "note": "` + value + `", "a": 1.50 }`
	nad, err := render.Network(network("rail0", v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{IPAM: section, MetaPlugins: `{"type":"tuning", "note": "` + value + `"}`}}))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"ipam":{"type":"other","z":1,"note":"` + value + `","a":1.50}`,
		`{"type":"tuning","note":"` + value + `"}`,
	} {
		if !strings.Contains(nad.Spec.Config, want) {
			t.Errorf("config %s\nlacks %s", nad.Spec.Config, want)
		}
	}
}

func TestRefused(t *testing.T) {
	long := strings.Repeat("n", 64)
	for name, tc := range map[string]struct {
		name      string
		spec      v1alpha1.MacvlanNetworkSpec
		wantField []string
		wantText  string
	}{
		"name too long":           {name: long, wantField: []string{"metadata.name"}, wantText: "use 1 to 63"},
		"name empty":              {name: "-", spec: v1alpha1.MacvlanNetworkSpec{}, wantField: []string{"metadata.name"}, wantText: "letter"},
		"ipam no JSON":            {spec: v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{IPAM: `{"type": }`}}, wantField: []string{"spec.ipam"}, wantText: "is no JSON"},
		"ipam cut short":          {spec: v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{IPAM: `{"type":"x"`}}, wantField: []string{"spec.ipam"}, wantText: "ends too early"},
		"ipam a list":             {spec: v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{IPAM: `[{"type":"x"}]`}}, wantField: []string{"spec.ipam"}, wantText: "write an object"},
		"ipam two objects":        {spec: v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{IPAM: `{"type":"x"},{"type":"y"}`}}, wantField: []string{"spec.ipam"}, wantText: "something follows"},
		"ipam without type":       {spec: v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{IPAM: `{"Type":"x"}`}}, wantField: []string{"spec.ipam.type"}, wantText: "is missing"},
		"ipam type a number":      {spec: v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{IPAM: `{"type":7}`}}, wantField: []string{"spec.ipam.type"}, wantText: "JSON number"},
		"ipam type null":          {spec: v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{IPAM: `{"type":null}`}}, wantField: []string{"spec.ipam.type"}, wantText: "JSON null"},
		"ipam type a path":        {spec: v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{IPAM: `{"type":"../sh"}`}}, wantField: []string{"spec.ipam.type"}, wantText: "bare name"},
		"own ipam without pool":   {spec: v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{IPAM: `{"type":"railyard-ipam"}`}}, wantField: []string{"spec.ipam.pool"}, wantText: "name of an IPPool"},
		"own ipam with pool 7":    {spec: v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{IPAM: `{"type":"railyard-ipam","pool":7}`}}, wantField: []string{"spec.ipam.pool"}, wantText: "write a string"},
		"pool and ipam":           {spec: v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{IPAM: `{"type":"x"}`, Pool: &v1alpha1.PoolReference{Name: "p"}}}, wantField: []string{"spec.ipam"}, wantText: "spec.pool"},
		"pool without name":       {spec: v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{Pool: &v1alpha1.PoolReference{}}}, wantField: []string{"spec.pool.name"}, wantText: "IPPool"},
		"mode":                    {spec: v1alpha1.MacvlanNetworkSpec{Mode: "brigde"}, wantField: []string{"spec.mode"}, wantText: "bridge"},
		"mtu":                     {spec: v1alpha1.MacvlanNetworkSpec{MTU: 67}, wantField: []string{"spec.mtu"}, wantText: "68"},
		"master":                  {spec: v1alpha1.MacvlanNetworkSpec{Master: "a b"}, wantField: []string{"spec.master"}, wantText: "link"},
		"metaPlugins no JSON":     {spec: v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{MetaPlugins: `{"type":"x"},`}}, wantField: []string{"spec.metaPlugins"}, wantText: "separated by commas"},
		"metaPlugins break out":   {spec: v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{MetaPlugins: `{"type":"x"}],"name":"y","z":[{}`}}, wantField: []string{"spec.metaPlugins"}, wantText: "something follows"},
		"metaPlugins of a string": {spec: v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{MetaPlugins: `{"type":"x"}, "sbr"`}}, wantField: []string{"spec.metaPlugins[1]"}, wantText: "write an object"},
		"metaPlugins null":        {spec: v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{MetaPlugins: `[null]`}}, wantField: []string{"spec.metaPlugins[0]"}, wantText: "write an object"},
		"metaPlugins, two wrong":  {spec: v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{MetaPlugins: `[{}, {"type":""}]`}}, wantField: []string{"spec.metaPlugins[0].type", "spec.metaPlugins[1].type"}, wantText: "name"},
		"metaPlugins unreadable":  {spec: v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{MetaPlugins: `{"type":"x","capabilities":5}, {"type":"y","ipam":"z"}`}}, wantField: []string{"spec.metaPlugins[0].capabilities", "spec.metaPlugins[1].ipam"}, wantText: "no CNI runtime"},
		"metaPlugins too many":    {spec: v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{MetaPlugins: strings.Repeat(`{"type":"x"},`, 32) + `{"type":"x"}`}}, wantField: []string{"spec.metaPlugins"}, wantText: "at most 32"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.name == "" {
				tc.name = "rail0"
			}
			nad, err := render.Network(network(tc.name, tc.spec))
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

// fields are the fields that err names.
func fields(err error) []string {
	var list interface{ Unwrap() []error }
	if errors.As(err, &list) {
		var out []string
		for _, e := range list.Unwrap() {
			out = append(out, fields(e)...)
		}
		return out
	}
	var f *render.FieldError
	if errors.As(err, &f) {
		return []string{f.Field}
	}
	return []string{err.Error()}
}

// FuzzMacvlan feeds the parsers of ipam and metaPlugins: what is not refused is JSON that the plugin and the runtime take, with as
// many plugins as were written.
func FuzzMacvlan(f *testing.F) {
	f.Add("rail0", `{"type":"nv-ipam","poolName":"rail0"}`, `{"type":"tuning","sysctl":{}}, {"type":"sbr"}`)
	f.Add("rail0", `{}`, `[{"type":"sbr"}]`)
	f.Add("r", "{\"type\":\"a\",\"s\":\"'\u2028<\"}", `{"type":"x"}],"x":[{}`)
	f.Add("a.b", " ", "[null]")
	f.Fuzz(func(t *testing.T, name, ipam, meta string) {
		n := network(name, v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{IPAM: ipam, MetaPlugins: meta}})
		nad, err := render.Network(n)
		if err != nil {
			if !errors.Is(err, render.ErrInvalid) {
				t.Fatalf("%v is no ErrInvalid", err)
			}
			return
		}
		again, err := render.Network(n)
		if err != nil || again.Spec.Config != nad.Spec.Config {
			t.Fatalf("rendered %s, then %s (%v)", nad.Spec.Config, again.Spec.Config, err)
		}
		if !json.Valid([]byte(nad.Spec.Config)) {
			t.Fatalf("no JSON: %s", nad.Spec.Config)
		}
		loads(t, nad.Spec.Config, name)
	})
}
