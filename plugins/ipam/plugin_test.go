// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package ipamplugin_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/client"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/plugins/dispatch"
	ipamplugin "github.com/railyard-net/railyard/plugins/ipam"
)

func TestMain(m *testing.M) {
	if os.Getenv("RAILYARD_IPAM_TEST_NETNS") != "" { // a pod: it keeps its namespaces until its stdin ends
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// netns gives the path of a network namespace that lives as long as the test.
func netns(t *testing.T) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "RAILYARD_IPAM_TEST_NETNS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("make a network namespace, as root: %v", err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	return fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
}

// newState is a node whose agent is away, with room for some leases and one reserved address of each family.
func newState(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	o, err := store.SystemOptions()
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), client.StorePath(dir), o)
	if err != nil {
		t.Fatal(err)
	}
	four := &ipam.SubnetSpec{Subnet: "10.20.0.0/24", Gateway: "10.20.0.1", Ranges: []string{"10.20.0.0/29"}, Reserved: []string{"10.20.0.6"}, BlockSize: 16}
	p, err := ipam.ParsePool(ipam.PoolSpec{
		Name: "rail0", IPv4: four, IPv6: &ipam.SubnetSpec{Subnet: "fd00:20::/64", BlockSize: 16, Reserved: []string{"fd00:20::6"}},
		Routes: []ipam.RouteSpec{{Dst: "10.0.0.0/8"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	closed := p
	closed.Name, closed.Closed = "closed", "not for this node"
	errs := []error{s.SetPool(p), s.SetPool(closed)}
	for _, sub := range p.Subnets {
		slot := sub.Slot(sub.Prefix.Addr())
		all := append(sub.LeasableIn(slot), sub.ReservedIn(slot)...)
		errs = append(errs, s.Grant(store.Holding{Block: ipam.BlockName("rail0", slot), Pool: "rail0", Slot: slot, Ranges: all}))
	}
	if err := errors.Join(append(errs, s.Recovered(), s.Close())...); err != nil {
		t.Fatal(err)
	}
	return dir
}

type call struct {
	dir, verb, version, container, netns, args string
	pool, extra                                string // extra: more of the config
}

// run is one exec of the plugin.
func (c call) run(t *testing.T) (int, string) {
	t.Helper()
	if c.version == "" {
		c.version = "1.1.0"
	}
	if c.pool == "" {
		c.pool = "rail0"
	}
	env := map[string]string{"CNI_COMMAND": c.verb, "CNI_CONTAINERID": c.container, "CNI_IFNAME": "net1", "CNI_NETNS": c.netns, "CNI_ARGS": c.args, "CNI_PATH": "/opt/cni/bin"}
	conf := fmt.Sprintf(`{"cniVersion":%q,"name":"rail-net","type":"macvlan","master":"eth0","ipam":{"type":"railyard-ipam","pool":%q}%s}`, c.version, c.pool, c.extra)
	var out, log bytes.Buffer
	rc := dispatch.Run(t.Context(), ipamplugin.New(c.dir, &log), func(k string) string { return env[k] }, strings.NewReader(conf), &out, &log)
	if log.Len() > 0 {
		t.Errorf("stderr: %s", log.String())
	}
	return rc, out.String()
}

func (c call) ok(t *testing.T) string {
	t.Helper()
	rc, out := c.run(t)
	if rc != 0 {
		t.Fatalf("%s: %s", c.verb, out)
	}
	return out
}

func compact(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(s)); err != nil {
		t.Fatalf("%v: %s", err, s)
	}
	return b.String()
}

func TestAddByVersion(t *testing.T) {
	const old = `"ips":[{"version":"4","address":"10.20.0.2/24","gateway":"10.20.0.1"},{"version":"6","address":"fd00:20::1/64"}],"routes":[{"dst":"10.0.0.0/8","gw":"10.20.0.1"}],"dns":{}}`
	now := strings.NewReplacer(`"version":"4",`, ``, `"version":"6",`, ``, `,"dns":{}`, ``).Replace(old)
	ns := netns(t)
	for version, want := range map[string]string{"0.3.0": old, "0.3.1": old, "0.4.0": old, "1.0.0": now, "1.1.0": now} {
		t.Run(version, func(t *testing.T) {
			c := call{dir: newState(t), verb: "ADD", version: version, container: "c1", netns: ns}
			for range 2 {
				got := compact(t, c.ok(t))
				if want := `{"cniVersion":"` + version + `",` + want; got != want {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			}
			c.verb = "DEL"
			for range 2 {
				if out := c.ok(t); out != "" {
					t.Errorf("DEL prints %s", out)
				}
			}
		})
	}
}

func TestStatic(t *testing.T) {
	ns := netns(t)
	cases := map[string]struct {
		args, extra string
		want        []string
	}{
		"runtimeConfig":       {extra: `,"runtimeConfig":{"ips":["10.20.0.6/24","fd00:20::6"]}`, want: []string{"10.20.0.6", "fd00:20::6"}},
		"args.cni":            {extra: `,"args":{"cni":{"ips":["10.20.0.6"]}}`, want: []string{"10.20.0.6", "fd00:20::1"}},
		"CNI_ARGS":            {args: "IgnoreUnknown=1;IP=10.20.0.6", want: []string{"10.20.0.6", "fd00:20::1"}},
		"CNI_ARGS, both":      {args: "IP=fd00:20::6,10.20.0.6", want: []string{"10.20.0.6", "fd00:20::6"}},
		"runtimeConfig first": {args: "IP=10.20.0.99", extra: `,"runtimeConfig":{"ips":["fd00:20::6"]}`, want: []string{"10.20.0.2", "fd00:20::6"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			out := call{dir: newState(t), verb: "ADD", container: "c1", netns: ns, args: c.args, extra: c.extra}.ok(t)
			var r struct {
				IPs []struct{ Address netip.Prefix }
			}
			if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.IPs) != 2 {
				t.Fatalf("%v: %s", err, out)
			}
			for i, want := range c.want {
				if got := r.IPs[i].Address.Addr().String(); got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			}
		})
	}
}

func TestErrors(t *testing.T) {
	ns := netns(t)
	full := newState(t)
	for i := range 5 {
		call{dir: full, verb: "ADD", container: fmt.Sprintf("c%d", i), netns: ns}.ok(t)
	}
	taken := newState(t)
	call{dir: taken, verb: "ADD", container: "other", netns: ns, args: "IP=10.20.0.6"}.ok(t)
	none := t.TempDir()
	cases := map[string]struct {
		call
		want     uint
		wantText string
	}{
		"unknown pool":     {call{verb: "ADD", pool: "other"}, dispatch.CodeConfig, "other"},
		"closed pool":      {call{verb: "ADD", pool: "closed"}, dispatch.CodeTryAgain, "not for this node"},
		"bad pool":         {call{verb: "ADD", pool: "a/b"}, dispatch.CodeConfig, "pool"},
		"full":             {call{dir: full, verb: "ADD"}, dispatch.CodeTryAgain, "no free IPv4 address"},
		"no store":         {call{dir: none, verb: "ADD"}, dispatch.CodeTryAgain, "no lease store of this boot"},
		"static taken":     {call{dir: taken, verb: "ADD", args: "IP=10.20.0.6"}, dispatch.CodeTaken, "held by net1 of container other"},
		"static in queue":  {call{verb: "ADD", args: "IP=10.20.0.3"}, dispatch.CodeConfig, "ips[0]: 10.20.0.3 is not in the reserved ranges"},
		"static malformed": {call{verb: "ADD", args: "IP=10.20.0"}, dispatch.CodeConfig, "CNI_ARGS.IP[0]"},
		"static mapped":    {call{verb: "ADD", extra: `,"runtimeConfig":{"ips":["::ffff:10.20.0.6"]}`}, dispatch.CodeConfig, "runtimeConfig.ips[0]"},
		"CHECK of nothing": {call{verb: "CHECK"}, dispatch.CodeUnknownContainer, "not found"},
		"STATUS, full":     {call{dir: full, verb: "STATUS"}, dispatch.CodeNoRoom, "no free IPv4"},
		"STATUS, closed":   {call{verb: "STATUS", pool: "closed"}, dispatch.CodeNotReady, "not for this node"},
		"STATUS, no store": {call{dir: none, verb: "STATUS"}, dispatch.CodeNotReady, "no lease store"},
		"STATUS, old":      {call{verb: "STATUS", version: "1.0.0"}, dispatch.CodeVersion, "1.1.0"},
		"GC without list":  {call{verb: "GC"}, dispatch.CodeConfig, "cni.dev/valid-attachments"},
		"no netns":         {call{verb: "ADD", netns: "/nowhere"}, dispatch.CodeNetNS, "/nowhere"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if c.dir == "" {
				c.dir = newState(t)
			}
			if c.netns == "" {
				c.netns = ns
			}
			c.container = "c9"
			rc, out := c.run(t)
			var e struct {
				Code uint
				Msg  string
			}
			if err := json.Unmarshal([]byte(out), &e); err != nil || rc != 1 || e.Code != c.want || !strings.Contains(e.Msg, c.wantText) {
				t.Errorf("exit %d: %s\nwant code %d and %q (%v)", rc, out, c.want, c.wantText, err)
			}
		})
	}
}

func TestCheckGCStatus(t *testing.T) {
	dir, ns := newState(t), netns(t)
	c := call{dir: dir, container: "c1", netns: ns}
	do := func(verb, extra string) (int, string) {
		c := c
		c.verb, c.extra = verb, extra
		return c.run(t)
	}
	rc, result := do("ADD", "")
	if rc != 0 {
		t.Fatal(result)
	}
	if rc, out := do("CHECK", `,"prevResult":`+result); rc != 0 || out != "" {
		t.Errorf("CHECK: %s", out)
	}
	if rc, out := do("CHECK", `,"prevResult":`+strings.ReplaceAll(result, "10.20.0.2", "10.20.0.3")); rc != 1 || !strings.Contains(out, "prevResult does not have it") {
		t.Errorf("CHECK of another address: %s", out)
	}
	if rc, out := do("STATUS", ""); rc != 0 || out != "" {
		t.Errorf("STATUS: %s", out)
	}
	for range 2 {
		if rc, out := do("GC", `,"cni.dev/valid-attachments":[{"containerID":"c1","ifname":"net1"}]`); rc != 0 || out != "" {
			t.Errorf("GC: %s", out)
		}
	}
	if rc, out := do("CHECK", ""); rc != 0 {
		t.Errorf("GC took what is in use: %s", out)
	}
	if rc, out := do("GC", `,"name":"another","cni.dev/valid-attachments":[]`); rc != 0 {
		t.Errorf("GC of another network: %s", out)
	}
	if rc, out := do("CHECK", ""); rc != 0 {
		t.Errorf("GC took another network's: %s", out)
	}
	if rc, out := do("GC", `,"cni.dev/valid-attachments":[]`); rc != 0 {
		t.Errorf("GC: %s", out)
	}
	if rc, _ := do("CHECK", ""); rc != 1 {
		t.Error("GC left it")
	}
	// Multus strips the config of a DEL; a store that never was holds nothing.
	env := map[string]string{"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "net1"}
	var out bytes.Buffer
	stripped := `{"cniVersion":"0.3.1","name":"rail-net","type":"macvlan","ipam":{"type":"railyard-ipam"}}`
	if rc := dispatch.Run(t.Context(), ipamplugin.New(t.TempDir(), io.Discard), func(k string) string { return env[k] }, strings.NewReader(stripped), &out, io.Discard); rc != 0 || out.Len() > 0 {
		t.Errorf("stripped DEL: %s", out.String())
	}
}
