// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/railyard-net/railyard/plugins/dispatch"
)

const deviceMAC = "02:00:00:00:dd:01"

// addDevice gives the host a device dev0 with an alternative name, an MTU, a MAC and an address of its own, whose other
// end is in the fabric.
func (l *lab) addDevice() {
	l.t.Helper()
	l.addMaster("dev0", "devport0", 4000)
	dev := l.host.get("dev0")
	mac, err := net.ParseMAC(deviceMAC)
	must(l.t, err)
	must(l.t, l.host.link.LinkSetHardwareAddr(dev, mac))
	must(l.t, l.host.link.LinkAddAltName(dev, "enp59s0f0np0v1"))
	addr, err := netlink.ParseAddr("192.0.2.9/24")
	must(l.t, err)
	must(l.t, l.host.link.AddrAdd(dev, addr))
	l.conf["kind"], l.conf["master"], l.conf["device"] = "host-device", nil, "dev0"
	delete(l.conf, "master")
}

// addresses are the host's, for the comparison of before and after.
func (s *space) addresses() []string {
	s.t.Helper()
	list, err := s.link.AddrList(nil, netlink.FAMILY_V4)
	must(s.t, err)
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	slices.Sort(out)
	return out
}

func TestHostDevice(t *testing.T) {
	for name, test := range map[string]func(*testing.T, *lab, *space, call){
		"moved_and_back": testDeviceMoved,
		"by_altname": func(_ *testing.T, l *lab, _ *space, c call) {
			l.deviceBy(c, map[string]any{"device": "enp59s0f0np0v1"})
		},
		"by_hwaddr": func(_ *testing.T, l *lab, _ *space, c call) {
			l.deviceBy(c, map[string]any{"device": nil, "hwaddr": deviceMAC})
		},
		"by_pci":              testDeviceByPCI,
		"changed_by_the_pod":  testDeviceChanged,
		"name_taken_on_host":  testDeviceNameTaken,
		"altnames_of_the_pod": testDeviceAltNames,
		"tag_taken_away":      testDeviceTag,
		"journal_damaged":     testDeviceDamaged,
		"settings_refused":    testDeviceSettingsRefused,
		"twice_in_one_call":   testDeviceTwice,
		"died_with_the_pod":   testDeviceDied,
		"one_of_two_wins":     testDeviceRace,
		"of_a_dead_ADD":       testDeviceReclaimed,
		"refused":             testDeviceRefused,
		"drift":               testDeviceDrift,
		"hundred_times":       testDeviceHundred,
		"conf_lost_its_kind":  testDeviceStripped,
		"pod_has_hosts_name":  testDevicePodHasName,
		"mtu_and_mac_set":     testDeviceMTU,
		"without_any_address": func(_ *testing.T, l *lab, _ *space, c call) { l.deviceBy(c, map[string]any{"ipam": nil}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, pod := newLab(t), newSpace(t)
			l.addDevice()
			test(t, l, pod, call{id: "c1", ifName: "net1", netns: pod.path})
		})
	}
}

// roundTrip attaches, checks and detaches, and compares.
func (l *lab) roundTrip(pod *space, c call, while func()) {
	l.t.Helper()
	before, addresses := l.traces(pod), l.host.addresses()
	l.add(c)
	while()
	c.verb = "DEL"
	l.mustRun(c)
	l.mustRun(c)
	if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
		l.t.Errorf("left behind (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(addresses, l.host.addresses()); diff != "" {
		l.t.Errorf("the host's addresses (-before +after):\n%s", diff)
	}
}

func testDeviceMoved(t *testing.T, l *lab, pod *space, c call) {
	l.roundTrip(pod, c, func() {
		if l.host.has("dev0") {
			t.Error("the host still has it")
		}
		link := pod.get("net1")
		if a := link.Attrs(); a.MTU != 4000 || a.HardwareAddr.String() != deviceMAC || a.Flags&net.FlagUp == 0 {
			t.Errorf("%+v", a)
		}
		check := c
		check.verb = "CHECK"
		l.mustRun(check)
		if l.leases()[0].Addresses[0].Prefix.String() == "" {
			t.Error("no lease")
		}
	})
}

func (l *lab) deviceBy(c call, conf map[string]any) {
	l.t.Helper()
	before := l.traces()
	c = c.with(conf)
	r := l.add(c)
	if len(r.Interfaces) != 1 || r.Interfaces[0].Mac != deviceMAC || r.Interfaces[0].Mtu != 4000 || l.host.has("dev0") {
		l.t.Errorf("%+v", r.Interfaces)
	}
	c.verb, c.conf = "DEL", nil
	l.mustRun(c)
	if diff := cmp.Diff(before, l.traces()); diff != "" {
		l.t.Errorf("left behind (-before +after):\n%s", diff)
	}
}

func testDeviceByPCI(t *testing.T, l *lab, _ *space, c call) {
	l.fakePCI("0000:3b:00.2", "dev0")
	for _, conf := range []map[string]any{
		{"device": "0000:3b:00.2"}, {"device": nil, "deviceID": "0000:3b:00.2"}, {"device": nil, "runtimeConfig": map[string]any{"deviceID": "0000:3b:00.2"}},
	} {
		r := l.add(c.with(conf))
		if r.Interfaces[0].PciID != "0000:3b:00.2" {
			t.Errorf("%+v", r.Interfaces[0])
		}
		del := c
		del.verb = "DEL"
		l.mustRun(del) // whose config has no deviceID
		if a := l.host.get("dev0").Attrs(); a.MTU != 4000 {
			t.Errorf("%+v", a)
		}
	}
	c.verb = "ADD"
	l.mustFail(dispatch.CodeMaster, "0000:99:00.0", c.with(map[string]any{"device": "0000:99:00.0"}))
}

// testDeviceChanged: whatever the pod does to the device is undone.
func testDeviceChanged(t *testing.T, l *lab, pod *space, c call) {
	l.roundTrip(pod, c, func() {
		link := pod.get("net1")
		must(t, pod.link.LinkSetDown(link))
		must(t, pod.link.LinkSetName(link, "mine"))
		must(t, pod.link.LinkSetMTU(link, 1280))
		must(t, pod.link.LinkSetHardwareAddr(link, net.HardwareAddr{2, 0, 0, 0, 0, 0x77}))
		must(t, pod.link.LinkDelAltName(link, "enp59s0f0np0v1"))
	})
}

func testDeviceMTU(t *testing.T, l *lab, pod *space, c call) {
	const mac = "02:00:00:00:00:99"
	l.roundTrip(pod, c.with(map[string]any{"mtu": 3000, "runtimeConfig": map[string]any{"mac": mac}}), func() {
		if a := pod.get("net1").Attrs(); a.MTU != 3000 || a.HardwareAddr.String() != mac {
			t.Errorf("%+v", a)
		}
	})
}

// testDeviceAltNames: no name that a pod gives to the device keeps it in the pod, comes back with it, or takes its own from it.
func testDeviceAltNames(t *testing.T, l *lab, pod *space, c call) {
	for _, name := range []string{"rail0", "dev0", "evil"} {
		l.roundTrip(pod, c, func() { must(t, pod.link.LinkAddAltName(pod.get("net1"), name)) })
	}
}

// testDeviceTag: nor does the loss of the name by which it is known.
func testDeviceTag(t *testing.T, l *lab, pod *space, c call) {
	l.roundTrip(pod, c, func() {
		link := pod.get("net1")
		for _, name := range link.Attrs().AltNames {
			must(t, pod.link.LinkDelAltName(link, name))
		}
	})
}

// testDeviceDamaged: with the journal what the device was is lost, but not the device.
func testDeviceDamaged(t *testing.T, l *lab, pod *space, c call) {
	l.add(c)
	must(t, os.WriteFile(filepath.Join(l.dir, "attachments", "c1@net1.json"), []byte("noise"), 0o600))
	c.verb = "DEL"
	l.mustRun(c)
	if back := l.host.get("ryspare0").Attrs(); pod.has("net1") || back.HardwareAddr.String() != deviceMAC || len(back.AltNames) != 0 {
		t.Errorf("%+v", back)
	}
}

// testDeviceSettingsRefused: what the host takes no more is no reason to keep a pod from ending.
func testDeviceSettingsRefused(t *testing.T, l *lab, pod *space, c call) {
	addr, err := netlink.ParseAddr("fd00:d::9/64")
	must(t, err)
	must(t, l.host.link.AddrAdd(l.host.get("dev0"), addr))
	l.add(c)
	l.host.setSysctl("net/ipv6/conf/default/disable_ipv6", "1")
	c.verb = "DEL"
	a := l.mustRun(c)
	if back := l.host.get("dev0").Attrs(); pod.has("net1") || len(back.AltNames) != 1 || back.Flags&net.FlagUp == 0 {
		t.Errorf("%+v", back)
	}
	if !strings.Contains(a.stderr, "fd00:d::9/64") {
		t.Errorf("nothing says what was refused: %s", a.stderr)
	}
}

func testDeviceTwice(t *testing.T, l *lab, _ *space, c call) {
	c.verb = "ADD"
	rails := []any{map[string]any{"device": "dev0"}, map[string]any{"device": "enp59s0f0np0v1"}}
	start := time.Now()
	l.mustFail(dispatch.CodeConfig, "another rail", c.with(map[string]any{"device": nil, "rails": rails}))
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s to say so", took)
	}
}

// testDeviceNameTaken: the DEL succeeds nevertheless, and nothing else is different.
func testDeviceNameTaken(t *testing.T, l *lab, _ *space, c call) {
	l.add(c)
	a := netlink.NewLinkAttrs()
	a.Name = "dev0"
	must(t, l.host.link.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "peer0"}))
	taker := l.host.get("dev0").Attrs().Index
	c.verb = "DEL"
	l.mustRun(c)
	if l.host.get("dev0").Attrs().Index != taker {
		t.Error("another link was taken for the device")
	}
	back := l.host.get("enp59s0f0np0v1").Attrs()
	if back.MTU != 4000 || len(back.AltNames) != 1 || back.Flags&net.FlagUp == 0 {
		t.Errorf("%+v", back)
	}
}

// testDeviceDied: a virtual link dies with the pod; there is nothing to give back, and no reason to fail.
func testDeviceDied(t *testing.T, l *lab, pod *space, c call) {
	l.add(c)
	pod.kill()
	c.verb = "DEL"
	l.mustRun(c)
	if len(l.leases()) != 0 || len(l.files()) != 0 {
		t.Error(l.leases(), l.files())
	}
}

// testDeviceRace: of many who want one device one gets it, and the others are told who has it.
func testDeviceRace(t *testing.T, l *lab, _ *space, c call) {
	before := l.traces()
	for range 5 {
		pods := make([]*space, 6)
		answers := make([]answer, len(pods))
		var wg sync.WaitGroup
		for i := range pods {
			pods[i] = newSpace(t)
			one := c
			one.verb, one.id, one.netns = "ADD", fmt.Sprintf("c%d", i), pods[i].path
			wg.Go(func() { answers[i] = l.run(one) })
		}
		wg.Wait()
		won := 0
		for i, a := range answers {
			switch {
			case a.rc == 0:
				won++
				if !pods[i].has("net1") {
					t.Errorf("c%d has no net1", i)
				}
			case a.code != dispatch.CodeMaster && a.code != dispatch.CodeTryAgain:
				t.Errorf("c%d: code %d %s", i, a.code, a.msg)
			}
		}
		if won != 1 {
			t.Fatalf("%d won: %+v", won, answers)
		}
		for i := range pods {
			one := c
			one.verb, one.id, one.netns = "DEL", fmt.Sprintf("c%d", i), pods[i].path
			l.mustRun(one)
		}
	}
	if diff := cmp.Diff(before, l.traces()); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}

// testDeviceReclaimed: the device of an ADD that died and whose DEL never came is nobody's: the next one takes it, and
// the late DEL of the dead one takes nothing from the living.
func testDeviceReclaimed(t *testing.T, l *lab, pod *space, c call) {
	before := l.traces(pod)
	dead := c
	dead.id, dead.verb = "dead", "ADD"
	for _, point := range []string{"add:tagged", "add:linked"} {
		l.mustDie(dead, point)
		if point == "add:linked" { // it is in the pod; the DEL comes first here
			del := dead
			del.verb = "DEL"
			l.mustRun(del)
		}
		l.add(c)
		late := dead
		late.verb = "DEL"
		l.mustRun(late)
		if !pod.has("net1") {
			t.Fatal("the late DEL took the device")
		}
		check, del := c, c
		check.verb, del.verb = "CHECK", "DEL"
		l.mustRun(check)
		l.mustRun(del)
		if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
			t.Errorf("left behind (-before +after):\n%s", diff)
		}
	}
	// One of a newer program's, which alone knows what the device is to be again.
	l.mustDie(dead, "add:tagged")
	l.editJournal(dead.id, func(j map[string]any) { j["version"] = 99 })
	c.verb = "ADD"
	l.mustFail(dispatch.CodeJournal, "newer", c)
	l.editJournal(dead.id, func(j map[string]any) { j["version"] = 1 })
	// A tag of which nobody knows any more.
	must(t, l.host.link.LinkAddAltName(l.host.get("dev0"), "railyard-00112233445566778899aabbccddeeff"))
	l.roundTripFrom(before, pod, c)
}

// TestHostDevice_ReclaimedWhileHeld: a dead attachment was about to move two devices. The next one that wants them has the
// lock of the first when it undoes that.
func TestHostDevice_ReclaimedWhileHeld(t *testing.T) {
	l, pod := newLab(t), newSpace(t)
	l.addDevice()
	l.addMaster("dev1", "devport1", 4000)
	delete(l.conf, "device")
	before := l.traces(pod)
	rails := func(devices ...string) map[string]any {
		var list []any
		for _, d := range devices {
			list = append(list, map[string]any{"device": d})
		}
		return map[string]any{"rails": list}
	}
	dead := call{verb: "ADD", id: "dead", ifName: "net1", netns: pod.path}
	l.mustDie(dead.with(rails("dev0", "dev1")), "add:tagged")
	l.roundTripFrom(before, pod, call{id: "c1", ifName: "net1", netns: pod.path}.with(rails("dev1", "dev0")))
}

func (l *lab) roundTripFrom(before snapshot, pod *space, c call) {
	l.t.Helper()
	l.add(c)
	c.verb = "DEL"
	l.mustRun(c)
	if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
		l.t.Errorf("left behind (-before +after):\n%s", diff)
	}
}

func testDeviceRefused(t *testing.T, l *lab, pod *space, c call) {
	before := l.traces(pod)
	c.verb = "ADD"
	l.mustFail(dispatch.CodeMaster, "nosuch", c.with(map[string]any{"device": "nosuch"}))
	l.mustFail(dispatch.CodeConfig, "device: is empty", c.with(map[string]any{"device": nil}))
	l.mustFail(dispatch.CodeMaster, "loopback", c.with(map[string]any{"device": "lo"}))
	l.mustFail(dispatch.CodeMaster, "hwaddr", c.with(map[string]any{"device": nil, "hwaddr": "02:00:00:00:00:33"}))
	l.mustFail(dispatch.CodeMaster, "virtual function", c.with(map[string]any{"kind": "sriov"}))
	l.mustFail(dispatch.CodeConfig, "vlan", c.with(map[string]any{"vlan": 7}))
	if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
	def := &netlink.Route{LinkIndex: l.host.get("dev0").Attrs().Index, Dst: cidr("0.0.0.0/0"), Scope: netlink.SCOPE_LINK}
	must(t, l.host.link.RouteAdd(def))
	l.mustFail(dispatch.CodeMaster, "default route", c)
	must(t, l.host.link.RouteDel(def))
	def = &netlink.Route{Dst: cidr("0.0.0.0/0"), MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: l.host.get("dev0").Attrs().Index, Flags: int(netlink.FLAG_ONLINK), Gw: net.ParseIP("192.0.2.1")},
		{LinkIndex: l.host.get("rail0").Attrs().Index, Flags: int(netlink.FLAG_ONLINK), Gw: net.ParseIP("192.0.2.2")},
	}}
	must(t, l.host.link.RouteAdd(def))
	l.mustFail(dispatch.CodeMaster, "default route", c)
	must(t, l.host.link.RouteDel(def))
	a := netlink.NewLinkAttrs()
	a.Name = "br0"
	bridge := &netlink.Bridge{LinkAttrs: a}
	must(t, l.host.link.LinkAdd(bridge))
	must(t, l.host.link.LinkSetMaster(l.host.get("dev0"), bridge))
	l.mustFail(dispatch.CodeMaster, "port of a bridge", c)
	must(t, l.host.link.LinkDel(bridge))
	// Others stand on it, as long as they live.
	upper := call{verb: "ADD", id: "upper", ifName: "net1", netns: newSpaceNamed(t, l, "upper").path}.with(map[string]any{"kind": "macvlan", "device": nil, "master": "dev0"})
	l.mustRun(upper)
	l.mustFail(dispatch.CodeMaster, "upper@net1", c)
	must(t, os.Remove(upper.netns)) // gone, as far as anybody can see
	// Somebody has it: the answer says who.
	l.add(c)
	second := c
	second.id, second.netns = "c2", newSpace(t).path
	l.mustFail(dispatch.CodeMaster, "c1@net1", second)
	status := c
	status.verb = "STATUS"
	l.mustRun(status)
	c.verb = "DEL"
	l.mustRun(c)
}

func testDeviceDrift(t *testing.T, l *lab, pod *space, c call) {
	for name, harm := range map[string]func(netlink.Link){
		"MTU": func(n netlink.Link) { must(t, pod.link.LinkSetMTU(n, 1400)) },
		"MAC": func(n netlink.Link) {
			must(t, pod.link.LinkSetHardwareAddr(n, net.HardwareAddr{2, 0, 0, 0, 0, 0x66}))
		},
		"down": func(n netlink.Link) { must(t, pod.link.LinkSetDown(n)) },
		"name": func(n netlink.Link) {
			must(t, pod.link.LinkSetDown(n))
			must(t, pod.link.LinkSetName(n, "other"))
		},
		"gone": func(n netlink.Link) {
			must(t, pod.link.LinkSetNsFd(n, int(l.host.ns.Fd())))
		},
	} {
		c.verb = "ADD"
		l.mustRun(c)
		c.verb = "CHECK"
		l.mustRun(c)
		harm(pod.get("net1"))
		if a := l.run(c); a.rc != 1 || a.code != dispatch.CodeDrift {
			t.Errorf("%s: rc %d code %d %s", name, a.rc, a.code, a.msg)
		}
		c.verb = "DEL"
		l.mustRun(c)
		if a := l.host.get("dev0").Attrs(); a.MTU != 4000 || a.HardwareAddr.String() != deviceMAC {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

func testDeviceHundred(t *testing.T, l *lab, pod *space, c call) {
	before := l.traces(pod)
	l.add(c)
	c.verb = "DEL"
	for range 100 {
		l.mustRun(c)
	}
	if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}

func testDeviceStripped(t *testing.T, l *lab, pod *space, c call) {
	before := l.traces(pod)
	l.add(c)
	l.mustRun(call{verb: "DEL", id: "c1", ifName: "net1", stdin: `{"cniVersion":"0.3.1","name":"rail0","type":"railyard"}`})
	if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}

// testDevicePodHasName: the pod's own link dev0 keeps the device neither out nor in.
func testDevicePodHasName(t *testing.T, l *lab, pod *space, c call) {
	a := netlink.NewLinkAttrs()
	a.Name, a.Index = "dev0", 1000 // or the kernel would have to give the device another index
	must(t, pod.link.LinkAdd(&netlink.Bridge{LinkAttrs: a}))
	l.roundTrip(pod, c, func() {})
}

// TestHostDevice_Killed: SIGKILL at every step of ADD and of DEL.
func TestHostDevice_Killed(t *testing.T) {
	l, pod := newLab(t), newSpace(t)
	l.addDevice()
	c := call{id: "c1", ifName: "net1", netns: pod.path}.with(map[string]any{"mtu": 2000, "mac": "02:00:00:00:00:99",
		"sysctl": map[string]any{"net.ipv4.conf.all.arp_ignore": "1"}})
	l.everyDeath(pod, c, `{"cniVersion":"1.1.0","name":"rail0","type":"railyard"}`, []string{
		"add:planned", "add:journaled", "add:tagged", "add:linked", "add:leased", "add:set", "add:addressed", "add:up", "add:routed", "add:done",
	}, []string{"undo:2", "undo:1", "undo:pulled", "undo:restored", "undo:0", "undo:done", "undo:removed"})
}
