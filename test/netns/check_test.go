// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// TestConformance_E: CHECK passes on what ADD made and names each thing that drifted.
func TestConformance_E(t *testing.T) {
	relink := func(l *lab, pod *space, master, mac string) {
		must(l.t, pod.link.LinkDel(pod.get("net1")))
		a := netlink.NewLinkAttrs()
		a.Name, a.ParentIndex, a.Namespace = "net1", l.host.get(master).Attrs().Index, netlink.NsFd(pod.ns.Fd())
		if mac != "" {
			a.HardwareAddr, _ = net.ParseMAC(mac)
		}
		must(l.t, l.host.link.LinkAdd(&netlink.Macvlan{LinkAttrs: a, Mode: netlink.MACVLAN_MODE_BRIDGE}))
	}
	for name, c := range map[string]struct {
		drift     func(l *lab, pod *space)
		wantWords string // empty: passes
	}{
		"untouched":     {func(*lab, *space) {}, ""},
		"more_is_fine":  {func(l *lab, pod *space) { addAddr(l.t, pod, "10.77.0.1/24") }, ""},
		"link_removed":  {func(l *lab, pod *space) { must(l.t, pod.link.LinkDel(pod.get("net1"))) }, "gone"},
		"link_renamed":  {func(l *lab, pod *space) { must(l.t, pod.link.LinkSetName(pod.get("net1"), "x")) }, "name x"},
		"link_replaced": {func(l *lab, pod *space) { relink(l, pod, "rail0", pod.get("net1").Attrs().HardwareAddr.String()) }, "gone"},
		"other_master": {func(l *lab, pod *space) {
			l.addMaster("rail1", "port1", 1500)
			relink(l, pod, "rail1", "")
		}, "gone"},
		"down": {func(l *lab, pod *space) { must(l.t, pod.link.LinkSetDown(pod.get("net1"))) }, "down"},
		"mtu":  {func(l *lab, pod *space) { must(l.t, pod.link.LinkSetMTU(pod.get("net1"), 1400)) }, "MTU 1400"},
		"mac": {func(l *lab, pod *space) {
			m, _ := net.ParseMAC("02:00:00:00:00:99")
			must(l.t, pod.link.LinkSetHardwareAddr(pod.get("net1"), m))
		}, "MAC 02:00:00:00:00:99"},
		"mode": {func(l *lab, pod *space) {
			must(l.t, pod.link.LinkSetMacvlanMode(pod.get("net1"), netlink.MACVLAN_MODE_PRIVATE))
		}, "mode"},
		"address": {func(l *lab, pod *space) {
			must(l.t, pod.link.AddrDel(pod.get("net1"), &netlink.Addr{IPNet: cidr("10.20.1.0/16")}))
		}, "address 10.20.1.0/16"},
		"address_v6": {func(l *lab, pod *space) {
			must(l.t, pod.link.AddrDel(pod.get("net1"), &netlink.Addr{IPNet: cidr("fd00:20::1:0/64")}))
		}, "fd00:20::1:0"},
		"route": {func(l *lab, pod *space) {
			must(l.t, pod.link.RouteDel(&netlink.Route{LinkIndex: pod.get("net1").Attrs().Index, Dst: cidr("10.99.0.0/16")}))
		}, "10.99.0.0"},
		"sysctl":      {func(l *lab, pod *space) { pod.setSysctl("net/ipv4/conf/net1/rp_filter", "1") }, "rp_filter"},
		"sysctl_all":  {func(l *lab, pod *space) { pod.setSysctl("net/ipv4/conf/all/arp_ignore", "0") }, "arp_ignore"},
		"lease_gone":  {func(l *lab, pod *space) { l.release("c1") }, "lease is gone"},
		"lease_other": {func(l *lab, pod *space) { l.release("c1"); l.leaseAs("c0"); l.leaseAs("c1") }, "10.20.1."},
		"namespace":   {func(l *lab, pod *space) { *pod = *newSpace(l.t) }, "another namespace"},
		"died_midway": {func(l *lab, pod *space) {
			l.mustRun(call{verb: "DEL", id: "c1", ifName: "net1"})
			l.mustDie(call{verb: "ADD", id: "c1", ifName: "net1", netns: pod.path}, "add:done")
			l.editJournal("c1", func(j map[string]any) { delete(j, "result") })
		}, "died midway"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, pod := newLab(t), newSpace(t)
			l.fakePCI("0000:3b:00.1", "rail0")
			add := call{verb: "ADD", id: "c1", ifName: "net1", netns: pod.path}.with(l.everything())
			prev := l.mustRun(add).stdout
			c.drift(l, pod)
			check := call{verb: "CHECK", id: "c1", ifName: "net1", netns: pod.path}.with(l.everything())
			check.conf["prevResult"] = json.RawMessage(prev)
			if c.wantWords == "" {
				l.mustRun(check)
			} else {
				l.mustFail(dispatch.CodeDrift, c.wantWords, check)
			}
			l.mustRun(call{verb: "DEL", id: "c1", ifName: "net1", netns: pod.path})
		})
	}
}

// TestConformance_E_Chained: what the plugins after this one do is no drift: tuning sets another MAC and says so in the
// result, sbr moves the routes to a table of the link's own.
func TestConformance_E_Chained(t *testing.T) {
	l, pod := newLab(t), newSpace(t)
	c := call{verb: "ADD", id: "c1", ifName: "net1", netns: pod.path}
	prev := l.mustRun(c).stdout
	link := pod.get("net1")
	const tuned = "02:00:00:00:00:AA"
	m, err := net.ParseMAC(tuned)
	must(t, err)
	must(t, pod.link.LinkSetHardwareAddr(link, m))
	moved := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: cidr("10.99.0.0/16"), Gw: net.ParseIP(gateway4)}
	must(t, pod.link.RouteDel(moved))
	moved.Table = 100
	must(t, pod.link.RouteAdd(moved))
	c.verb = "CHECK"
	l.mustFail(dispatch.CodeDrift, "MAC", c.with(map[string]any{"prevResult": json.RawMessage(prev)}))
	var r map[string]any
	must(t, json.Unmarshal([]byte(prev), &r))
	r["interfaces"].([]any)[0].(map[string]any)["mac"] = tuned
	l.mustRun(c.with(map[string]any{"prevResult": r}))
	c.verb, c.conf = "DEL", nil
	l.mustRun(c)
	if pod.has("net1") {
		t.Error("the link with another MAC is still there")
	}
}

func (l *lab) editJournal(id string, f func(map[string]any)) {
	l.t.Helper()
	file := filepath.Join(l.dir, "attachments", id+"@net1.json")
	b, err := os.ReadFile(file)
	must(l.t, err)
	var j map[string]any
	must(l.t, json.Unmarshal(b, &j))
	f(j)
	b, err = json.Marshal(j)
	must(l.t, err)
	must(l.t, os.WriteFile(file, b, 0o600))
}

func key(id string) ipam.Key { return ipam.Key{Network: "rail0", ContainerID: id, IfName: "net1"} }

func (l *lab) release(id string) {
	l.withStore(func(s *store.Store) { must(l.t, s.Release(l.t.Context(), key(id))) })
}

func (l *lab) leaseAs(id string) {
	l.withStore(func(s *store.Store) {
		_, err := s.Lease(l.t.Context(), ipam.Request{Key: key(id), Pool: poolName})
		must(l.t, err)
	})
}

func cidr(s string) *net.IPNet {
	addr, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	return &net.IPNet{IP: addr, Mask: n.Mask}
}

func addAddr(t testing.TB, s *space, text string) {
	t.Helper()
	must(t, s.link.AddrAdd(s.get("net1"), &netlink.Addr{IPNet: cidr(text)}))
}

// TestConformance_F: STATUS tells the truth, GC does what the list says and nothing more.
func TestConformance_F_STATUS(t *testing.T) {
	for name, c := range map[string]struct {
		prepare  func(l *lab)
		conf     map[string]any
		wantCode uint // 0: ready
	}{
		"ready":             {nil, nil, 0},
		"ready_agent_down":  {func(l *lab) { l.serve()() }, nil, 0},
		"layer_2_only":      {nil, map[string]any{"ipam": nil}, 0},
		"master_absent":     {nil, map[string]any{"master": "nosuch"}, 50},
		"no_default_route":  {nil, map[string]any{"master": nil}, 50},
		"mtu_above_master":  {nil, map[string]any{"mtu": 9000}, 50},
		"pool_full":         {func(l *lab) { l.fill("full") }, pool("full"), 51},
		"pool_unknown":      {nil, pool("nope"), 50},
		"store_lost":        {func(l *lab) { must(l.t, os.Remove(filepath.Join(l.dir, "ipam.db"))) }, nil, 50},
		"other_ipam":        {func(l *lab) { l.useOther() }, nil, 0},
		"other_ipam_absent": {nil, map[string]any{"ipam": map[string]any{"type": "nosuch"}}, 50},
		"other_ipam_error":  {func(l *lab) { l.useOther(); l.touch("fail-STATUS", "") }, nil, 142},
		"config_wrong":      {nil, map[string]any{"mode": "magic"}, 7},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			if c.prepare != nil {
				c.prepare(l)
			}
			status := call{verb: "STATUS"}.with(c.conf)
			if c.wantCode == 0 {
				l.mustRun(status)
				return
			}
			l.mustFail(c.wantCode, "", status)
		})
	}
}

func TestConformance_F_GC(t *testing.T) {
	l := newLab(t)
	pods := map[string]*space{}
	for _, id := range []string{"a", "b", "c", "foreign"} {
		pods[id] = newSpace(t)
		add := call{verb: "ADD", id: id, ifName: "net1", netns: pods[id].path}
		if id == "foreign" {
			add.conf = map[string]any{"name": "othernet"}
		}
		l.mustRun(add)
	}
	l.leaseAs("no-journal")
	l.mustDie(call{verb: "ADD", id: "half", ifName: "net1", netns: newSpace(t).path}, "add:leased")
	gc := func(valid any) call {
		return call{verb: "GC"}.with(map[string]any{"cni.dev/valid-attachments": valid})
	}
	alive := func() []string {
		var out []string
		for _, lease := range l.leases() {
			out = append(out, lease.Key.ContainerID)
			if p := pods[lease.Key.ContainerID]; p != nil && !p.has("net1") {
				t.Errorf("%s has a lease and no link", lease.Key.ContainerID)
			}
		}
		slices.Sort(out)
		return out
	}
	for range 2 { // the second time changes nothing
		l.mustRun(gc([]map[string]string{{"containerID": "a", "ifname": "net1"}, {"containerID": "c", "ifname": "net1"}, {"containerID": "z", "ifname": "net1"}}))
		if diff := cmp.Diff([]string{"a", "c", "foreign"}, alive()); diff != "" {
			t.Fatal(diff)
		}
		if pods["b"].has("net1") || len(l.files()) != 3 {
			t.Errorf("b is not undone: %v", l.files())
		}
	}
	for _, none := range []any{[]string{}, json.RawMessage("null")} {
		l.mustRun(gc(none))
		if diff := cmp.Diff([]string{"foreign"}, alive()); diff != "" {
			t.Fatal(diff)
		}
	}
	l.useOther()
	l.mustRun(gc([]string{}))
	if _, err := os.Stat(filepath.Join(l.bin, "gc")); err != nil {
		t.Error("GC was not passed on to the other IPAM plugin")
	}
}
