// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/railyard-net/railyard/plugins/dispatch"
)

func testMasterAltName(t *testing.T, l *lab, pod *space, c call) {
	alt := "rail-of-the-first-switch-" + strings.Repeat("x", 60)
	must(t, l.host.link.LinkAddAltName(l.host.get("rail0"), alt))
	for _, verb := range []string{"ADD", "CHECK", "STATUS"} {
		c.verb = verb
		l.mustRun(c.with(map[string]any{"master": alt}))
	}
}

// fakePCI makes links of the host those of a PCI function in the lab's /sys.
func (l *lab) fakePCI(address string, names ...string) {
	l.t.Helper()
	device := filepath.Join(l.sys, "bus/pci/devices", address)
	for _, name := range names {
		must(l.t, os.MkdirAll(filepath.Join(device, "net", name), 0o755))
		class := filepath.Join(l.sys, "class/net", name)
		must(l.t, os.MkdirAll(class, 0o755))
		must(l.t, os.Symlink("../../../bus/pci/devices/"+address, filepath.Join(class, "device")))
	}
}

func testMasterPCI(t *testing.T, l *lab, pod *space, c call) {
	l.fakePCI("0000:3b:00.0", "rail0")
	l.fakePCI("0000:5e:00.0", "a0", "b0")
	r := l.add(c.with(map[string]any{"master": "0000:3b:00.0"}))
	if r.Interfaces[0].PciID != "0000:3b:00.0" {
		t.Errorf("pciID: %+v", r.Interfaces[0])
	}
	l.mustRun(call{verb: "DEL", id: c.id, ifName: c.ifName})
	r = l.add(c.with(map[string]any{"master": nil, "deviceID": "0000:3b:00.0"}))
	if r.Interfaces[0].PciID != "0000:3b:00.0" {
		t.Errorf("by deviceID: %+v", r.Interfaces[0])
	}
	c.id = "c2"
	l.mustFail(dispatch.CodeMaster, "0000:af:00.0", c.with(map[string]any{"master": "0000:af:00.0"}))
	l.mustFail(dispatch.CodeMaster, "[a0 b0]", c.with(map[string]any{"master": "0000:5e:00.0"}))
}

func testMasterDefault(t *testing.T, l *lab, pod *space, c call) {
	l.mustFail(dispatch.CodeMaster, "no default route", c.with(map[string]any{"master": nil}))
	for name, route := range map[string]string{"v4": "0.0.0.0/0", "v6": "::/0"} {
		_, dst, err := net.ParseCIDR(route)
		must(t, err)
		r := &netlink.Route{LinkIndex: l.host.get("rail0").Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}
		must(t, l.host.link.RouteAdd(r))
		c.verb = "ADD"
		l.add(c.with(map[string]any{"master": nil}))
		c.verb = "DEL"
		l.mustRun(c)
		must(t, l.host.link.RouteDel(r))
		t.Log(name)
	}
}

func testMasterDown(t *testing.T, l *lab, pod *space, c call) {
	must(t, l.host.link.LinkSetDown(l.host.get("rail0")))
	l.add(c)
	if l.host.get("rail0").Attrs().Flags&net.FlagUp == 0 {
		t.Error("the master is still down")
	}
}

func testMasterLoopback(t *testing.T, l *lab, pod *space, c call) {
	l.mustFail(7, "lo is no Ethernet", c.with(map[string]any{"master": "lo"}))
}

func testModes(t *testing.T, l *lab, pod *space, c call) {
	before := l.snapshot(pod)
	for mode, want := range map[string]netlink.MacvlanMode{
		"private": netlink.MACVLAN_MODE_PRIVATE, "vepa": netlink.MACVLAN_MODE_VEPA, "passthru": netlink.MACVLAN_MODE_PASSTHRU, "bridge": netlink.MACVLAN_MODE_BRIDGE,
	} {
		c.verb = "ADD"
		r := l.add(c.with(map[string]any{"mode": mode}))
		m := pod.get("net1").(*netlink.Macvlan)
		if m.Mode != want || m.HardwareAddr.String() != r.Interfaces[0].Mac {
			t.Errorf("%s: %v %s", mode, m.Mode, r.Interfaces[0].Mac)
		}
		if mode == "passthru" {
			l.mustFail(dispatch.CodeLink, "passthru", call{verb: "ADD", id: "c2", ifName: "net2", netns: pod.path})
		}
		c.verb = "DEL"
		l.mustRun(c)
	}
	if diff := cmp.Diff(before.Host, l.snapshot(pod).Host); diff != "" {
		t.Error(diff)
	}
}

func testMTU(t *testing.T, l *lab, pod *space, c call) {
	r := l.add(c.with(map[string]any{"mtu": 1400}))
	if got := pod.get("net1").Attrs().MTU; got != 1400 || r.Interfaces[0].Mtu != 1400 {
		t.Errorf("MTU %d, result %d", got, r.Interfaces[0].Mtu)
	}
}

func testMTUAboveMaster(t *testing.T, l *lab, pod *space, c call) {
	before := l.snapshot(pod)
	l.mustFail(7, "mtu: is 9000, more than the 1500 of master rail0", c.with(map[string]any{"mtu": 9000}))
	if diff := cmp.Diff(before, l.snapshot(pod)); diff != "" {
		t.Error(diff)
	}
}

func testMAC(t *testing.T, l *lab, pod *space, c call) {
	const a, b, d, e = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0d", "02:00:00:00:00:0e"
	cni := map[string]any{"cni": map[string]any{"mac": b}}
	runtime := map[string]any{"mac": d}
	derived := ""
	for _, x := range []struct {
		conf       map[string]any
		args, want string
	}{
		{nil, "", ""}, {nil, "", ""}, // twice the same
		{map[string]any{"mac": a}, "", a},
		{map[string]any{"mac": a, "args": cni}, "", b},
		{map[string]any{"mac": a, "args": cni, "runtimeConfig": runtime}, "", d},
		{nil, "MAC=" + e, e},
	} {
		c.verb, c.args = "ADD", x.args
		r := l.add(c.with(x.conf))
		got := pod.get("net1").Attrs().HardwareAddr
		if x.want == "" && derived == "" {
			derived = got.String()
		}
		if x.want == "" {
			x.want = derived
		}
		if got.String() != x.want || r.Interfaces[0].Mac != x.want || got[0]&3 != 2 {
			t.Errorf("%v: MAC %s, result %s, want %s, locally administered", x.conf, got, r.Interfaces[0].Mac, x.want)
		}
		c.verb = "DEL"
		l.mustRun(c)
	}
}

func testMACInUse(t *testing.T, l *lab, pod *space, c call) {
	c = c.with(map[string]any{"mac": "02:00:00:00:00:0a"})
	l.add(c)
	other := newSpace(t)
	c.id, c.netns = "c2", other.path
	l.mustFail(dispatch.CodeLink, "in use", c)
	if other.has("net1") || len(l.leases()) != 1 {
		t.Error("the refused attachment left something")
	}
}

func testInterfaceExists(t *testing.T, l *lab, pod *space, c call) {
	a := netlink.NewLinkAttrs()
	a.Name = "net1"
	must(t, pod.link.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "other"}))
	before := l.snapshot(pod)
	l.mustFail(dispatch.CodeInterfaceExists, "net1", c)
	if diff := cmp.Diff(before, l.snapshot(pod)); diff != "" {
		t.Error(diff)
	}
	c.verb = "DEL" // of an attachment that never was: the stranger stays
	l.mustRun(c)
	if diff := cmp.Diff(before, l.snapshot(pod)); diff != "" {
		t.Error(diff)
	}
}

func testHostHasName(t *testing.T, l *lab, pod *space, c call) {
	l.addMaster("net1", "port1", 1500)
	before := l.snapshot(pod)
	l.add(c)
	if m, ok := pod.get("net1").(*netlink.Macvlan); !ok || m.Flags&net.FlagUp == 0 {
		t.Error("no macvlan net1 in the pod")
	}
	c.verb = "DEL"
	l.mustRun(c)
	if diff := cmp.Diff(before, l.snapshot(pod)); diff != "" {
		t.Error(diff)
	}
}
