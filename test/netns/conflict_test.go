// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// probing has the lab's pool ask the neighbours.
func (l *lab) probing() {
	l.t.Helper()
	l.withStore(func(s *store.Store) {
		p, err := s.Pool(poolName)
		must(l.t, err)
		p.DetectConflicts = true
		must(l.t, s.SetPool(p))
	})
}

// squat gives a machine in the fabric addresses that it has from nobody.
func (l *lab) squat(addresses ...string) {
	l.t.Helper()
	for _, text := range addresses {
		addr, err := netlink.ParseAddr(text)
		must(l.t, err)
		addr.Flags = unix.IFA_F_NODAD
		must(l.t, l.fabric.link.AddrAdd(l.fabric.get("port0"), addr))
	}
}

// heldBack are the addresses that the node leases to nobody because a neighbour has them.
func (l *lab) heldBack() (out []string) {
	l.t.Helper()
	for _, x := range l.leases() {
		if x.Key.Network == ipam.ConflictNetwork {
			out = append(out, x.Addresses[0].Prefix.Addr().String()+" "+x.Key.IfName)
		}
	}
	slices.Sort(out)
	return out
}

// TestConflicts: an address that a neighbour answers for is not used, and not leased to the next pod either; neighbours learn of the
// one that is.
func TestConflicts(t *testing.T) {
	l, pod := newLab(t), newSpace(t)
	l.probing()
	l.squat("10.20.1.0/16", "10.20.1.1/16", "fd00:20::1:2/64")
	before := l.traces(pod)
	frames := l.capture("port0")
	c := call{id: "c1", ifName: "net1", netns: pod.path}
	r := l.add(c)
	if len(r.IPs) != 2 || r.IPs[0].Address.String() == "10.20.1.0/16" || r.IPs[0].Address.String() == "10.20.1.1/16" || r.IPs[1].Address.String() == "fd00:20::1:2/64" {
		t.Fatalf("%v", r.IPs)
	}
	wantAnnounced(t, frames(), pod.get("net1").Attrs().HardwareAddr, r.IPs)
	check, del := c, c
	check.verb, del.verb = "CHECK", "DEL"
	l.mustRun(check)
	mac := " " + l.fabric.get("port0").Attrs().HardwareAddr.String()
	got := l.heldBack()
	if len(got) != 3 || got[0] != "10.20.1.0"+mac || got[1] != "10.20.1.1"+mac || got[2] != "fd00:20::1:2"+mac {
		t.Errorf("held back are %q", got)
	}
	other := newSpace(t)
	r2 := l.add(call{id: "c2", ifName: "net1", netns: other.path})
	for i := range r2.IPs {
		if r2.IPs[i].Address.String() == r.IPs[i].Address.String() {
			t.Errorf("two pods have %s", &r.IPs[i].Address)
		}
	}
	if now := l.heldBack(); !slices.Equal(now, got) {
		t.Errorf("held back are %q", now)
	}
	l.mustRun(call{verb: "DEL", id: "c2", ifName: "net1", netns: other.path})
	l.mustRun(del)
	l.withStore(func(s *store.Store) {
		for _, x := range []string{"10.20.1.0", "10.20.1.1", "fd00:20::1:2"} {
			must(t, s.Release(t.Context(), ipam.ConflictKey(poolName, ipam.Conflict{Address: netip.MustParseAddr(x), Neighbour: mac[1:]})))
		}
	})
	if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}

// TestConflicts_Named: an address that the pod asks for by name cannot be another.
func TestConflicts_Named(t *testing.T) {
	l, pod := newLab(t), newSpace(t)
	l.probing()
	l.squat("10.20.255.7/16")
	c := call{verb: "ADD", id: "c1", ifName: "net1", netns: pod.path}.with(map[string]any{"runtimeConfig": map[string]any{"ips": []string{"10.20.255.7/16"}}})
	l.mustFail(dispatch.CodeTaken, "which a neighbour has", c)
	l.mustFail(dispatch.CodeTaken, ipam.ConflictNetwork, c)
	if pod.has("net1") || len(l.heldBack()) != 1 {
		t.Errorf("left behind: %v", l.heldBack())
	}
}

// TestConflicts_Killed: an ADD that dies while it asks, or between two addresses, leaves nothing.
func TestConflicts_Killed(t *testing.T) {
	l, pod := newLab(t), newSpace(t)
	l.probing()
	l.squat("10.20.1.0/16")
	c := call{id: "c1", ifName: "net1", netns: pod.path}
	l.add(c)
	c.verb = "DEL"
	l.mustRun(c) // what is held back stays so
	l.everyDeath(pod, c, `{"cniVersion":"1.1.0","name":"rail0","type":"railyard"}`, []string{"add:set", "add:probed"}, nil)
	for i := range 64 {
		l.squat(fmt.Sprintf("10.20.1.%d/16", 1+i))
	}
	c.verb = "ADD"
	l.mustDie(c, "add:declined")
	c.verb = "DEL"
	l.mustRun(c)
	if leases := l.leases(); len(leases) != len(l.heldBack()) {
		t.Errorf("leases: %v", leases)
	}
}
