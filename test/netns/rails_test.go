// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// twoRails gives the host two masters, each in a fabric of its own (a bridge), and a network over both. With one
// subnet both rails lease from the same pool.
func (l *lab) twoRails(oneSubnet bool) {
	l.t.Helper()
	rails := []map[string]any{{"master": "rail0"}, {"master": "rail1", "table": 77}}
	l.addMaster("rail1", "port1", 1500)
	if oneSubnet { // and one network on layer 2, where each interface hears what is meant for the other
		a := netlink.NewLinkAttrs()
		a.Name = "fabric"
		bridge := &netlink.Bridge{LinkAttrs: a}
		must(l.t, l.fabric.link.LinkAdd(bridge))
		must(l.t, l.fabric.link.LinkSetUp(bridge))
		for _, port := range []string{"port0", "port1"} {
			must(l.t, l.fabric.link.LinkSetMaster(l.fabric.get(port), bridge))
		}
	} else {
		rails[1]["pool"] = "rail1"
		l.withStore(func(s *store.Store) { grantSecond(l.t, s) })
	}
	l.conf["rails"] = rails
	delete(l.conf, "master")
}

func TestRails(t *testing.T) {
	for name, test := range map[string]func(*testing.T, *lab, *space, call){
		"one_result":    testRailsResult,
		"drift":         testRailsDrift,
		"refused":       testRailsRefused,
		"retained":      testRailsRetained,
		"other_ipam":    testRailsOtherIPAM,
		"two_networks":  testRailsTwice,
		"two_at_once":   testRailsAtOnce,
		"high_table":    testRailsHighTable,
		"no_other's":    testRailsIdentity,
		"named":         testRailsNamed,
		"without_addrs": testRailsOfNoPool,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, pod := newLab(t), newSpace(t)
			l.twoRails(false)
			test(t, l, pod, call{id: "c1", ifName: "net1", netns: pod.path})
		})
	}
}

func testRailsResult(t *testing.T, l *lab, pod *space, c call) {
	l.roundTrip(pod, c, func() {
		again := c
		again.verb = "CHECK"
		l.mustRun(again)
		if len(l.leases()) != 2 {
			t.Error(l.leases())
		}
		for i, name := range []string{"net1", "net1-2"} {
			table := []int{1000, 77}[i]
			link := pod.get(name)
			if got := link.Attrs().ParentIndex; got != l.host.get(fmt.Sprintf("rail%d", i)).Attrs().Index {
				t.Errorf("%s stands on %d", name, got)
			}
			for path, want := range map[string]string{"arp_ignore": "1", "arp_announce": "2", "rp_filter": "2"} {
				if got := pod.sysctl("net/ipv4/conf/" + name + "/" + path); got != want {
					t.Errorf("%s of %s is %s", path, name, got)
				}
			}
			for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
				rules, err := pod.link.RuleListFiltered(family, &netlink.Rule{Table: table}, netlink.RT_FILTER_TABLE)
				must(t, err)
				routes, err := pod.link.RouteListFiltered(family, &netlink.Route{Table: table, LinkIndex: link.Attrs().Index}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
				must(t, err)
				if len(rules) != 1 || len(routes) < 3 { // the subnet, the gateway, the pool's route
					t.Errorf("%s, family %d: %d rules, routes %v", name, family, len(rules), routes)
				}
			}
		}
	})
	r := l.add(c)
	if len(r.Interfaces) != 2 || r.Interfaces[0].Name != "net1" || r.Interfaces[1].Name != "net1-2" || r.Interfaces[0].Mac == r.Interfaces[1].Mac || len(r.IPs) != 4 {
		t.Fatalf("%+v", r)
	}
	for i, ip := range r.IPs {
		if *ip.Interface != i/2 {
			t.Errorf("%v is on %d", ip.Address, *ip.Interface)
		}
	}
	c.verb = "DEL"
	l.mustRun(c)
}

func testRailsOfNoPool(_ *testing.T, l *lab, pod *space, c call) {
	l.roundTrip(pod, c.with(map[string]any{"ipam": nil, "rails": []any{map[string]any{"master": "rail0"}, map[string]any{"master": "rail1"}}}), func() {})
}

// testRailsAtOnce: the tables of an attachment that is about to make its rules are not free, whether it lives or is dead by now.
func testRailsAtOnce(t *testing.T, l *lab, pod *space, c call) {
	before := l.traces(pod)
	c = c.with(map[string]any{"rails": []any{map[string]any{"master": "rail0"}, map[string]any{"master": "rail1"}}})
	dead, other := c, c
	dead.verb, dead.ifName, other.ifName = "ADD", "net2", "net3"
	l.mustDie(dead, "add:journaled")
	l.add(c)
	dead.verb, c.verb = "DEL", "CHECK"
	l.mustRun(dead)
	l.mustRun(c)
	both := []call{c, other}
	for range 5 {
		for _, verb := range []string{"DEL", "ADD", "CHECK"} {
			var wg sync.WaitGroup
			for _, one := range both {
				one.verb = verb
				wg.Go(func() { l.mustRun(one) })
			}
			wg.Wait()
		}
		other.verb, c.verb = "DEL", "CHECK"
		l.mustRun(other)
		l.mustRun(c)
	}
	c.verb = "DEL"
	l.mustRun(c)
	if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}

// testRailsTwice: two such networks in one pod keep out of each other's way, also when one goes.
func testRailsTwice(t *testing.T, l *lab, pod *space, c call) {
	explicit := c
	c = c.with(map[string]any{"rails": []any{map[string]any{"master": "rail0"}, map[string]any{"master": "rail1"}}})
	l.add(c)
	second := c
	second.ifName = "net5"
	l.add(second)
	for _, one := range []*call{&c, &second} {
		one.verb = "CHECK"
		l.mustRun(*one)
	}
	c.verb = "DEL"
	l.mustRun(c)
	l.mustRun(second)
	second.verb = "DEL"
	l.mustRun(second)
	rules, err := pod.link.RuleList(netlink.FAMILY_V4)
	must(t, err)
	if len(rules) != 3 { // the kernel's own
		t.Errorf("rules: %v", rules)
	}
	third := explicit
	third.verb = "ADD"
	taken := netlink.NewRule()
	taken.Family, taken.Table, taken.Priority = netlink.FAMILY_V4, 77, 5
	must(t, pod.link.RuleAdd(taken))
	l.mustFail(dispatch.CodeConfig, "77", third)
}

// testRailsHighTable: whatever its table's number, a rail's rules come before the main table.
func testRailsHighTable(t *testing.T, l *lab, pod *space, c call) {
	c = c.with(map[string]any{"rails": []any{map[string]any{"master": "rail0", "table": 40000}, map[string]any{"master": "rail1", "table": 40001}}})
	r := l.add(c)
	second := r.IPs[2].Address.IP
	routes, err := pod.link.RouteGetWithOptions(net.ParseIP(gateway4), &netlink.RouteGetOptions{SrcAddr: second})
	must(t, err)
	if len(routes) != 1 || routes[0].LinkIndex != pod.get("net1-2").Attrs().Index {
		t.Errorf("from %s to a neighbour of the first rail: %v", second, routes)
	}
}

// testRailsIdentity: a call for an attachment that never was does not touch the rail that has its name.
func testRailsIdentity(_ *testing.T, l *lab, _ *space, c call) {
	l.add(c)
	other := c
	other.ifName, other.verb = "net1-2", "ADD"
	l.mustFail(dispatch.CodeInterfaceExists, "net1-2", other)
	other.verb = "DEL"
	l.mustRun(other)
	c.verb = "CHECK"
	l.mustRun(c)
}

func testRailsDrift(t *testing.T, l *lab, pod *space, c call) {
	for name, harm := range map[string]func(){
		"rule": func() {
			rules, err := pod.link.RuleListFiltered(netlink.FAMILY_V4, &netlink.Rule{Table: 77}, netlink.RT_FILTER_TABLE)
			must(t, err)
			must(t, pod.link.RuleDel(&rules[0]))
		},
		"second link": func() { must(t, pod.link.LinkDel(pod.get("net1-2"))) },
		"second address": func() {
			link := pod.get("net1-2")
			list, err := pod.link.AddrList(link, netlink.FAMILY_V4)
			must(t, err)
			must(t, pod.link.AddrDel(link, &list[0]))
		},
		"second lease": func() {
			l.withStore(func(s *store.Store) {
				leases, err := s.Leases()
				must(t, err)
				for _, x := range leases {
					if x.Key.IfName == "net1-2" {
						must(t, s.Release(t.Context(), x.Key))
					}
				}
			})
		},
	} {
		c.verb = "ADD"
		l.mustRun(c)
		c.verb = "CHECK"
		l.mustRun(c)
		harm()
		if a := l.run(c); a.rc != 1 || a.code != dispatch.CodeDrift {
			t.Errorf("%s: rc %d code %d %s", name, a.rc, a.code, a.msg)
		}
		c.verb = "DEL"
		l.mustRun(c)
	}
}

func testRailsRefused(t *testing.T, l *lab, pod *space, c call) {
	before := l.traces(pod)
	c.verb = "ADD"
	l.mustFail(dispatch.CodeMaster, "nosuch", c.with(map[string]any{"rails": []any{map[string]any{"master": "rail0"}, map[string]any{"master": "nosuch"}}}))
	l.mustFail(7, "nopool", c.with(map[string]any{"rails": []any{map[string]any{"master": "rail0"}, map[string]any{"master": "rail1", "pool": "nopool"}}}))
	l.mustFail(dispatch.CodeConfig, "ips", c.with(map[string]any{"runtimeConfig": map[string]any{"ips": []string{"10.20.255.7"}}}))
	l.mustFail(dispatch.CodeConfig, "two rails", c.with(map[string]any{"rails": []any{map[string]any{"master": "rail0"}, map[string]any{"master": "rail1", "interface": "net1"}}}))
	long := c
	long.ifName = "a23456789012345"
	l.mustFail(dispatch.CodeConfig, "too long", long)
	if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
	status := c
	status.verb = "STATUS"
	l.mustRun(status)
	l.mustFail(dispatch.CodeNotReady, "nosuch", status.with(map[string]any{"rails": []any{map[string]any{"master": "rail0"}, map[string]any{"master": "nosuch"}}}))
}

// testRailsRetained: a GC that lists the attachment keeps the leases of all of its rails, one that does not ends both.
func testRailsRetained(t *testing.T, l *lab, pod *space, c call) {
	l.add(c)
	gc := call{verb: "GC", conf: map[string]any{"cni.dev/valid-attachments": []any{map[string]any{"containerID": "c1", "ifname": "net1"}}}}
	l.mustRun(gc)
	c.verb = "CHECK"
	l.mustRun(c)
	// The journals are lost: what the config says of the rails still keeps their leases.
	must(t, os.Rename(filepath.Join(l.dir, "attachments", "c1@net1.json"), filepath.Join(l.dir, "kept")))
	l.mustRun(gc)
	if got := len(l.leases()); got != 2 {
		t.Errorf("%d leases", got)
	}
	must(t, os.Rename(filepath.Join(l.dir, "kept"), filepath.Join(l.dir, "attachments", "c1@net1.json")))
	gc.conf["cni.dev/valid-attachments"] = []any{}
	l.mustRun(gc)
	if len(l.leases()) != 0 || pod.has("net1") || pod.has("net1-2") || len(l.files()) != 0 {
		t.Error(l.leases(), l.files())
	}
}

func testRailsOtherIPAM(t *testing.T, l *lab, pod *space, c call) {
	l.useOther()
	l.conf["rails"] = []map[string]any{{"master": "rail0"}, {"master": "rail1"}}
	l.roundTrip(pod, c, func() {
		if got := len(l.otherLeases()); got != 2 {
			t.Errorf("%d leases of the other plugin", got)
		}
	})
}

func testRailsNamed(t *testing.T, l *lab, pod *space, c call) {
	defer func(c call) { // CHECK with what the runtime remembers
		c.verb = "ADD"
		prev := l.mustRun(c).stdout
		c.conf["prevResult"] = json.RawMessage(prev)
		c.verb = "CHECK"
		l.mustRun(c)
	}(c.with(map[string]any{"rails": []any{map[string]any{"master": "rail0", "interface": "roce0"}, map[string]any{"master": "rail1", "interface": "roce1"}}}))
	c = c.with(map[string]any{"rails": []any{map[string]any{"master": "rail0", "interface": "roce0"}, map[string]any{"master": "rail1", "interface": "roce1", "mtu": 1400}}})
	l.roundTrip(pod, c, func() {
		if pod.has("net1") || !pod.has("roce0") || pod.get("roce1").Attrs().MTU != 1400 {
			t.Error(pod.links())
		}
	})
}

// TestRails_Killed: SIGKILL at every step of ADD and of DEL.
func TestRails_Killed(t *testing.T) {
	l, pod := newLab(t), newSpace(t)
	l.twoRails(false)
	c := call{id: "c1", ifName: "net1", netns: pod.path}
	l.everyDeath(pod, c, `{"cniVersion":"1.1.0","name":"rail0","type":"railyard"}`, []string{
		"add:linked", "add:linked#2", "add:leased", "add:leased#2", "add:set", "add:addressed#2", "add:routed#2", "add:ruled", "add:ruled#4", "add:done",
	}, []string{"undo:5", "undo:3", "undo:1", "undo:0", "undo:removed"})
}

// TestRails_Paths: what a pod sends from a rail's address leaves over that rail, and what comes back to it comes over the
// same one, in both directions between two pods, on one subnet and on two.
func TestRails_Paths(t *testing.T) {
	for _, oneSubnet := range []bool{true, false} {
		t.Run(fmt.Sprintf("one_subnet_%v", oneSubnet), func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.twoRails(oneSubnet)
			var results []*current.Result
			pods := []*space{newSpace(t), newSpace(t)}
			for i, pod := range pods {
				results = append(results, l.add(call{id: fmt.Sprintf("c%d", i), ifName: "net1", netns: pod.path}))
			}
			for rail := range 2 {
				for family := range 2 {
					at := rail*2 + family
					a, b := results[0].IPs[at].Address.IP, results[1].IPs[at].Address.IP
					for i, way := range [][2]net.IP{{a, b}, {b, a}} {
						before := railFrames(t, pods)
						exchange(t, pods[i], pods[1-i], way[0], way[1])
						for p := range pods {
							after := railFrames(t, pods)
							if after[p][rail].tx < before[p][rail].tx+3 || after[p][rail].rx < before[p][rail].rx+3 {
								t.Errorf("pod %d, rail %d, %s to %s: sent %d, received %d", p, rail, way[0], way[1],
									after[p][rail].tx-before[p][rail].tx, after[p][rail].rx-before[p][rail].rx)
							}
							if other := after[p][1-rail].tx - before[p][1-rail].tx; other > 2 { // neighbour discovery of the kernel's own
								t.Errorf("pod %d, rail %d, %s to %s: %d frames left by the other rail", p, rail, way[0], way[1], other)
							}
						}
					}
				}
			}
		})
	}
}

type frames struct{ tx, rx uint64 }

// railFrames counts the unicast traffic of the rails of each pod.
func railFrames(t *testing.T, pods []*space) [2][2]frames {
	t.Helper()
	var out [2][2]frames
	for p, pod := range pods {
		for r, name := range []string{"net1", "net1-2"} {
			s := pod.get(name).Attrs().Statistics
			out[p][r] = frames{s.TxPackets, s.RxPackets}
		}
	}
	return out
}

// exchange sends three datagrams from one address to the other and back.
func exchange(t *testing.T, from, to *space, src, dst net.IP) {
	t.Helper()
	var server, client *net.UDPConn
	must(t, to.do(func() (err error) {
		server, err = net.ListenUDP("udp", &net.UDPAddr{IP: dst})
		return err
	}))
	defer server.Close()
	must(t, from.do(func() (err error) {
		client, err = net.DialUDP("udp", &net.UDPAddr{IP: src}, server.LocalAddr().(*net.UDPAddr))
		return err
	}))
	defer client.Close()
	deadline := time.Now().Add(5 * time.Second)
	must(t, errors.Join(server.SetDeadline(deadline), client.SetDeadline(deadline)))
	b := make([]byte, 16)
	for range 3 {
		_, err := client.Write([]byte("ping"))
		must(t, err)
		_, peer, err := server.ReadFromUDP(b)
		if err != nil || !peer.IP.Equal(src) {
			t.Fatalf("%s to %s: came from %v: %v", src, dst, peer, err)
		}
		_, err = server.WriteToUDP([]byte("pong"), peer)
		must(t, err)
		_, err = client.Read(b)
		must(t, err)
	}
}

// grantSecond gives the node a block of another pool.
func grantSecond(t testing.TB, s *store.Store) {
	t.Helper()
	p, err := ipam.ParsePool(ipam.PoolSpec{
		Name: "rail1", UID: "uid-rail1", Routes: []ipam.RouteSpec{{Dst: "10.98.0.0/16"}, {Dst: "fd00:98::/64"}},
		IPv4: &ipam.SubnetSpec{Subnet: "10.21.0.0/16", Gateway: "10.21.0.1", BlockSize: 256},
		IPv6: &ipam.SubnetSpec{Subnet: "fd00:21::/64", Gateway: "fd00:21::1", BlockSize: 256},
	})
	must(t, err)
	must(t, s.SetPool(p))
	for _, sub := range p.Subnets {
		text := "fd00:21::1:0"
		if sub.Is4() {
			text = "10.21.1.0"
		}
		slot := sub.Slot(mustAddr(text))
		must(t, s.Grant(store.Holding{Block: ipam.BlockName(p.Name, slot), Pool: p.Name, Slot: slot, Ranges: sub.LeasableIn(slot)}))
	}
}
