// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package ipamplugin_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/client"
	"github.com/railyard-net/railyard/ipam/compat"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/plugins/dispatch"
	ipamplugin "github.com/railyard-net/railyard/plugins/ipam"
)

const (
	four = `{"range":"10.20.0.0/24","range_start":"10.20.0.1","range_end":"10.20.0.4","exclude":["10.20.0.200/29"]}`
	six  = `{"range":"fd00:20::/64","range_end":"fd00:20::3"}`
	dual = `{"type":"whereabouts","ipRanges":[` + four + `,` + six + `],"gateway":"10.20.0.1","routes":[{"dst":"10.0.0.0/8"}],"dns":{"nameservers":["10.20.0.2"]}}`
)

// newPretence is a node that owns the pools of dual, and pools a and b as nv-ipam would name them.
func newPretence(t *testing.T) string {
	t.Helper()
	c, err := compat.Parse(compat.Input{Config: []byte(`{"ipam":` + dual + `}`)})
	if err != nil {
		t.Fatal(err)
	}
	none := newStore(t)
	specs := []ipam.PoolSpec{
		c.Pools[0].Range.Spec(c.Pools[0].Range.Gateway), c.Pools[1].Range.Spec(),
		{Name: "a", IPv4: &ipam.SubnetSpec{Subnet: "10.30.0.0/29", Gateway: "10.30.0.1"}, Routes: []ipam.RouteSpec{{Dst: "10.31.0.0/16"}}},
		{Name: "b", IPv6: &ipam.SubnetSpec{Subnet: "fd00:30::/125"}},
	}
	for _, spec := range specs {
		none.grant(t, spec)
	}
	if err := errors.Join(none.s.Recovered(), none.s.Close()); err != nil {
		t.Fatal(err)
	}
	return none.dir
}

type testStore struct {
	dir string
	s   *store.Store
}

func newStore(t *testing.T) testStore {
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
	return testStore{dir, s}
}

// grant makes a pool whose first and last slots are the node's.
func (x testStore) grant(t *testing.T, spec ipam.PoolSpec) {
	t.Helper()
	p, err := ipam.ParsePool(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.s.SetPool(p); err != nil {
		t.Fatal(err)
	}
	for _, sub := range p.Subnets {
		for _, r := range append(sub.Leasable, sub.Reserved...) {
			slot := sub.Slot(r.From())
			h := store.Holding{Block: ipam.BlockName(p.Name, slot), Pool: p.Name, Slot: slot, Ranges: append(sub.LeasableIn(slot), sub.ReservedIn(slot)...)}
			if err := x.s.Grant(h); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// checkStore runs the invariants and says which addresses are leased.
func checkStore(t *testing.T, dir string) string {
	t.Helper()
	o, err := store.SystemOptions()
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), client.StorePath(dir), o)
	if err != nil {
		t.Fatal(err)
	}
	leases, err := s.Leases()
	if err := errors.Join(err, s.Check(), s.Close()); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range leases {
		for _, a := range l.Addresses {
			out = append(out, a.Prefix.Addr().String())
		}
	}
	return strings.Join(out, " ")
}

// pretend is one exec of the plugin with that ipam section.
func pretend(t *testing.T, c call, section string) (rc int, out, notes string) {
	t.Helper()
	env := map[string]string{"CNI_COMMAND": c.verb, "CNI_CONTAINERID": c.container, "CNI_IFNAME": "net1", "CNI_NETNS": c.netns, "CNI_ARGS": c.args, "CNI_PATH": "/opt/cni/bin"}
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"rail-net","type":"macvlan","ipam":%s%s}`, section, c.extra)
	var stdout, log bytes.Buffer
	rc = dispatch.Run(t.Context(), ipamplugin.New(c.dir, &log), func(k string) string { return env[k] }, strings.NewReader(conf), &stdout, &log)
	return rc, stdout.String(), log.String()
}

func mustPretend(t *testing.T, c call, section string) string {
	t.Helper()
	rc, out, _ := pretend(t, c, section)
	if rc != 0 {
		t.Fatalf("%s %s: %s", c.verb, section, out)
	}
	return out
}

func TestWhereaboutsDualStack(t *testing.T) {
	c := call{dir: newPretence(t), verb: "ADD", container: "c1", netns: netns(t)}
	const want = `{"cniVersion":"1.1.0","dns":{"nameservers":["10.20.0.2"]},"ips":[{"address":"10.20.0.2/24","gateway":"10.20.0.1"},` +
		`{"address":"fd00:20::1/64"}],"routes":[{"dst":"10.0.0.0/8"}]}`
	var added string
	for range 2 { // N5: an ADD may be repeated
		if added = compact(t, mustPretend(t, c, dual)); added != want {
			t.Errorf("got  %s\nwant %s", added, want)
		}
	}
	for _, verb := range []string{"STATUS", "CHECK"} {
		c.verb, c.extra = verb, ""
		if verb == "CHECK" {
			c.extra = `,"prevResult":` + added
		}
		mustPretend(t, c, dual)
	}
	c.extra = strings.ReplaceAll(c.extra, "fd00:20::1", "fd00:20::9")
	if rc, out, _ := pretend(t, c, dual); rc == 0 || !strings.Contains(out, "fd00:20::1 is leased") {
		t.Errorf("CHECK of another result: %s", out)
	}
	c.verb, c.extra = "DEL", ""
	for range 2 { // W3: DEL frees every range, whatever the others hold
		mustPretend(t, c, `{"type":"whereabouts"}`) // as Multus strips it
		if left := checkStore(t, c.dir); left != "" {
			t.Errorf("left: %s", left)
		}
	}
}

// TestWhereaboutsPartly: where one range has no address left, none is taken of the other (W3), and DEL finds what the
// second range alone holds.
func TestWhereaboutsPartly(t *testing.T) {
	c := call{dir: newPretence(t), verb: "ADD", netns: netns(t)}
	const only6 = `{"type":"whereabouts","ipRanges":[` + six + `]}`
	for i := range 3 {
		c.container = fmt.Sprint("six-", i)
		mustPretend(t, c, only6)
	}
	before := checkStore(t, c.dir)
	c.container = "late"
	rc, out, _ := pretend(t, c, dual)
	if rc != 1 || !strings.Contains(out, `"code": 11`) || checkStore(t, c.dir) != before {
		t.Errorf("%s\nleased %s", out, checkStore(t, c.dir))
	}
	c.verb, c.container = "GC", ""
	c.extra = `,"cni.dev/valid-attachments":[{"containerID":"six-1","ifname":"net1"}]`
	mustPretend(t, c, only6)
	if left := checkStore(t, c.dir); left != "fd00:20::2" {
		t.Errorf("after GC: %s", left)
	}
	c = call{dir: c.dir, verb: "ADD", container: "both", netns: c.netns}
	mustPretend(t, c, dual)
	c.verb, c.container = "GC", ""
	c.extra = `,"cni.dev/valid-attachments":[{"containerID":"both","ifname":"net1"}]`
	mustPretend(t, c, dual)
	if left := len(strings.Fields(checkStore(t, c.dir))); left != 2 {
		t.Errorf("after GC: %d addresses", left)
	}
}

// TestWhereaboutsRepeatFails: an ADD that is repeated for a live attachment takes nothing from it when it fails.
func TestWhereaboutsRepeatFails(t *testing.T) {
	c := call{dir: newPretence(t), verb: "ADD", container: "c1", netns: netns(t)}
	const only4, bad = `{"type":"whereabouts","ipRanges":[` + four + `]}`, `{"type":"whereabouts","ipRanges":[` + four + `,{"range":"fd00:99::/64"}]}`
	mustPretend(t, c, only4)
	rc, out, _ := pretend(t, c, bad)
	if rc != 1 || !strings.Contains(out, "--whereabouts-pools") || checkStore(t, c.dir) != "10.20.0.2" {
		t.Errorf("%s\nleased %q", out, checkStore(t, c.dir))
	}
}

// TestWhereaboutsStatic: an address asked for by name is recorded and had once, and instead of another (W5).
func TestWhereaboutsStatic(t *testing.T) {
	c := call{dir: newPretence(t), verb: "ADD", container: "c1", netns: netns(t), args: "IP=10.20.0.201/24"}
	if out := compact(t, mustPretend(t, c, dual)); !strings.Contains(out, `"ips":[{"address":"10.20.0.201/24","gateway":"10.20.0.1"},{"address":"fd00:20::1/64"}]`) {
		t.Error(out)
	}
	c.container = "c2"
	if rc, out, _ := pretend(t, c, dual); rc != 1 || !strings.Contains(out, fmt.Sprint(`"code": `, dispatch.CodeTaken)) || checkStore(t, c.dir) != "10.20.0.201 fd00:20::1" {
		t.Errorf("the same address again: %s", out)
	}
	c.args = "IP=10.20.0.3"
	if rc, out, _ := pretend(t, c, dual); rc != 1 || !strings.Contains(out, "reserve") {
		t.Errorf("an address of the ordinary ones: %s", out)
	}
}

func TestWhereaboutsDefaultsAndNotes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "defaults.conf")
	c := call{dir: newPretence(t), verb: "ADD", container: "c1", netns: netns(t)}
	section := fmt.Sprintf(`{"type":"whereabouts","configuration_path":%q,"range":"10.20.0.0/24","range_start":"10.20.0.1","range_end":"10.20.0.4","leader_retry_period":500}`, file)
	if rc, out, _ := pretend(t, c, section); rc != 1 || !strings.Contains(out, fmt.Sprint(`"code": `, dispatch.CodeIO)) {
		t.Errorf("a file that is named and not there: %s", out)
	}
	if err := os.WriteFile(file, []byte(`{"kubernetes":{"kubeconfig":"/x"},"exclude":["10.20.0.200/29"],"gateway":"10.20.0.1"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	rc, out, notes := pretend(t, c, section)
	if rc != 0 || !strings.Contains(out, `"gateway": "10.20.0.1"`) {
		t.Errorf("%s", out)
	}
	if strings.Contains(notes, "ipam.kubernetes") || !strings.Contains(notes, "ipam.leader_retry_period") || strings.Count(notes, "\n") != 1 {
		t.Errorf("notes %q", notes)
	}
	c.verb = "DEL"
	if rc, out, notes := pretend(t, c, section); rc != 0 || notes != "" {
		t.Errorf("DEL: %s, notes %q", out, notes)
	}
}

func TestNVIPAM(t *testing.T) {
	c := call{dir: newPretence(t), verb: "ADD", container: "c1", netns: netns(t), args: "K8S_POD_NAME=p;K8S_POD_NAMESPACE=d"}
	const section = `{"type":"nv-ipam","poolName":"a,b"}`
	const want = `{"cniVersion":"1.1.0","ips":[{"address":"10.30.0.2/29","gateway":"10.30.0.1"},{"address":"fd00:30::1/125"}],"routes":[{"dst":"10.31.0.0/16","gw":"10.30.0.1"}]}`
	for range 2 {
		if got := compact(t, mustPretend(t, c, section)); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	c.container, c.extra = "c2", `,"args":{"cni":{"allocateIPWithIndex":1}}`
	if rc, out, _ := pretend(t, c, section); rc != 1 || !strings.Contains(out, "args.cni.allocateIPWithIndex") || !strings.Contains(out, fmt.Sprint(`"code": `, dispatch.CodeConfig)) {
		t.Errorf("by index: %s", out)
	}
	c.verb, c.container, c.extra = "DEL", "c1", ""
	mustPretend(t, c, `{"type":"nv-ipam"}`)
	if left := checkStore(t, c.dir); left != "" {
		t.Errorf("left: %s", left)
	}
}
