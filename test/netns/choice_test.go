// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/railyard-net/railyard/plugins/dispatch"
)

// nics gives the host NICs in no order: n3, n1, n2 are fit, the others are not.
func (l *lab) nics() {
	l.t.Helper()
	for i, address := range []string{"0000:5e:00.0", "0000:3b:00.0", "0000:3b:00.1", "0000:1a:00.0", "0000:01:00.0", "0000:02:00.0", "0000:03:00.0", "0000:04:00.0"} {
		name := fmt.Sprintf("n%d", i)
		l.addMaster(name, "p"+name, 1500)
		l.fakePCI(address, name)
	}
	// n0 has the default route, n4 is a bridge's port, n5 has no carrier, n6 is virtual, n7 is no other's fault: it is down.
	must(l.t, l.host.link.RouteAdd(&netlink.Route{LinkIndex: l.host.get("n0").Attrs().Index, Dst: cidr("0.0.0.0/0"), Scope: netlink.SCOPE_LINK}))
	a := netlink.NewLinkAttrs()
	a.Name = "br0"
	bridge := &netlink.Bridge{LinkAttrs: a}
	must(l.t, l.host.link.LinkAdd(bridge))
	must(l.t, l.host.link.LinkSetMaster(l.host.get("n4"), bridge))
	must(l.t, l.fabric.link.LinkSetDown(l.fabric.get("pn5")))
	must(l.t, os.Symlink("../0000:1a:00.0", filepath.Join(l.sys, "bus/pci/devices/0000:03:00.0/physfn")))
	must(l.t, os.Symlink("../0000:03:00.0", filepath.Join(l.sys, "bus/pci/devices/0000:1a:00.0/virtfn0")))
	must(l.t, l.host.link.LinkSetDown(l.host.get("n7")))
	delete(l.conf, "master")
}

// label writes the administrator's list of the host, and gives the environment in which the plugin finds it.
func (l *lab) label(text string) map[string]string {
	l.t.Helper()
	file := filepath.Join(filepath.Dir(l.dir), "rails.json")
	must(l.t, os.WriteFile(file, []byte(text), 0o600))
	return map[string]string{"RAILYARD_LABELS": file}
}

// parents are the links of the host that the pod's interfaces stand on.
func (l *lab) parents(pod *space, names ...string) string {
	l.t.Helper()
	var out []string
	for _, name := range names {
		link, err := l.host.link.LinkByIndex(pod.get(name).Attrs().ParentIndex)
		must(l.t, err)
		out = append(out, link.Attrs().Name)
	}
	return strings.Join(out, " ")
}

func rails(list ...map[string]any) map[string]any { return map[string]any{"rails": list} }

func TestChoice(t *testing.T) {
	for name, test := range map[string]func(*testing.T, *lab, *space, call){
		"auto":            testChoiceAuto,
		"auto_not_named":  testChoiceNamed,
		"auto_exhausted":  testChoiceExhausted,
		"auto_moved":      testChoiceMoved,
		"auto_two_ports":  testChoiceTwoPorts,
		"auto_at_once":    testChoiceAtOnce,
		"auto_with_rdma":  testChoiceRDMA,
		"label":           testChoiceLabel,
		"label_unknown":   testChoiceLabelUnknown,
		"label_of_device": testChoiceLabelMoved,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, pod := newLab(t), newSpace(t)
			l.nics()
			test(t, l, pod, call{id: "c1", ifName: "net1", netns: pod.path})
		})
	}
}

var auto = map[string]any{"auto": true}

func testChoiceAuto(t *testing.T, l *lab, pod *space, c call) {
	c = c.with(rails(auto, auto, auto, auto))
	l.roundTripUp(pod, c, "n7", func() {
		if got := l.parents(pod, "net1", "net1-2", "net1-3", "net1-4"); got != "n7 n3 n1 n2" {
			t.Errorf("the rails stand on %s", got)
		}
		for _, verb := range []string{"CHECK", "STATUS"} {
			c.verb = verb
			l.mustRun(c)
		}
	})
}

// roundTripUp is roundTrip where a master is brought up and stays so.
func (l *lab) roundTripUp(pod *space, c call, down string, while func()) {
	l.t.Helper()
	l.add(c)
	while()
	c.verb = "DEL"
	l.mustRun(c)
	must(l.t, l.host.link.LinkSetUp(l.host.get(down)))
	l.roundTrip(pod, c, while)
}

func testChoiceNamed(t *testing.T, l *lab, pod *space, c call) {
	c.env = l.label(`{"version": 1, "rails": {"leaf": "n7"}}`)
	l.add(c.with(rails(auto, map[string]any{"master": "n3"}, auto, map[string]any{"label": "leaf"})))
	if got := l.parents(pod, "net1", "net1-2", "net1-3", "net1-4"); got != "n1 n3 n2 n7" {
		t.Errorf("the rails stand on %s", got)
	}
}

func testChoiceExhausted(t *testing.T, l *lab, pod *space, c call) {
	before := l.traces(pod)
	c.verb = "ADD"
	five := rails(auto, auto, auto, auto, auto)
	a := l.mustFail(dispatch.CodeMaster, "no NIC of this node is fit and free", c.with(five))
	for _, why := range []string{"n0 has the host's default route", "n1 is another rail's", "n4 is a port", "n5 has no carrier", "n6 is a virtual function"} {
		if !strings.Contains(a.msg, why) {
			t.Errorf("nothing of %q in %s", why, a.msg)
		}
	}
	if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
	c.verb = "STATUS"
	l.mustFail(dispatch.CodeNotReady, "fit and free", c.with(five))
}

func testChoiceMoved(t *testing.T, l *lab, pod *space, c call) {
	c = c.with(rails(auto, map[string]any{"device": "n3"}, auto))
	c.conf["kind"] = "host-device"
	l.roundTrip(pod, c, func() {
		if l.host.has("n7") || l.host.has("n3") || l.host.has("n1") || !l.host.has("n2") {
			t.Error(l.host.links())
		}
		second := c.with(rails(auto))
		second.conf["kind"] = "host-device"
		second.id, second.netns = "c2", newSpace(t).path
		l.add(second)
		if l.host.has("n2") {
			t.Error("the second pod has another")
		}
		third := second
		third.verb, third.id = "ADD", "c3"
		l.mustFail(dispatch.CodeMaster, "fit and free", third)
		second.verb = "DEL"
		l.mustRun(second)
	})
}

// testChoiceTwoPorts: two NICs are of one PCI function, and each can be a rail, of one attachment too.
func testChoiceTwoPorts(t *testing.T, l *lab, pod *space, c call) {
	l.addMaster("n8", "pn8", 1500)
	l.fakePCI("0000:3b:00.0", "n8")
	on := c.with(rails(auto, auto, auto, auto, auto))
	l.roundTripUp(pod, on, "n7", func() {
		if got := l.parents(pod, "net1", "net1-2", "net1-3", "net1-4", "net1-5"); got != "n7 n3 n1 n8 n2" {
			t.Errorf("the rails stand on %s", got)
		}
	})
	moved := c.with(rails(map[string]any{"device": "n1", "mtu": 1400}, map[string]any{"device": "n8"}))
	moved.conf["kind"] = "host-device"
	l.roundTrip(pod, moved, func() {
		if l.host.has("n1") || l.host.has("n8") || pod.get("net1").Attrs().MTU != 1400 || pod.get("net1-2").Attrs().MTU != 1500 {
			t.Error(l.host.links())
		}
	})
	twice := c.with(rails(map[string]any{"device": "n1"}, map[string]any{"device": "n1"}))
	twice.conf["kind"], twice.verb = "host-device", "ADD"
	l.mustFail(dispatch.CodeConfig, "that of another rail too", twice)
}

// testChoiceAtOnce: as many pods as there are NICs, at once: each gets one.
func testChoiceAtOnce(t *testing.T, l *lab, _ *space, c call) {
	c = c.with(rails(auto))
	c.conf["kind"], c.verb = "host-device", "ADD"
	before := l.traces()
	var wg sync.WaitGroup
	calls := make([]call, 4)
	answers := make([]answer, len(calls))
	for i := range calls {
		calls[i] = c
		calls[i].id, calls[i].netns = fmt.Sprintf("c%d", i), newSpace(t).path
		wg.Go(func() { answers[i] = l.run(calls[i]) })
	}
	wg.Wait()
	for i, a := range answers {
		if a.rc != 0 {
			t.Errorf("%d: %d %s", i, a.code, a.msg)
		}
		calls[i].verb = "DEL"
		l.mustRun(calls[i])
	}
	if diff := cmp.Diff(before, l.traces()); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}

func testChoiceRDMA(t *testing.T, l *lab, _ *space, c call) {
	c.verb = "ADD"
	c = c.with(rails(auto))
	c.conf["rdma"] = "required"
	l.mustFail(dispatch.CodeMaster, "n1 has no RDMA device", c)
}

func testChoiceLabel(t *testing.T, l *lab, pod *space, c call) {
	c.env = l.label(`{"version": 1, "rails": {"leaf-0": "0000:3b:00.1", "leaf-1": "n1"}}`)
	// What a program says of the node comes behind what its administrator says.
	must(t, os.WriteFile(filepath.Join(l.dir, "rails.json"), []byte(`{"version": 1, "rails": {"leaf-0": "n3", "leaf-2": "n3"}}`), 0o600))
	c = c.with(rails(map[string]any{"label": "leaf-0"}, map[string]any{"label": "leaf-1"}, map[string]any{"label": "leaf-2"}))
	l.roundTrip(pod, c, func() {
		if got := l.parents(pod, "net1", "net1-2", "net1-3"); got != "n2 n1 n3" {
			t.Errorf("the rails stand on %s", got)
		}
		c.verb = "STATUS"
		l.mustRun(c)
	})
}

func testChoiceLabelUnknown(t *testing.T, l *lab, pod *space, c call) {
	before := l.traces(pod)
	c = c.with(rails(map[string]any{"label": "leaf-0"}))
	c.verb = "ADD"
	l.mustFail(dispatch.CodeMaster, "no NIC of this node has the label leaf-0", c)
	for text, words := range map[string]string{
		`{"version": 1, "rails": {"leaf-1": "n1"}}`:                 "no NIC of this node has the label leaf-0",
		`{"version": 1, "rails": {"leaf-0": "nosuch"}}`:             "nosuch",
		`{"version": 2, "rails": {"leaf-0": "n1"}}`:                 "version: is 2",
		`{"version": 1, "rails": {"leaf-0": "n1", "leaf-0": "n2"}}`: "is there twice",
		`{"version": 1, "rails": {"leaf-0": null}}`:                 "is no string",
		`{"version": 1, "rals": {}}`:                                "rals",
	} {
		c.env = l.label(text)
		c.verb = "ADD"
		l.mustFail(dispatch.CodeMaster, words, c)
		c.verb = "STATUS"
		l.mustFail(dispatch.CodeNotReady, words, c)
	}
	if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}

func testChoiceLabelMoved(t *testing.T, l *lab, pod *space, c call) {
	c.env = l.label(`{"version": 1, "rails": {"leaf-0": "0000:3b:00.0"}}`)
	c = c.with(rails(map[string]any{"label": "leaf-0"}))
	c.conf["kind"] = "host-device"
	l.roundTrip(pod, c, func() {
		if l.host.has("n1") {
			t.Error("it is still on the host")
		}
		c.verb = "STATUS"
		l.mustRun(c)
		second := c
		second.verb, second.id, second.netns = "ADD", "c2", newSpace(t).path
		l.mustFail(dispatch.CodeMaster, "c1@net1 of network rail0 has it", second)
	})
}
