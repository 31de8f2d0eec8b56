// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/plugins/cni"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// machine is a host with two masters and two devices, two pods of three interfaces each, and what is known of each attachment after
// whatever has happened. A rapid.T draws what happens.
type machine struct {
	*lab
	pods   []*space
	slots  []*slot
	nth    int // of pods made
	ipvlan bool
	before worldState
	free   func() // ends the full disk, or nil
	owed   []ipam.Key
}

// slot is where an attachment can be.
type slot struct {
	pod     int
	ifName  string
	network string
	is      condition
	shape   shape
	prev    string // the result of its ADD
}

type condition int

const (
	none condition = iota
	whole
	torn // an ADD or DEL of it was killed or failed: a DEL makes it none
)

// shape is a config, and what it takes that others may want too.
type shape struct {
	name    string
	conf    map[string]any
	devices []string
	setting string // of net.ipv4.conf.all.arp_ignore
}

// worldState is all that attachments may change, without the indexes of links: the kernel gives a link another one if a pod has
// its own.
type worldState struct {
	Links, Devices, Pods, Leases, Files []string
}

// TestMachine draws histories of attachments of all kinds in two pods: ADD, DEL and CHECK, alone and two at once, with what stdin may have
// lost, killed at any step or any time, on a full disk, GCs, pods that die, and the agent's look. Each answer is one that
// the model allows, and whenever nothing is attached, everything is what it was in the beginning.
func TestMachine(t *testing.T) {
	fewer := 12
	if os.Getenv("RAILYARD_TEST_PLUGIN") != "" {
		fewer = 2 // a virtual machine takes its time
	}
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "rapid.checks" })
	if !asked {
		must(t, flag.Set("rapid.checks", fmt.Sprint(fewer)))
		defer func() { must(t, flag.Set("rapid.checks", "100")) }()
	}
	rapid.Check(t, func(rt *rapid.T) {
		m := newMachine(drawn{t, rt})
		rt.Repeat(map[string]func(*rapid.T){
			"": m.compare, "add": m.Add, "add again": m.Add, "del": m.Del, "check": m.Check, "two": m.Two, "gc": m.GC,
			"pod dies": m.PodDies, "look": m.Look, "full disk": m.FullDisk,
		})
		m.room()
		for _, s := range m.slots {
			m.took(s, m.del(rt, s), false)
		}
		m.compare(rt)
	})
}

// drawn has what a lab wants of a test end with one history.
type drawn struct {
	testing.TB
	rt *rapid.T
}

func (d drawn) Helper()                   {}
func (d drawn) Cleanup(f func())          { d.rt.Cleanup(f) }
func (d drawn) Error(a ...any)            { d.rt.Error(a...) }
func (d drawn) Errorf(f string, a ...any) { d.rt.Errorf(f, a...) }
func (d drawn) Fatal(a ...any)            { d.rt.Fatal(a...) }
func (d drawn) Fatalf(f string, a ...any) { d.rt.Fatalf(f, a...) }
func (d drawn) Logf(f string, a ...any)   { d.rt.Logf(f, a...) }

func newMachine(t drawn) *machine {
	disk, _ := smallDisk(t)
	m := &machine{lab: newLabOn(t, disk)}
	m.addDevice()
	m.dress()
	m.addMaster("dev1", "devport1", 1500)
	m.addMaster("rail1", "port1", 1500)
	m.addMaster("rail2", "port2", 1500)
	m.script("other", otherIPAM)
	for _, key := range []string{"kind", "device", "master"} {
		delete(m.conf, key)
	}
	a := netlink.NewLinkAttrs()
	a.Name, a.ParentIndex = "try", m.host.get("rail2").Attrs().Index
	if err := m.host.link.LinkAdd(&netlink.IPVlan{LinkAttrs: a}); err == nil {
		m.ipvlan = true
		must(t, m.host.link.LinkDel(m.host.get("try")))
	}
	for range 2 {
		m.pods = append(m.pods, m.newPod())
	}
	for pod := range m.pods {
		m.slots = append(m.slots, &slot{pod: pod, ifName: "net1", network: "rail0"}, &slot{pod: pod, ifName: "net2", network: "other"},
			&slot{pod: pod, ifName: "chain0", network: "rail0"})
	}
	m.before = m.world()
	return m
}

// newPod is a namespace with an interface of another plugin's, at a path that no other pod ever has: the kernel uses inodes, and this
// process numbers of files, again.
func (m *machine) newPod() *space {
	s := newSpace(m.t)
	m.nth++
	path := filepath.Join(m.bin, fmt.Sprint("pod", m.nth))
	must(m.t, os.Symlink(s.path, path))
	s.path = path
	a := netlink.NewLinkAttrs()
	a.Name = "chain0"
	must(m.t, s.link.LinkAdd(&netlink.Bridge{LinkAttrs: a}))
	must(m.t, s.link.LinkSetUp(s.get("chain0")))
	return s
}

// world is everything now.
func (m *machine) world() worldState {
	var out worldState
	noIndex := func(links []string) []string {
		for i, l := range links {
			_, links[i], _ = strings.Cut(l, " ")
		}
		slices.Sort(links)
		return links
	}
	out.Links = noIndex(m.host.links())
	for _, dev := range []string{"dev0", "dev1"} {
		if m.host.has(dev) {
			out.Devices = append(out.Devices, m.host.linkState(dev)...)
		}
	}
	for i, p := range m.pods {
		for _, l := range append(noIndex(p.links()), p.routing()...) {
			if !strings.HasPrefix(l, "chain0 bridge") { // its MAC is the kernel's choice
				out.Pods = append(out.Pods, fmt.Sprintf("%d %s", i, l))
			}
		}
		out.Pods = append(out.Pods, fmt.Sprintf("%d %v", i, p.linkState("chain0")))
		for _, path := range lasting {
			out.Pods = append(out.Pods, fmt.Sprintf("%d %s=%s", i, path, p.sysctl(path)))
		}
	}
	for _, x := range m.leases() {
		out.Leases = append(out.Leases, fmt.Sprint(x.Key, x.Addresses))
	}
	out.Leases = append(out.Leases, m.otherLeases()...)
	out.Files = m.files()
	return out
}

// routing are the rules, and the routes that somebody made.
func (s *space) routing() []string {
	s.t.Helper()
	var out []string
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := s.link.RuleList(family)
		must(s.t, err)
		for _, r := range rules {
			out = append(out, fmt.Sprintf("rule %d: %s", family, r))
		}
		routes, err := s.link.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		must(s.t, err)
		for _, r := range routes {
			if r.Table != unix.RT_TABLE_LOCAL && r.Protocol != unix.RTPROT_KERNEL {
				out = append(out, fmt.Sprintf("route %d: %s", family, r))
			}
		}
	}
	return out
}

// compare looks at the whole if nothing is attached.
func (m *machine) compare(t *rapid.T) {
	if m.free != nil || slices.ContainsFunc(m.slots, func(s *slot) bool { return s.is != none }) {
		return
	}
	diff := cmp.Diff(m.before, m.world())
	// The kernel takes its time to take the links of a dead pod from their masters.
	for end := time.Now().Add(20 * time.Second); diff != "" && time.Now().Before(end); diff = cmp.Diff(m.before, m.world()) {
		time.Sleep(20 * time.Millisecond)
	}
	if diff != "" {
		t.Fatalf("nothing is attached, and something is left (-before +after):\n%s", diff)
	}
}

// shapes are what a slot may ask for.
func (m *machine) shapes(s *slot) []shape {
	with := func(base, more map[string]any) map[string]any {
		out := map[string]any{}
		for _, c := range []map[string]any{base, more} {
			for k, v := range c {
				out[k] = v
			}
		}
		return out
	}
	sysctl := func(v string) map[string]any {
		return map[string]any{"sysctl": map[string]any{"net.ipv4.conf.all.arp_ignore": v, "net.ipv4.conf.IFNAME.rp_filter": "2"}}
	}
	other := map[string]any{"ipam": map[string]any{"type": "other", "range": "10.20.9.0/24"}}
	if s.ifName == "chain0" {
		prev := json.RawMessage(fmt.Sprintf(`{"cniVersion":"1.1.0","interfaces":[{"name":"chain0","sandbox":%q}]}`, m.pods[s.pod].path))
		chained := map[string]any{"kind": "chained", "prevResult": prev}
		return []shape{{name: "chained", conf: chained}, {name: "chained with a setting", conf: with(chained, sysctl("1")), setting: "1"}}
	}
	macvlan := map[string]any{"master": "rail0"}
	device := func(name string) map[string]any {
		return map[string]any{"kind": "host-device", "device": name, "mtu": 1400}
	}
	rails := func(kind, key string, names ...string) map[string]any {
		var list []any
		for _, n := range names {
			list = append(list, map[string]any{key: n})
		}
		return map[string]any{"kind": kind, "rails": list}
	}
	out := []shape{
		{name: "macvlan", conf: macvlan},
		{name: "macvlan with a setting", conf: with(macvlan, sysctl("1")), setting: "1"},
		{name: "macvlan with another", conf: with(macvlan, sysctl("2")), setting: "2"},
		{name: "macvlan, other IPAM", conf: with(macvlan, other)},
		{name: "macvlan without IPAM", conf: with(macvlan, map[string]any{"ipam": nil})},
		{name: "device", conf: device("dev0"), devices: []string{"dev0"}},
		{name: "device by MAC", conf: map[string]any{"kind": "host-device", "hwaddr": deviceMAC, "mac": "02:00:00:00:00:98"}, devices: []string{"dev0"}},
		{name: "device with a setting", conf: with(device("dev1"), sysctl("1")), devices: []string{"dev1"}, setting: "1"},
		{name: "rails", conf: rails("macvlan", "master", "rail0", "rail1")},
		{name: "rails of devices", conf: rails("host-device", "device", "dev1", "dev0"), devices: []string{"dev0", "dev1"}},
	}
	if m.ipvlan {
		out = append(out, shape{name: "ipvlan", conf: map[string]any{"kind": "ipvlan", "master": "rail2"}},
			shape{name: "rails of ipvlan", conf: rails("ipvlan", "master", "rail2", "rail2")})
	}
	return out
}

// deaths are the points at which a call may die; not all calls pass all of them.
var deaths = append([]string{"add:tagged", "add:vf", "add:ruled", "add:moved", "add:linked#2", "add:leased#2", "journal:temp", "journal:renamed", "journal:temp#3", "undo:pulling",
	"undo:pulled", "undo:restored", "undo:6", "undo:7", "undo:8"}, append(addPoints, undoPoints...)...)

// dies draws when a call is killed, if it is.
func dies(t *rapid.T, c *call) {
	switch rapid.IntRange(0, 5).Draw(t, "death") {
	case 0, 1:
		c.fail = rapid.SampledFrom(deaths).Draw(t, "point")
	case 2:
		c.killAfter = time.Duration(rapid.IntRange(500, 20_000).Draw(t, "µs")) * time.Microsecond
	}
}

func (m *machine) slot(t *rapid.T) *slot {
	return m.slots[rapid.IntRange(0, len(m.slots)-1).Draw(t, "slot")]
}

func (s *slot) id() string { return fmt.Sprint("c", s.pod) }

func (m *machine) call(s *slot, verb string) call {
	return call{verb: verb, id: s.id(), ifName: s.ifName, netns: m.pods[s.pod].path}
}

func (m *machine) drawAdd(t *rapid.T, s *slot) (call, shape) {
	list := m.shapes(s)
	want := list[rapid.IntRange(0, len(list)-1).Draw(t, "shape")]
	c := m.call(s, "ADD")
	c.conf = map[string]any{"name": s.network}
	for k, v := range want.conf {
		c.conf[k] = v
	}
	return c, want
}

func (m *machine) Add(t *rapid.T) {
	s := m.slot(t)
	c, want := m.drawAdd(t, s)
	dies(t, &c)
	m.added(s, want, m.run(c), false)
}

// added takes an ADD's answer into account. Crowded says that something else went on.
func (m *machine) added(s *slot, want shape, a answer, crowded bool) {
	m.owes(s, a)
	switch {
	case a.killed:
		if s.is != whole {
			s.is, s.shape = torn, want
		}
		return
	case a.rc == 0 && s.is == whole:
		m.t.Fatalf("%s %s was attached twice", s.id(), s.ifName)
	case a.rc == 0:
		s.is, s.shape, s.prev = whole, want, a.stdout
		return
	}
	held := func(f func(o *slot) bool) bool {
		return slices.ContainsFunc(m.slots, func(o *slot) bool { return o != s && o.is != none && f(o) })
	}
	fair := crowded && (a.code == dispatch.CodeTryAgain || a.code == dispatch.CodeMaster)
	switch a.code {
	case dispatch.CodeAttached:
		fair = s.is != none || crowded
	case dispatch.CodeMaster:
		fair = fair || held(func(o *slot) bool {
			return slices.ContainsFunc(want.devices, func(d string) bool { return slices.Contains(o.shape.devices, d) })
		})
	case dispatch.CodeConfig:
		fair = want.setting != "" && (crowded || held(func(o *slot) bool { return o.pod == s.pod && o.shape.setting != "" && o.shape.setting != want.setting }))
	case dispatch.CodeIO, dispatch.CodeTryAgain:
		fair = fair || m.free != nil
	}
	if !fair && !(m.free != nil && a.code == 143) { // the other IPAM plugin has no undoing of what a full disk kept from being written
		m.t.Fatalf("ADD of %s as %s %s: code %d: %s\n%s", want.name, s.id(), s.ifName, a.code, a.msg, a.stderr)
	}
}

// del draws a DEL with a part of what its ADD was told.
func (m *machine) drawDel(t *rapid.T, s *slot) call {
	c := m.call(s, "DEL")
	c.conf = map[string]any{"name": s.network}
	switch rapid.IntRange(0, 3).Draw(t, "stdin") {
	case 0:
		c.stdin = fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"type":"railyard"}`, s.network)
	case 1:
		c.stdin = fmt.Sprintf(`{"cniVersion":"0.3.1","name":%q,"type":"railyard","kind":7,"ipam":{"type":"railyard-ipam"},"prevResult":[]}`, s.network)
	case 2:
		for k, v := range s.shape.conf {
			c.conf[k] = v
		}
	}
	c.netns = rapid.SampledFrom([]string{c.netns, c.netns, "", "/no/such"}).Draw(t, "netns")
	return c
}

func (m *machine) del(t *rapid.T, s *slot) answer { return m.run(m.drawDel(t, s)) }

func (m *machine) Del(t *rapid.T) {
	s := m.slot(t)
	c := m.drawDel(t, s)
	dies(t, &c)
	m.took(s, m.run(c), false)
}

// took takes a DEL's answer into account.
func (m *machine) took(s *slot, a answer, crowded bool) {
	m.owes(s, a)
	switch {
	case a.killed:
		if s.is != none {
			s.is = torn
		}
	case a.rc == 0:
		s.is = none
	case m.free != nil && a.code == dispatch.CodeIO, crowded && a.code == dispatch.CodeTryAgain:
		if s.is != none {
			s.is = torn
		}
	default:
		m.t.Fatalf("DEL of %s %s (%s): code %d: %s\n%s", s.id(), s.ifName, s.shape.name, a.code, a.msg, a.stderr)
	}
}

func (m *machine) Check(t *rapid.T) {
	s := m.slot(t)
	c := m.call(s, "CHECK")
	c.conf = map[string]any{"name": s.network}
	for k, v := range s.shape.conf {
		c.conf[k] = v
	}
	if s.is == whole {
		c.conf["prevResult"] = json.RawMessage(s.prev)
	}
	a := m.run(c)
	switch {
	case s.is == whole && a.rc != 0, s.is == none && a.rc == 0, a.rc != 0 && a.code == dispatch.CodeBug:
		t.Fatalf("CHECK of %s %s (%s, condition %d): rc %d code %d: %s", s.id(), s.ifName, s.shape.name, s.is, a.rc, a.code, a.msg)
	}
}

// Two has two calls at once, of one attachment or of two.
func (m *machine) Two(t *rapid.T) {
	type one struct {
		*slot
		call
		want shape
		answer
	}
	calls := make([]*one, 2)
	for i := range calls {
		c := &one{slot: m.slot(t)}
		if rapid.Bool().Draw(t, "add") {
			c.call, c.want = m.drawAdd(t, c.slot)
		} else {
			c.call = m.drawDel(t, c.slot)
		}
		dies(t, &c.call)
		calls[i] = c
	}
	var wg sync.WaitGroup
	for _, c := range calls {
		wg.Go(func() { c.answer = m.run(c.call) })
	}
	wg.Wait()
	same := calls[0].slot == calls[1].slot
	if same && calls[0].answer.rc == 0 && calls[1].answer.rc == 0 && calls[0].verb == "ADD" && calls[1].verb == "ADD" {
		t.Fatalf("%s %s was attached twice at once", calls[0].slot.id(), calls[0].slot.ifName)
	}
	for _, c := range calls {
		if same && c.answer.rc == 0 { // which came first, nobody knows
			c.slot.is, c.slot.shape = torn, shape{name: "either", devices: []string{"dev0", "dev1"}, setting: "either"}
			continue
		}
		if c.verb == "ADD" {
			m.added(c.slot, c.want, c.answer, true)
		} else {
			m.took(c.slot, c.answer, true)
		}
	}
}

// GC keeps some of one network's attachments.
func (m *machine) GC(t *rapid.T) {
	network := rapid.SampledFrom([]string{"rail0", "other"}).Draw(t, "network")
	valid, gone := []any{}, []*slot{}
	for _, s := range m.slots {
		switch {
		case s.network != network:
		case s.is == whole && rapid.Bool().Draw(t, "keep"):
			valid = append(valid, map[string]any{"containerID": s.id(), "ifname": s.ifName})
		default:
			gone = append(gone, s)
		}
	}
	a := m.run(call{verb: "GC"}.with(map[string]any{"name": network, "master": "rail0", "cni.dev/valid-attachments": valid}))
	for _, s := range gone {
		m.took(s, a, false)
	}
}

// PodDies ends a pod without a device, which would die with it. Its attachments end by DEL or by the agent's look.
func (m *machine) PodDies(t *rapid.T) {
	pod := rapid.IntRange(0, len(m.pods)-1).Draw(t, "pod")
	for _, s := range m.slots {
		if s.pod == pod && s.is != none && len(s.shape.devices) > 0 {
			return
		}
	}
	m.pods[pod].kill()
	must(m.t, os.Remove(m.pods[pod].path))
	if rapid.Bool().Draw(t, "look") {
		m.Look(t)
	}
	m.room()
	for _, s := range m.slots {
		if s.pod == pod {
			m.took(s, m.del(t, s), false)
		}
	}
	m.pods[pod] = m.newPod()
}

// Look is the agent's, twice: what lives is not touched, as the next CHECK says.
func (m *machine) Look(*rapid.T) {
	r := m.reconcilerWith(cni.Evidence{Gone: ipam.NetNS.Gone, Grace: time.Minute}, leaser)
	for _, now := range []time.Duration{0, time.Hour} {
		if _, err := m.look(r, now); err != nil && m.free == nil {
			m.t.Fatal(err)
		}
	}
}

// FullDisk fills the disk of the state folder, or makes room again.
func (m *machine) FullDisk(t *rapid.T) {
	if m.free != nil || rapid.IntRange(0, 2).Draw(t, "full") > 0 {
		m.room()
		return
	}
	m.free = m.fillDisk()
}

// room ends a full disk. Leases that could not be released on it end with the namespace, by the agent; here they end now.
func (m *machine) room() {
	if m.free == nil {
		return
	}
	m.free()
	m.free = nil
	m.withStore(func(s *store.Store) {
		for _, key := range m.owed {
			must(m.t, s.Release(m.t.Context(), key))
		}
	})
	m.owed = nil
}

// owes notes what an answer says that it leaves to the agent.
func (m *machine) owes(s *slot, a answer) {
	if !strings.Contains(a.stderr, "could not be released") {
		return
	}
	if m.free == nil {
		m.t.Fatalf("a lease of %s %s was not released: %s", s.id(), s.ifName, a.stderr)
	}
	for _, rail := range []string{"", "-2"} {
		m.owed = append(m.owed, ipam.Key{Network: s.network, ContainerID: s.id(), IfName: s.ifName + rail})
	}
}
