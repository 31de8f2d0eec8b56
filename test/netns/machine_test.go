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
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/railyard-net/railyard/ipam"
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
	for name, value := range map[string]string{"rapid.checks": fmt.Sprint(fewer), "rapid.seed": "1"} { // the same ones each time, unless others are asked for
		asked := false
		flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == name })
		if !asked {
			must(t, flag.Set(name, value)) // for this package's only test that draws
		}
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
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for end := time.Now().Add(20 * time.Second); diff != "" && time.Now().Before(end); diff = cmp.Diff(m.before, m.world()) {
		<-poll.C
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
