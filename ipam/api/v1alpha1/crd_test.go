// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/test/cluster"
)

// api is the one API server of this package's tests.
var api client.Client

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx := context.Background()
	a, err := cluster.StartAPI(ctx, cluster.APIOptions{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = a.Stop() }()
	if err := a.Apply(ctx, "manifests/crd/ipam.railyard.dev_ippools.yaml", "manifests/crd/ipam.railyard.dev_ipblocks.yaml"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	scheme := runtime.NewScheme()
	_ = v1alpha1.AddToScheme(scheme)
	cfg := a.RESTConfig()
	cfg.QPS = -1
	if api, err = client.New(cfg, client.Options{Scheme: scheme}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func object(t *testing.T, kind, name, spec string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte("spec: "+spec), &u.Object); err != nil {
		t.Fatal(err)
	}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	u.SetName(name)
	return u
}

// names counts the names given out, so that none is used twice (go test -count).
var names atomic.Int64

// name is one that nothing else has.
func name(t *testing.T) string {
	r := strings.NewReplacer("/", "-", "_", "-", ",", "", ":", "", "'", "")
	return fmt.Sprintf("%s-%d", strings.ToLower(r.Replace(strings.TrimPrefix(t.Name(), "Test"))), names.Add(1))
}

func wantRefusal(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("the API server took it; want a refusal that says %q", want)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the refusal does not say %q:\n%v", w, err)
		}
	}
}

func TestPoolRefused(t *testing.T) {
	long := strings.Repeat("a", 64)
	for title, tc := range map[string]struct {
		name, spec string
		want       []string
	}{
		"name too long":         {long, "{ipv4: {subnet: 10.0.0.0/24}}", []string{"metadata.name is longer than 63", "shorten it"}},
		"name with a dot":       {"a.b", "{ipv4: {subnet: 10.0.0.0/24}}", []string{"metadata.name must be a DNS label", "no dot"}},
		"no family":             {"x", "{cooldownSeconds: 1}", []string{"names neither ipv4 nor ipv6", "give at least one"}},
		"no spec":               {"x", "null", []string{"spec"}},
		"subnet of words":       {"x", "{ipv4: {subnet: rail-zero}}", []string{"spec.ipv4.subnet", "not a CIDR such as"}},
		"subnet is an address":  {"x", "{ipv4: {subnet: 10.0.0.1}}", []string{"spec.ipv4.subnet", "not a CIDR such as"}},
		"subnet of numbers":     {"x", "{ipv4: {subnet: 10}}", []string{"spec.ipv4.subnet", "must be of type string"}},
		"subnet missing":        {"x", "{ipv4: {}}", []string{"spec.ipv4.subnet", "Required"}},
		"host bits":             {"x", "{ipv4: {subnet: 10.0.0.1/24}}", []string{"spec.ipv4.subnet", "write its first address"}},
		"mapped":                {"x", "{ipv6: {subnet: '::ffff:10.0.0.0/120'}}", []string{"spec.ipv6.subnet", "IPv4-mapped IPv6 is written as IPv4"}},
		"slash 0":               {"x", "{ipv4: {subnet: 0.0.0.0/0}}", []string{"spec.ipv4.subnet", "use /8 or longer"}},
		"slash 0 v6":            {"x", "{ipv6: {subnet: '::/0'}}", []string{"spec.ipv6.subnet", "use /8 or longer"}},
		"v6 under ipv4":         {"x", "{ipv4: {subnet: 'fd00::/64'}}", []string{"spec.ipv4.subnet", "move it to spec.ipv6"}},
		"v4 under ipv6":         {"x", "{ipv6: {subnet: 10.0.0.0/24}}", []string{"spec.ipv6.subnet", "move it to spec.ipv4"}},
		"loopback":              {"x", "{ipv4: {subnet: 127.0.0.0/8}}", []string{"spec.ipv4.subnet", "addresses that hosts may own"}},
		"multicast":             {"x", "{ipv6: {subnet: 'ff00::/64'}}", []string{"spec.ipv6.subnet", "addresses that hosts may own"}},
		"link-local v6":         {"x", "{ipv6: {subnet: 'fe80::/64'}}", []string{"spec.ipv6.subnet", "addresses that hosts may own"}},
		"range of words":        {"x", "{ipv4: {subnet: 10.0.0.0/24, ranges: [all]}}", []string{"spec.ipv4.ranges[0]", "from-to such as"}},
		"range of three":        {"x", "{ipv4: {subnet: 10.0.0.0/24, ranges: [10.0.0.1-10.0.0.2-10.0.0.3]}}", []string{"spec.ipv4.ranges[0]", "from-to such as"}},
		"range host bits":       {"x", "{ipv4: {subnet: 10.0.0.0/24, ranges: [10.0.0.1/30]}}", []string{"spec.ipv4.ranges[0]", "write its first address"}},
		"range mapped":          {"x", "{ipv4: {subnet: 10.0.0.0/24, ranges: ['::ffff:10.0.0.1']}}", []string{"spec.ipv4.ranges[0]", "IPv4-mapped"}},
		"range outside":         {"x", "{ipv4: {subnet: 10.0.0.0/24, ranges: [10.0.0.9, 10.0.0.250-10.0.1.5]}}", []string{"spec.ipv4.ranges", "ranges must lie inside of subnet"}},
		"range wider":           {"x", "{ipv4: {subnet: 10.0.0.0/24, ranges: [10.0.0.0/23]}}", []string{"spec.ipv4.ranges", "inside of subnet"}},
		"range other family":    {"x", "{ipv4: {subnet: 10.0.0.0/24, ranges: ['fd00::1']}}", []string{"spec.ipv4.ranges", "inside of subnet"}},
		"exclude outside":       {"x", "{ipv6: {subnet: 'fd00::/64', exclude: ['fd01::/64']}}", []string{"spec.ipv6.exclude", "inside of subnet"}},
		"reserved outside":      {"x", "{ipv6: {subnet: 'fd00::/64', reserved: ['fd01::1']}}", []string{"spec.ipv6.reserved", "inside of subnet"}},
		"ranges not a list":     {"x", "{ipv4: {subnet: 10.0.0.0/24, ranges: 10.0.0.9}}", []string{"spec.ipv4.ranges", "must be of type array"}},
		"gateway of words":      {"x", "{ipv4: {subnet: 10.0.0.0/24, gateway: router}}", []string{"spec.ipv4.gateway", "not an IP address"}},
		"gateway outside":       {"x", "{ipv4: {subnet: 10.0.0.0/24, gateway: 10.0.1.1}}", []string{"spec.ipv4.gateway", "inside of subnet"}},
		"block of 48":           {"x", "{ipv4: {subnet: 10.0.0.0/24, blockSize: 48}}", []string{"spec.ipv4.blockSize", `supported values: "1", "2", "4"`}},
		"block of 8192":         {"x", "{ipv4: {subnet: 10.0.0.0/8, blockSize: 8192}}", []string{"spec.ipv4.blockSize", "4096"}},
		"route dst of words":    {"x", "{ipv4: {subnet: 10.0.0.0/24}, routes: [{dst: default}]}", []string{"spec.routes[0].dst", "not a CIDR"}},
		"route dst host bits":   {"x", "{ipv4: {subnet: 10.0.0.0/24}, routes: [{dst: 10.1.1.1/8}]}", []string{"spec.routes[0].dst", "write its first address"}},
		"route via of words":    {"x", "{ipv4: {subnet: 10.0.0.0/24}, routes: [{dst: 10.0.0.0/8, via: gw}]}", []string{"spec.routes[0].via", "not an IP address"}},
		"default route, no gw":  {"x", "{ipv4: {subnet: 10.0.0.0/24}, defaultRoute: true}", []string{"spec.defaultRoute", "needs spec.ipv4.gateway"}},
		"default route, one gw": {"x", "{ipv4: {subnet: 10.0.0.0/24, gateway: 10.0.0.1}, ipv6: {subnet: 'fd00::/64'}, defaultRoute: true}", []string{"spec.defaultRoute", "spec.ipv6.gateway"}},
		"high below low":        {"x", "{ipv4: {subnet: 10.0.0.0/24}, watermarks: {low: 9, high: 8}}", []string{"spec.watermarks.high", "less than watermarks.low"}},
		"low negative":          {"x", "{ipv4: {subnet: 10.0.0.0/24}, watermarks: {low: -1}}", []string{"spec.watermarks.low", "greater than or equal to 0"}},
		"cooldown negative":     {"x", "{ipv4: {subnet: 10.0.0.0/24}, cooldownSeconds: -1}", []string{"spec.cooldownSeconds", "greater than or equal to 0"}},
		"domain with a dot":     {"x", "{ipv4: {subnet: 10.0.0.0/24}, domain: a.b}", []string{"spec.domain"}},
		"too many ranges":       {"x", "{ipv4: {subnet: 10.0.0.0/24, ranges: [" + strings.Repeat("10.0.0.9,", 65) + "]}}", []string{"spec.ipv4.ranges", "at most 64"}},
	} {
		t.Run(title, func(t *testing.T) {
			wantRefusal(t, api.Create(t.Context(), object(t, "IPPool", tc.name, tc.spec)), tc.want...)
		})
	}
}

func TestPoolTaken(t *testing.T) {
	for title, spec := range map[string]string{
		"least":     "{ipv4: {subnet: 10.0.0.0/24}}",
		"slash 31":  "{ipv4: {subnet: 10.0.0.0/31}}",
		"slash 32":  "{ipv4: {subnet: 10.0.0.1/32}}",
		"slash 128": "{ipv6: {subnet: 'fd00::1/128'}}",
		"slash 127": "{ipv6: {subnet: 'fd00::/127'}}",
		"spelling":  "{ipv6: {subnet: 'FD00:0:0::/64', ranges: ['fd00::1-FD00::9', 'fd00::100/120', 'fd00::5000']}}",
		"all": `{domain: fabric-a, ipv4: {subnet: 10.0.0.0/16, ranges: [10.0.1.0/24, 10.0.2.1-10.0.2.9], exclude: [10.0.1.5],
			reserved: [10.0.9.0/24], gateway: 10.0.0.1, blockSize: 16}, ipv6: {subnet: 'fd00::/64', gateway: 'fd00::1'},
			routes: [{dst: 10.0.0.0/8}, {dst: 'fd00::/8', via: 'fd00::2'}], defaultRoute: true, cooldownSeconds: 0, watermarks: {low: 4, high: 4, keepLast: false},
			nodeSelector: {matchLabels: {rail: yes}}}`,
	} {
		t.Run(title, func(t *testing.T) {
			o := object(t, "IPPool", name(t), spec)
			if title == "all" {
				_ = unstructured.SetNestedField(o.Object, "yes", "spec", "nodeSelector", "matchLabels", "rail")
			}
			if err := api.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			var p v1alpha1.IPPool
			if err := api.Get(t.Context(), client.ObjectKey{Name: o.GetName()}, &p); err != nil {
				t.Fatal(err)
			}
			if p.Spec.Domain == "" || p.Spec.CooldownSeconds == nil {
				t.Errorf("no defaults in %+v", p.Spec)
			}
			if _, err := p.Parse(); err != nil {
				t.Errorf("the schema took what Parse refuses: %v", err)
			}
		})
	}
}

func TestPoolEdits(t *testing.T) {
	const v4 = "subnet: 10.0.0.0/24"
	for title, tc := range map[string]struct {
		from, to string
		want     []string // nil: allowed
	}{
		"more ranges":    {"{ipv4: {" + v4 + ", ranges: [10.0.0.9]}}", "{ipv4: {" + v4 + ", ranges: [10.0.0.9, 10.0.0.20]}}", nil},
		"family added":   {"{ipv4: {" + v4 + "}}", "{ipv4: {" + v4 + "}, ipv6: {subnet: 'fd00::/64'}}", nil},
		"family removed": {"{ipv4: {" + v4 + "}, ipv6: {subnet: 'fd00::/64'}}", "{ipv4: {" + v4 + "}}", []string{"spec.ipv6", "cannot be removed", "make a new pool"}},
		"family swapped": {"{ipv4: {" + v4 + "}}", "{ipv6: {subnet: 'fd00::/64'}}", []string{"spec.ipv4", "cannot be removed"}},
		"subnet":         {"{ipv4: {" + v4 + "}}", "{ipv4: {subnet: 10.0.0.0/23}}", []string{"spec.ipv4.subnet", "never changes"}},
		"blockSize":      {"{ipv4: {" + v4 + "}}", "{ipv4: {" + v4 + ", blockSize: 32}}", []string{"spec.ipv4.blockSize", "never changes"}},
		"domain":         {"{ipv4: {" + v4 + "}}", "{domain: other, ipv4: {" + v4 + "}}", []string{"spec.domain", "never changes"}},
	} {
		t.Run(title, func(t *testing.T) {
			o := object(t, "IPPool", name(t), tc.from)
			if err := api.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			next := object(t, "IPPool", o.GetName(), tc.to)
			next.SetResourceVersion(o.GetResourceVersion())
			err := api.Update(t.Context(), next)
			switch {
			case tc.want != nil:
				wantRefusal(t, err, tc.want...)
			case err != nil:
				t.Fatal(err)
			}
		})
	}
}

func TestBlockRefused(t *testing.T) {
	share := func(s string) string {
		return "{pool: x, poolUID: u, slot: 10.0.0.0/26, shares: [" + s + "]}"
	}
	for title, tc := range map[string]struct {
		name, spec string
		want       []string
	}{
		"other pool's name": {"y.10-0-0-0", share(""), []string{"metadata.name must be spec.pool, a dot"}},
		"slot of words":     {"x.all", "{pool: x, poolUID: u, slot: all-of-it}", []string{"spec.slot", "must be a CIDR"}},
		"slot host bits":    {"x.10-0-0-1", "{pool: x, poolUID: u, slot: 10.0.0.1/26}", []string{"spec.slot", "without bits"}},
		"slot too wide":     {"x.10-0-0-0", "{pool: x, poolUID: u, slot: 10.0.0.0/16}", []string{"spec.slot", "at most 4096"}},
		"no uid":            {"x.10-0-0-0", "{pool: x, slot: 10.0.0.0/26}", []string{"spec.poolUID", "Required"}},
		"share, no session": {"x.10-0-0-0", share("{node: a, nodeUID: u, ranges: [10.0.0.1]}"), []string{"session", "Required"}},
		"share, no ranges":  {"x.10-0-0-0", share("{node: a, nodeUID: u, session: s, ranges: []}"), []string{"ranges", "at least 1"}},
		"share of words":    {"x.10-0-0-0", share("{node: a, nodeUID: u, session: s, ranges: [all-of-it]}"), []string{"spec.shares[0].ranges[0]"}},
		"want of nobody":    {"x.10-0-0-0", "{pool: x, poolUID: u, slot: 10.0.0.0/26, wants: [{node: a, nodeUID: u, session: s, count: 1, expires: '2026-01-02T03:04:05.000000Z'}]}", []string{"spec.wants[0].from", "Required"}},
		"want without end":  {"x.10-0-0-0", "{pool: x, poolUID: u, slot: 10.0.0.0/26, wants: [{node: a, nodeUID: u, session: s, from: b, count: 1}]}", []string{"spec.wants[0].expires", "Required"}},
		"want of nothing":   {"x.10-0-0-0", "{pool: x, poolUID: u, slot: 10.0.0.0/26, wants: [{node: a, nodeUID: u, session: s, from: b, count: 0, expires: '2026-01-02T03:04:05.000000Z'}]}", []string{"spec.wants[0].count"}},
		"two of one node":   {"x.10-0-0-0", share("{node: a, nodeUID: u, session: s, ranges: [10.0.0.1]}, {node: a, nodeUID: u, session: s, ranges: [10.0.0.2]}"), []string{"spec.shares[1]", "Duplicate"}},
	} {
		t.Run(title, func(t *testing.T) {
			wantRefusal(t, api.Create(t.Context(), object(t, "IPBlock", tc.name, tc.spec)), tc.want...)
		})
	}
}

func TestBlockImmutable(t *testing.T) {
	pool := name(t)
	o := object(t, "IPBlock", pool+".10-0-0-0", "{pool: "+pool+", poolUID: u, slot: 10.0.0.0/26}")
	if err := api.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for field, value := range map[string]string{"pool": "other", "poolUID": "v", "slot": "10.0.0.0/27"} {
		n := o.DeepCopy()
		_ = unstructured.SetNestedField(n.Object, value, "spec", field)
		wantRefusal(t, api.Update(t.Context(), n), "spec."+field, "never changes")
	}
}

func TestStatusIsASubresource(t *testing.T) {
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name(t)}}
	p.Spec.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/24"}
	p.Status.Capacity = "7"
	if err := api.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if p.Status.Capacity != "" {
		t.Errorf("a create set the status to %+v", p.Status)
	}
	p.Status.Capacity = "253"
	if err := api.Status().Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if p.Status.Capacity != "253" || p.Generation != 1 {
		t.Errorf("after a status update: generation %d, %+v", p.Generation, p.Status)
	}
}
