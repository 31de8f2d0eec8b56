// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/railyard-net/railyard/plugins/dispatch"
)

// made is an interface that another main plugin made, with an address of its own, and what it answered.
func made(t *testing.T, l *lab, pod *space) map[string]any {
	t.Helper()
	a := netlink.NewLinkAttrs()
	a.Name = "net1"
	must(t, pod.link.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "peer1", PeerNamespace: netlink.NsFd(l.fabric.ns.Fd())}))
	must(t, pod.link.LinkSetUp(pod.get("net1")))
	must(t, l.fabric.link.LinkSetUp(l.fabric.get("peer1")))
	addr, err := netlink.ParseAddr("10.20.9.9/16")
	must(t, err)
	must(t, pod.link.AddrAdd(pod.get("net1"), addr))
	return map[string]any{"kind": "chained", "master": nil, "prevResult": json.RawMessage(fmt.Sprintf(
		`{"cniVersion":"1.1.0","interfaces":[{"name":"host0"},{"name":"net1","mac":%q,"sandbox":%q}],"ips":[{"address":"10.20.9.9/16","interface":1}]}`,
		pod.get("net1").Attrs().HardwareAddr, pod.path))}
}

// TestChained: what the interface of another plugin lacks is added and taken away again, what it has stays.
func TestChained(t *testing.T) {
	l, pod := newLab(t), newSpace(t)
	c := call{id: "c1", ifName: "net1", netns: pod.path}.with(made(t, l, pod))
	c.conf["sysctl"] = map[string]any{"net.ipv4.conf.IFNAME.rp_filter": "2"}
	before, addresses := l.traces(pod), pod.addresses()
	l.roundTrip(pod, c, func() {
		if got := len(pod.addresses()); got != 2 || pod.sysctl("net/ipv4/conf/net1/rp_filter") != "2" {
			t.Errorf("addresses %v", pod.addresses())
		}
	})
	frames := l.capture("peer1")
	r := l.add(c)
	wantAnnounced(t, frames(), pod.get("net1").Attrs().HardwareAddr, r.IPs[1:])
	if len(r.Interfaces) != 2 || len(r.IPs) != 3 || *r.IPs[1].Interface != 1 {
		t.Errorf("%+v", r)
	}
	check := c
	check.verb = "CHECK"
	l.mustRun(check)
	status := call{verb: "STATUS", conf: map[string]any{"kind": "chained", "master": nil}}
	l.mustRun(status)
	c.verb = "DEL"
	l.mustRun(c)
	// Another IPAM plugin gives the address that is there; then a route fails.
	l.useOther()
	c.verb = "ADD"
	l.mustRun(c)
	l.mustRun(call{verb: "DEL", id: "c1", ifName: "net1", netns: pod.path})
	l.touch("gw", "172.31.0.1")
	l.mustFail(dispatch.CodeRoute, "172.31.0.1", c)
	if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(addresses, pod.addresses()); diff != "" || pod.sysctl("net/ipv4/conf/net1/rp_filter") == "2" {
		t.Errorf("addresses (-before +after):\n%s", diff)
	}
	routes, err := pod.link.RouteList(pod.get("net1"), netlink.FAMILY_V4)
	must(t, err)
	if len(routes) != 1 {
		t.Errorf("routes: %v", routes)
	}
	elsewhere := fmt.Sprintf(`{"cniVersion":"1.1.0","interfaces":[{"name":"net1","sandbox":%q}]}`, newSpace(t).path)
	index := func(n int) string {
		return fmt.Sprintf(`{"cniVersion":"1.1.0","interfaces":[{"name":"net1","sandbox":%q}],"ips":[{"address":"10.0.0.1/8","interface":%d}]}`, pod.path, n)
	}
	for prev, words := range map[string]string{
		`{"cniVersion":"1.1.0"}`: "no interface net1", "null": "", elsewhere: "no interface net1 in the pod", index(1): "ips[0].interface: is 1", index(-1): "is -1",
	} {
		bad := c.with(map[string]any{"kind": "chained", "master": nil, "prevResult": json.RawMessage(prev)})
		l.mustFail(dispatch.CodeConfig, words, bad)
	}
	if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}
