// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/railyard-net/railyard/test/cluster"
)

const chart = "chart"

// helm runs helm, which "make test" does not need.
func helm(t *testing.T, args ...string) ([]byte, error) {
	t.Helper()
	path, err := api.Tools().Path("helm")
	if err != nil {
		t.Skip("helm is not built: \"make chart\" builds it and runs this")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	// Nothing of the user's: helm keeps repositories and plugins in the home folder.
	home := t.TempDir()
	cmd.Env = []string{"HOME=" + home, "HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("helm %s: %w\n%s", strings.Join(args, " "), err, &stderr)
	}
	return out, err
}

// rendered gives the objects of the chart by their names, installed into the agent's namespace.
func rendered(t *testing.T, args ...string) map[string]*unstructured.Unstructured {
	t.Helper()
	out, err := helm(t, append([]string{"template", "railyard", chart, "--namespace=" + cluster.AgentNamespace}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return objects(t, out)
}

func objects(t *testing.T, manifest []byte) map[string]*unstructured.Unstructured {
	t.Helper()
	all := map[string]*unstructured.Unstructured{}
	for d := kyaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifest), 4096); ; {
		o := &unstructured.Unstructured{}
		if err := d.Decode(o); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if len(o.Object) == 0 {
			continue
		}
		name := strings.Join([]string{o.GetAPIVersion(), o.GetKind(), o.GetNamespace(), o.GetName()}, " ")
		if all[name] != nil {
			t.Errorf("%s is there twice", name)
		}
		all[name] = o
	}
}

// TestChartIsKustomize: helm and kubectl install the same objects. The namespace alone is not the chart's: helm wants it before.
func TestChartIsKustomize(t *testing.T) {
	got := rendered(t)
	out, err := api.Kubectl(t.Context(), "kustomize", "install").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := objects(t, out)
	namespace := "v1 Namespace  " + cluster.AgentNamespace
	if want[namespace] == nil {
		t.Errorf("manifests/install has no %s", namespace)
	}
	delete(want, namespace)
	for name, o := range got {
		if o.GetKind() != "CustomResourceDefinition" {
			continue
		}
		a := o.GetAnnotations()
		if a["helm.sh/resource-policy"] != "keep" {
			t.Errorf("%s would go with the release, and all its objects", name)
		}
		delete(a, "helm.sh/resource-policy")
		o.SetAnnotations(a)
	}
	if diff := cmp.Diff(plain(t, want), plain(t, got)); diff != "" {
		t.Errorf("(-manifests/install +manifests/chart):\n%s", diff)
	}
}

// plain makes objects comparable: numbers have one type, whoever parsed them.
func plain(t *testing.T, all map[string]*unstructured.Unstructured) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for name, o := range all {
		data, err := yaml.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = string(data)
	}
	return texts
}

func TestChartLint(t *testing.T) {
	if out, err := helm(t, "lint", "--strict", chart, "--values="+writeValues(t, changed())); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// changed is another value for each one that the chart has.
func changed() map[string]any {
	resources := map[string]any{"requests": map[string]any{"cpu": "50m"}, "limits": map[string]any{"memory": "512Mi"}}
	affinity := map[string]any{"nodeAffinity": map[string]any{"requiredDuringSchedulingIgnoredDuringExecution": map[string]any{
		"nodeSelectorTerms": []any{map[string]any{"matchExpressions": []any{map[string]any{"key": "rails", "operator": "Exists"}}}},
	}}}
	pods := func(more map[string]any) map[string]any {
		maps.Copy(more, map[string]any{
			"nodeSelector": map[string]any{"rails": "yes"}, "affinity": affinity, "tolerations": []any{map[string]any{"key": "only", "operator": "Exists"}},
			"priorityClassName": "system-cluster-critical", "resources": resources, "args": []any{"--log-level=debug"},
			"env": []any{map[string]any{"name": "GOGC", "value": "50"}}, "podAnnotations": map[string]any{"example.com/a": "b"},
		})
		return more
	}
	controller := pods(map[string]any{"replicas": 3, "quarantine": "72h", "nodeGate": "boot"})
	controller["priorityClassName"] = "system-node-critical"
	return map[string]any{
		"image":            map[string]any{"repository": "registry.example.com/railyard", "tag": "v9", "digest": "sha256:" + strings.Repeat("0", 64), "pullPolicy": "Always"},
		"imagePullSecrets": []any{map[string]any{"name": "regcred"}}, "commonLabels": map[string]any{"example.com/team": "net"},
		"crds":    map[string]any{"install": false, "keep": false},
		"cni":     map[string]any{"install": false, "binDir": "/var/lib/cni/bin", "as": []any{"whereabouts", "nv-ipam"}, "resources": resources},
		"kubelet": map[string]any{"root": "/data/kubelet"}, "agent": pods(map[string]any{"maxUnavailable": 3}), "controller": controller,
		"compatibility": map[string]any{"whereaboutsPools": true},
		"devicePlugin":  map[string]any{"enabled": false, "resources": resources, "args": []any{"--log-level=debug"}, "env": []any{map[string]any{"name": "GOGC", "value": "50"}}},
	}
}

func writeValues(t *testing.T, values map[string]any) string {
	t.Helper()
	data, err := yaml.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestChartValues: each value changes what is installed, and the API server takes the result.
func TestChartValues(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(chart, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var defaults map[string]any
	if err := yaml.Unmarshal(data, &defaults); err != nil {
		t.Fatal(err)
	}
	before := plain(t, rendered(t))
	for section, value := range changed() {
		if _, there := defaults[section]; !there {
			t.Errorf("the chart has no value %s", section)
		}
		of, nested := value.(map[string]any)
		if section == "commonLabels" || !nested {
			differs(t, before, section, map[string]any{section: value})
			continue
		}
		for name, v := range of {
			differs(t, before, section+"."+name, map[string]any{section: map[string]any{name: v}})
		}
	}
	untested(t, "", defaults, changed())
}

// untested fails for each default that changed does not change.
func untested(t *testing.T, prefix string, defaults, changed map[string]any) {
	t.Helper()
	for name, value := range defaults {
		other, there := changed[name]
		if !there || reflect.DeepEqual(other, value) {
			t.Errorf("no test changes the value %s%s", prefix, name)
		}
		if of, nested := value.(map[string]any); nested && prefix == "" && len(of) > 0 {
			untested(t, name+".", of, other.(map[string]any))
		}
	}
}

// differs fails unless these values make a difference, and objects that the API server would take.
func differs(t *testing.T, before map[string]string, name string, values map[string]any) {
	t.Helper()
	out, err := helm(t, "template", "railyard", chart, "--namespace="+cluster.AgentNamespace, "--values="+writeValues(t, values))
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if cmp.Equal(before, plain(t, objects(t, out))) {
		t.Errorf("%s changes nothing", name)
	}
	cmd := api.Kubectl(t.Context(), "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-")
	cmd.Stdin = bytes.NewReader(out)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", name, err, out)
	}
}

// TestChartRefuses: what is no value, or cannot be one, is refused with its name.
func TestChartRefuses(t *testing.T) {
	for set, want := range map[string]string{
		"agnet.args=x":            "agnet",
		"agent.image=x":           "image",
		"cni.binDir=opt/cni":      "binDir",
		"cni.as={calico}":         "as",
		"controller.replicas=0":   "replicas",
		"image.digest=md5:0":      "digest",
		"crds.keep=maybe":         "keep",
		"controller.quarantine=x": "quarantine",
		"agent.maxUnavailable=0":  "maxUnavailable",
	} {
		if out, err := helm(t, "template", "railyard", chart, "--set", set); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it\n%.200s", set, err, want, out)
		}
	}
}

// TestChartElsewhere: in another namespace, nothing refers to the usual one.
func TestChartElsewhere(t *testing.T) {
	out, err := helm(t, "template", "other", chart, "--namespace=rails")
	if err != nil {
		t.Fatal(err)
	}
	if i := bytes.Index(out, []byte(cluster.AgentNamespace)); i >= 0 {
		t.Errorf("still there: %s", out[max(0, i-100):i+50])
	}
	namespaces := map[string]bool{}
	for _, o := range objects(t, out) {
		namespaces[o.GetNamespace()] = true
	}
	if got := slices.Sorted(maps.Keys(namespaces)); !slices.Equal(got, []string{"", "rails"}) {
		t.Errorf("objects are in the namespaces %q", got)
	}
}
