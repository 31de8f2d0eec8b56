//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// lived gives the adapter's interface a past that has to come back.
func (a adapter) lived(t testing.TB) (before []string) {
	t.Helper()
	name := a.link(t)
	must(t, a.host.link.LinkSetMTU(a.host.get(name), 2000))
	must(t, a.host.link.LinkAddAltName(a.host.get(name), "rail0-ib"))
	a.host.address(name, "192.0.2.7/24")
	return a.host.state(t)
}

// has makes sure that the attachment has the adapter, all of it or the interface alone, and the machine the rest.
func (a *attachment) has(h adapter, rdma string) {
	a.t.Helper()
	link := a.pod.get(a.ifName).Attrs()
	if link.ParentDev != h.pci || link.EncapType != "infiniband" {
		a.t.Errorf("the pod has %+v", link)
	}
	if _, err := h.host.byPCI(h.pci); err == nil {
		a.t.Error("the machine still has the interface")
	}
	if !a.pod.hasRDMA(rdma) || exclusive() && h.host.hasRDMA(rdma) {
		a.t.Errorf("%s: machine has it: %t, pod has it: %t", rdma, h.host.hasRDMA(rdma), a.pod.hasRDMA(rdma))
	}
}

// In exclusive mode the RDMA device of an InfiniBand function goes first, and the kernel makes its interface anew. It comes back first too,
// and the new interface is made what the old one was.
func TestPluginInfiniBand(t *testing.T) {
	h := newAdapter(t)
	before, device := h.lived(t), h.rdma(t)
	conf := map[string]any{"kind": "host-device", "deviceID": h.pci, "rdma": "required", "mtu": 1400, "ipam": at(t, "10.9.0.11/24")}
	for name, end := range map[string]func(*attachment){
		"DEL":              func(*attachment) {},
		"DEL_knows_little": func(a *attachment) { delete(a.conf, "deviceID"); delete(a.conf, "kind"); delete(a.conf, "prevResult") },
		"pod_is_dead":      func(a *attachment) { a.pod.kill() },
		"pod_died_before": func(a *attachment) {
			a.pod.kill()
			eventually(t, func() error { _, err := h.host.byPCI(h.pci); return err })
		},
	} {
		a := attach(t, h.host, newSpace(t), "net1", conf)
		out := a.mustRun("ADD")
		a.has(h, device)
		link := a.pod.get("net1").Attrs()
		if link.MTU != 1400 || !strings.Contains(out, h.pci) || !strings.Contains(out, link.HardwareAddr.String()) {
			t.Errorf("%s: %+v, and the result %s", name, link, out)
		}
		a.mustRun("CHECK")
		end(a)
		a.mustRun("DEL")
		a.mustRun("DEL")
		h.host.same(t, before, name)
		if !h.host.hasRDMA(device) {
			t.Errorf("%s: the machine has lost %s", name, device)
		}
	}
}

// A virtual function of an adapter goes as the adapter itself would, and its physical function sets what it was told to.
func TestPluginInfiniBandVirtual(t *testing.T) {
	h := newAdapter(t)
	v := infiniBand(t, h.host, h.virtual(t, 2)[1])
	pf, device := h.link(t), v.rdma(t)
	must(t, h.host.link.LinkSetVfState(h.host.get(pf), 1, netlink.VF_LINK_STATE_AUTO))
	before := v.lived(t)
	a := attach(t, h.host, newSpace(t), "net1", map[string]any{
		"kind": "sriov", "deviceID": v.pci, "rdma": "required", "link_state": "enable", "ipam": at(t, "10.9.0.11/24"),
	})
	state := func() uint32 { return h.host.get(pf).Attrs().Vfs[1].LinkState }
	was := state()
	a.mustRun("ADD")
	a.has(v, device)
	if got := state(); got != netlink.VF_LINK_STATE_ENABLE {
		t.Errorf("the state of the virtual function is %d", got)
	}
	a.mustRun("CHECK")
	must(t, h.host.link.LinkSetVfState(h.host.get(pf), 1, netlink.VF_LINK_STATE_DISABLE))
	a.fails("CHECK", 109, "virtual function 1")
	a.mustRun("DEL")
	a.mustRun("DEL")
	h.host.same(t, before, "DEL")
	if state() != was || !h.host.hasRDMA(device) {
		t.Errorf("the state of the virtual function is %d, was %d; the machine has %s: %t", state(), was, device, h.host.hasRDMA(device))
	}
}

// Somebody takes the RDMA device, and with it the interface, out of the pod.
func TestPluginInfiniBandDrift(t *testing.T) {
	needExclusive(t)
	h := newAdapter(t)
	before := h.lived(t)
	a := attach(t, h.host, newSpace(t), "net1", map[string]any{"kind": "host-device", "deviceID": h.pci, "rdma": "required"})
	a.mustRun("ADD")
	must(t, a.pod.moveRDMA("ryib0", h.host))
	a.fails("CHECK", 109, "lost the RDMA device")
	a.mustRun("DEL")
	h.host.same(t, before, "the device was taken away")
}

// SIGKILL at the steps of moving an adapter, then DEL: the machine is what it was.
func TestPluginInfiniBandKilled(t *testing.T) {
	needExclusive(t)
	h := newAdapter(t)
	before, device := h.lived(t), h.rdma(t)
	conf := map[string]any{"kind": "host-device", "deviceID": h.pci, "rdma": "required", "mtu": 1400}
	back := func(what string) {
		t.Helper()
		h.host.same(t, before, what)
		if !h.host.hasRDMA(device) {
			t.Errorf("%s: the machine has lost %s", what, device)
		}
	}
	for _, point := range []string{"add:journaled", "add:tagged", "add:rdma", "add:linked", "add:up", "add:done"} {
		a := attach(t, h.host, newSpace(t), "net1", conf)
		a.dies("ADD", point)
		a.mustRun("DEL")
		back("ADD died at " + point)
	}
	for _, point := range []string{"undo:1", "undo:rdma", "undo:0", "undo:pulled", "undo:restored", "undo:done"} {
		a := attach(t, h.host, newSpace(t), "net1", conf)
		a.mustRun("ADD")
		a.dies("DEL", point)
		a.mustRun("DEL")
		back("DEL died at " + point)
	}
}

// Two pods get an interface of a partition on a port that they share.
func TestPluginIPoIB(t *testing.T) {
	needShared(t)
	h := newAdapter(t)
	master := h.link(t)
	var all []*attachment
	for i, named := range []string{master, h.pci} {
		a := attach(t, h.host, newSpace(t), "net1", map[string]any{
			"kind": "ipoib", "master": named, "pkey": "0x8001", "mtu": 2000, "rdma": "required",
			"ipam": at(t, fmt.Sprintf("10.9.0.1%d/24", i+1)), "stateDir": filepath.Join(os.TempDir(), "ipoib"),
		})
		a.id = fmt.Sprint("c", i)
		a.mustRun("STATUS")
		out := a.mustRun("ADD")
		a.mustRun("CHECK")
		link := a.ipoib()
		if link.Pkey != 0x8001 || link.MTU != 2000 || link.Attrs().ParentIndex != h.host.get(master).Attrs().Index {
			t.Errorf("%+v", link)
		}
		if !strings.Contains(out, link.HardwareAddr.String()) {
			t.Errorf("the interface has the address %s, the result says %s", link.HardwareAddr, out)
		}
		all = append(all, a)
	}
	must(t, all[0].pod.link.LinkSetMTU(all[0].ipoib(), 1300))
	all[0].fails("CHECK", 109, "MTU")
	all[1].mustRun("CHECK")
	for _, a := range all {
		a.mustRun("DEL")
		a.mustRun("DEL")
		if a.pod.has("net1") {
			t.Error("DEL left the interface")
		}
	}
}

// ipoib is the pod's interface.
func (a *attachment) ipoib() *netlink.IPoIB {
	a.t.Helper()
	link, ok := a.pod.get(a.ifName).(*netlink.IPoIB)
	if !ok {
		a.t.Fatalf("%+v", a.pod.get(a.ifName))
	}
	return link
}

// setMode gives an IPoIB interface another mode.
func (s *space) setMode(name, mode string) {
	s.t.Helper()
	must(s.t, s.do(func() error {
		out, err := exec.Command("ip", "link", "set", name, "type", "ipoib", "mode", mode).CombinedOutput()
		if err != nil {
			return fmt.Errorf("set %s to mode %s: %w: %s", name, mode, err, out)
		}
		return nil
	}))
}

// The mode is the master's or another one, and the MTU at most the master's or what the other mode can.
func TestPluginIPoIBModes(t *testing.T) {
	needShared(t)
	h := newAdapter(t)
	master := h.link(t)
	for _, tt := range []struct {
		master, mode string
		mtu          int
		want         netlink.IPoIBMode
		wantMTU      int
		wantRefused  string
		wantNotReady bool
	}{
		{"datagram", "", 0, netlink.IPOIB_MODE_DATAGRAM, 4092, "", false},
		{"datagram", "connected", 0, netlink.IPOIB_MODE_CONNECTED, 65520, "", false},
		{"datagram", "connected", 16000, netlink.IPOIB_MODE_CONNECTED, 16000, "", false},
		{"datagram", "connected", 65521, 0, 0, "more than the 65520", true},
		{"datagram", "datagram", 4093, 0, 0, "more than the 4092", true},
		{"connected", "", 0, netlink.IPOIB_MODE_CONNECTED, 65520, "", false},
		{"connected", "datagram", 0, netlink.IPOIB_MODE_DATAGRAM, 4092, "", false},
		{"connected", "datagram", 4000, netlink.IPOIB_MODE_DATAGRAM, 4000, "", false},
		{"connected", "datagram", 9000, 0, 0, "the port allows 4092", false},
	} {
		h.host.setMode(master, tt.master)
		conf := map[string]any{"kind": "ipoib", "master": master, "mode": tt.mode, "mtu": tt.mtu}
		a := attach(t, h.host, newSpace(t), "net1", conf)
		if _, err := a.run("STATUS"); (err != nil) != tt.wantNotReady {
			t.Errorf("%+v: STATUS: %v", tt, err)
		}
		if tt.wantRefused != "" {
			if _, err := a.run("ADD"); err == nil || !strings.Contains(err.Error(), tt.wantRefused) || a.pod.has("net1") {
				t.Errorf("%+v: %v, the pod has the interface: %t", tt, err, a.pod.has("net1"))
			}
			continue
		}
		a.mustRun("ADD")
		a.mustRun("CHECK")
		if link := a.ipoib(); link.Mode != tt.want || link.MTU != tt.wantMTU {
			t.Errorf("%+v: it has mode %v and MTU %d", tt, link.Mode, link.MTU)
		}
		other := map[netlink.IPoIBMode]string{netlink.IPOIB_MODE_DATAGRAM: "connected", netlink.IPOIB_MODE_CONNECTED: "datagram"}
		a.pod.setMode("net1", other[tt.want])
		a.fails("CHECK", 109, "mode")
		a.mustRun("DEL")
	}
}

// SIGKILL at the steps of making an interface of a partition, then DEL.
func TestPluginIPoIBKilled(t *testing.T) {
	needShared(t)
	h := newAdapter(t)
	before := h.host.state(t)
	for _, point := range []string{"add:journaled", "add:linked", "add:up", "add:done"} {
		a := attach(t, h.host, newSpace(t), "net1", map[string]any{"kind": "ipoib", "master": h.link(t), "pkey": "0x8001"})
		a.dies("ADD", point)
		a.mustRun("DEL")
		if a.pod.has("net1") {
			t.Errorf("ADD died at %s: DEL left the interface", point)
		}
	}
	a := attach(t, h.host, newSpace(t), "net1", map[string]any{"kind": "ipoib", "master": h.link(t)})
	a.mustRun("ADD")
	a.dies("DEL", "undo:0")
	a.mustRun("DEL")
	if a.pod.has("net1") {
		t.Error("DEL died: the next left the interface")
	}
	must(t, h.host.link.LinkSetDown(h.host.get(h.link(t)))) // ADD has set it up
	h.host.same(t, before, "all is undone")
}

// In exclusive mode a port cannot be shared, unless the pod needs no RDMA.
func TestPluginIPoIBExclusive(t *testing.T) {
	needExclusive(t)
	h := newAdapter(t)
	a := attach(t, h.host, newSpace(t), "net1", map[string]any{"kind": "ipoib", "master": h.link(t)})
	a.fails("ADD", codeRDMA, "netns exclusive")
	a.fails("STATUS", 50, "netns exclusive")
	if a.pod.has("net1") {
		t.Error("the refused ADD left an interface")
	}
	a.conf["rdma"] = "off"
	a.mustRun("ADD")
	a.mustRun("CHECK")
	a.mustRun("DEL")
}
