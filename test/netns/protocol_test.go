// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/plugins/dispatch"
)

// TestConformance_A: the protocol. Nothing of a refused call may leave a trace.
func TestConformance_A(t *testing.T) {
	l := newLab(t)
	pod := newSpace(t)
	regular := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(regular, nil, 0o600))
	add := call{verb: "ADD", id: "c1", ifName: "net1", netns: pod.path}
	mutate := func(f func(*call)) call {
		c := add
		f(&c)
		return c
	}
	field := func(key string, value any) call { return add.with(map[string]any{key: value}) }
	cases := map[string]struct {
		call      call
		wantCode  uint
		wantWords string
	}{
		"version_9.9.9":          {field("cniVersion", "9.9.9"), 1, "cniVersion"},
		"version_0.2.0":          {field("cniVersion", "0.2.0"), 1, "0.3.0"},
		"version_missing":        {field("cniVersion", nil), 1, "missing"},
		"version_number":         {field("cniVersion", 1), 7, "cniVersion"},
		"bad_json":               {mutate(func(c *call) { c.stdin = "{" }), 6, "JSON"},
		"json_list":              {mutate(func(c *call) { c.stdin = "[]" }), 6, "JSON"},
		"json_null":              {mutate(func(c *call) { c.stdin = "null" }), 6, "JSON"},
		"no_stdin":               {mutate(func(c *call) { c.stdin = " " }), 6, "JSON"},
		"name_missing":           {field("name", nil), 7, "name"},
		"name_with_slash":        {field("name", "a/b"), 7, "name"},
		"name_too_long":          {field("name", strings.Repeat("n", 254)), 7, "253"},
		"type_missing":           {field("type", nil), 7, "type"},
		"verb_unknown":           {mutate(func(c *call) { c.verb = "UPDATE" }), 4, "UPDATE"},
		"verb_missing":           {mutate(func(c *call) { c.verb = "" }), 4, "CNI_COMMAND"},
		"container_missing":      {mutate(func(c *call) { c.id = "" }), 4, "CNI_CONTAINERID"},
		"container_with_slash":   {mutate(func(c *call) { c.id = "../x" }), 4, "CNI_CONTAINERID"},
		"container_too_long":     {mutate(func(c *call) { c.id = strings.Repeat("c", 300) }), 4, "256"},
		"ifname_missing":         {mutate(func(c *call) { c.ifName = "" }), 4, "CNI_IFNAME"},
		"ifname_of_16":           {mutate(func(c *call) { c.ifName = "a234567890123456" }), 4, "15"},
		"ifname_with_slash":      {mutate(func(c *call) { c.ifName = "a/b" }), 4, "slash"},
		"ifname_is_a_template":   {mutate(func(c *call) { c.ifName = "net%d" }), 4, "net%d"},
		"ifname_of_all":          {mutate(func(c *call) { c.ifName = "all" }), 4, "all"},
		"ifname_of_the_default":  {mutate(func(c *call) { c.ifName = "default" }), 4, "default"},
		"ifname_not_utf8":        {mutate(func(c *call) { c.ifName = "a\xff" }), 4, "CNI_IFNAME"},
		"netns_missing":          {mutate(func(c *call) { c.netns = "" }), 4, "CNI_NETNS"},
		"netns_no_such_path":     {mutate(func(c *call) { c.netns = "/no/such" }), 8, "/no/such"},
		"netns_regular_file":     {mutate(func(c *call) { c.netns = regular }), 8, "not a network namespace"},
		"netns_of_another_kind":  {mutate(func(c *call) { c.netns = "/proc/self/ns/mnt" }), 8, "not a network namespace"},
		"netns_proc_file":        {mutate(func(c *call) { c.netns = "/proc/self/stat" }), 8, "not a network namespace"},
		"netns_is_the_host's":    {mutate(func(c *call) { c.netns = l.host.path }), 8, "own namespace"},
		"args_malformed":         {mutate(func(c *call) { c.args = "A=1;B" }), 4, "CNI_ARGS"},
		"mtu_is_text":            {field("mtu", "9000"), 7, "mtu: is a string"},
		"mtu_negative":           {field("mtu", -1), 7, "mtu"},
		"mtu_tiny":               {field("mtu", 10), 7, "mtu"},
		"mtu_too_small_for_ipv6": {field("mtu", 1279), 7, "1280"},
		"mode_unknown":           {field("mode", "magic"), 7, "mode"},
		"kind_unknown":           {field("kind", "magic"), 7, "kind"},
		"master_is_a_list":       {field("master", []string{"rail0"}), 7, "master"},
		"master_with_slash":      {field("master", "../rail0"), 7, "master"},
		"mac_malformed":          {field("mac", "02:00"), 7, "mac"},
		"mac_of_a_group":         {field("mac", "01:00:5e:00:00:01"), 7, "group"},
		"mac_and_passthru":       {add.with(map[string]any{"mac": "02:00:00:00:00:01", "mode": "passthru"}), 7, "mac"},
		"ipam_is_text":           {field("ipam", "railyard-ipam"), 7, "ipam"},
		"ipam_type_with_slash":   {field("ipam", map[string]any{"type": "../x"}), 7, "ipam.type"},
		"pool_missing":           {field("ipam", map[string]any{"type": "railyard-ipam"}), 7, "ipam.pool"},
		"pool_unknown":           {field("ipam", map[string]any{"type": "railyard-ipam", "pool": "nope"}), 7, "nope"},
		"pool_no_name":           {field("ipam", map[string]any{"type": "railyard-ipam", "pool": "A B"}), 7, "pool"},
		"sysctl_of_the_machine":  {field("sysctl", map[string]any{"kernel.panic": "1"}), 7, "sysctl.kernel.panic"},
		"sysctl_escapes":         {field("sysctl", map[string]any{"net/../kernel/panic": "1"}), 7, "sysctl"},
		"sysctl_unknown":         {field("sysctl", map[string]any{"net.ipv4.no_such": "1"}), dispatch.CodeSysctl, "no_such"},
		"statedir_relative":      {field("stateDir", "state"), 7, "stateDir"},
		"statedir_too_long":      {field("stateDir", l.dir+"/"+strings.Repeat("d", 120)), 7, "agentSocket"},
		"ips_mapped":             {field("runtimeConfig", map[string]any{"ips": []string{"::ffff:10.20.255.7"}}), 7, "runtimeConfig.ips[0]"},
		"ips_two_of_a_family":    {field("runtimeConfig", map[string]any{"ips": []string{"10.20.255.7", "10.20.255.8"}}), 7, "runtimeConfig.ips[1]"},
		"ips_no_address":         {field("runtimeConfig", map[string]any{"ips": []string{"ten"}}), 7, "runtimeConfig.ips[0]"},
		"ips_not_reserved":       {field("runtimeConfig", map[string]any{"ips": []string{"10.20.1.9"}}), 7, "10.20.1.9"},
		"prevresult_is_text":     {field("prevResult", "x"), 7, "prevResult"},
		"check_before_0.4.0":     {mutate(func(c *call) { c.verb = "CHECK"; c.conf = map[string]any{"cniVersion": "0.3.1"} }), 1, "CHECK"},
		"status_before_1.1.0":    {call{verb: "STATUS", conf: map[string]any{"cniVersion": "1.0.0"}}, 1, "STATUS"},
		"gc_before_1.1.0":        {call{verb: "GC", conf: map[string]any{"cniVersion": "1.0.0"}}, 1, "GC"},
		"gc_without_list":        {call{verb: "GC"}, 7, "valid-attachments"},
		"gc_with_text":           {call{verb: "GC", conf: map[string]any{"cni.dev/valid-attachments": "x"}}, 7, "valid-attachments"},
		"check_of_the_unknown":   {mutate(func(c *call) { c.verb = "CHECK" }), 3, "c1"},
		"check_without_netns":    {mutate(func(c *call) { c.verb = "CHECK"; c.netns = "" }), 4, "CNI_NETNS"},
		"del_without_container":  {mutate(func(c *call) { c.verb = "DEL"; c.id = "" }), 4, "CNI_CONTAINERID"},
		"master_missing_on_host": {field("master", "nosuch"), dispatch.CodeMaster, "nosuch"},
	}
	before := l.snapshot(pod)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			l.t = t
			l.mustFail(c.wantCode, c.wantWords, c.call)
			if diff := cmp.Diff(before, l.snapshot(pod)); diff != "" {
				t.Errorf("the call left something behind (-before +after):\n%s", diff)
			}
		})
	}
	l.t = t
}

func TestConformance_A_VERSION(t *testing.T) {
	l := newLab(t)
	a := l.mustRun(call{verb: "VERSION", stdin: `{"cniVersion":"1.0.0"}`})
	var got struct {
		CNIVersion        string
		SupportedVersions []string
	}
	must(t, json.Unmarshal([]byte(a.stdout), &got))
	if diff := cmp.Diff(dispatch.Versions(), got.SupportedVersions); diff != "" || got.CNIVersion != "1.1.0" {
		t.Errorf("VERSION: %s\n%s", a.stdout, diff)
	}
}

// TestConformance_A_Versions: every version of the specification gets its own shape of result, and its DEL.
func TestConformance_A_Versions(t *testing.T) {
	l := newLab(t)
	for _, v := range dispatch.Versions() {
		t.Run(v, func(t *testing.T) {
			l.t = t
			pod := newSpace(t)
			c := call{verb: "ADD", id: "c-" + v, ifName: "net1", netns: pod.path, env: map[string]string{"CNI_PATH": ""}}.with(
				map[string]any{"cniVersion": v, "unknown": map[string]any{"key": 1}})
			a := l.mustRun(c)
			var r struct {
				CNIVersion string
				Interfaces []map[string]any
				IPs        []map[string]any
			}
			must(t, json.Unmarshal([]byte(a.stdout), &r))
			_, family := r.IPs[0]["version"]
			if r.CNIVersion != v || family != (v < "1.0.0") || len(r.IPs) != 2 || r.IPs[0]["interface"] != 0.0 ||
				r.Interfaces[0]["name"] != "net1" || r.Interfaces[0]["sandbox"] != pod.path {
				t.Errorf("the result at %s: %s", v, a.stdout)
			}
			if a.stderr != "" {
				t.Errorf("stderr of a good call: %s", a.stderr)
			}
			if v >= "0.4.0" {
				check := c
				check.verb = "CHECK"
				check.conf["prevResult"] = json.RawMessage(a.stdout)
				l.mustRun(check)
			}
			c.verb = "DEL"
			if got := l.mustRun(c).stdout; got != "" {
				t.Errorf("DEL wrote %q", got)
			}
		})
	}
	l.t = t
}
