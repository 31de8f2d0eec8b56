// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"sigs.k8s.io/yaml"

	"github.com/railyard-net/railyard/netdef/api/v1alpha1"
	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/netdef/render"
)

// TestDocumented holds the user's documentation to the truth: the JSON that follows a network in it is what the network renders to,
// what a definition by hand holds is what the plugin takes, and every kind is there.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/user/networks.md")
	if err != nil {
		t.Fatal(err)
	}
	seen, rendered := map[string]bool{}, ""
	for _, fence := range regexp.MustCompile("(?s)```(yaml|json)\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		if fence[1] == "json" {
			var got bytes.Buffer
			if err := json.Compact(&got, []byte(fence[2])); err != nil {
				t.Fatalf("%v in\n%s", err, fence[2])
			}
			if diff := cmp.Diff(rendered, got.String()); diff != "" {
				t.Errorf("documented is not what is rendered (-rendered +documented):\n%s", diff)
			}
			continue
		}
		for _, doc := range strings.Split(fence[2], "\n---\n") {
			var head struct{ APIVersion, Kind string }
			if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
				t.Fatalf("%v in\n%s", err, doc)
			}
			seen[head.Kind] = true
			switch {
			case head.APIVersion == v1alpha1.GroupVersion.String():
				nad, err := render.Network(read(t, []byte(doc)))
				if err != nil {
					t.Fatalf("%v in\n%s", err, doc)
				}
				rendered = nad.Spec.Config
			case head.Kind == "NetworkAttachmentDefinition":
				checkByHand(t, doc)
			}
		}
	}
	for _, n := range v1alpha1.Networks() {
		if !seen[v1alpha1.KindOf(n)] {
			t.Errorf("no example of %s", v1alpha1.KindOf(n))
		}
	}
}

// checkByHand parses our plugin's part of a definition as the runtime hands it over.
func checkByHand(t *testing.T, doc string) {
	t.Helper()
	var nad nadv1.NetworkAttachmentDefinition
	if err := yaml.UnmarshalStrict([]byte(doc), &nad); err != nil {
		t.Fatal(err)
	}
	var config struct {
		Name    string           `json:"name"`
		Plugins []map[string]any `json:"plugins"`
	}
	if err := json.Unmarshal([]byte(nad.Spec.Config), &config); err != nil {
		t.Fatal(err)
	}
	parts := config.Plugins
	if parts == nil {
		var one map[string]any
		if err := json.Unmarshal([]byte(nad.Spec.Config), &one); err != nil {
			t.Fatal(err)
		}
		parts = append(parts, one)
	}
	for i, part := range parts {
		if part["type"] != conf.Type {
			continue
		}
		if part["name"] = config.Name; i > 0 {
			part["prevResult"] = map[string]any{}
		}
		text, err := json.Marshal(part)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conf.Parse(text, ""); err != nil {
			t.Errorf("%v in\n%s", err, doc)
		}
		return
	}
	t.Errorf("no plugin of ours in\n%s", doc)
}
