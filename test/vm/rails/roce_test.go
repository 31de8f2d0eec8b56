//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink/nl"
)

// roce makes the RDMA device of a NIC's function, by way of its interface, until the test ends.
func (s *space) roce(name, link string) {
	s.t.Helper()
	must(s.t, s.link.RdmaLinkAdd(name, "ryfab", link))
	s.t.Cleanup(func() {
		if s.hasRDMA(name) {
			must(s.t, s.link.RdmaLinkDel(name))
		}
	})
}

// rail is a virtual function with an RDMA device, and what the machine was before anybody had it.
func rail(t testing.TB) (n nic, v vf, before []string) {
	t.Helper()
	n = nics(t)[0]
	quiet(t)
	v = n.virtual(t, 1)[0]
	n.host.roce("roce0", v.name)
	must(t, n.host.link.LinkSetHardwareAddr(n.host.get(v.name), n.host.get(v.name).Attrs().HardwareAddr))
	n.host.address(v.name, "192.0.2.7/24")
	waitGID(t, "roce0", "192.0.2.7")
	return n, v, n.host.state(t)
}

// The RDMA device of a virtual function is found by its PCI address, and in exclusive mode goes where the function goes. Its GIDs are the
// addresses of the interface, wherever both are.
func TestPluginRoCE(t *testing.T) {
	n, v, before := rail(t)
	info := filepath.Join(t.TempDir(), "info.json")
	conf := map[string]any{
		"kind": "sriov", "deviceID": v.pci, "rdma": "required", "ipam": at(t, "10.9.0.11/24"),
		"runtimeConfig": map[string]any{"CNIDeviceInfoFile": info},
	}
	for name, end := range map[string]func(*attachment){
		"DEL":              func(*attachment) {},
		"DEL_knows_little": func(a *attachment) { delete(a.conf, "deviceID"); delete(a.conf, "kind"); delete(a.conf, "prevResult") },
		"pod_is_dead":      func(a *attachment) { a.pod.kill() },
	} {
		a := attach(t, n.host, newSpace(t), "net1", conf)
		a.mustRun("ADD")
		if a.pod.get("net1").Attrs().ParentDev != v.pci || !a.pod.hasRDMA("roce0") || n.host.hasRDMA("roce0") == exclusive() {
			t.Errorf("%s: the machine has the RDMA device: %t, the pod has it: %t", name, n.host.hasRDMA("roce0"), a.pod.hasRDMA("roce0"))
		}
		if exclusive() {
			podGID(t, a.pod, "roce0", "10.9.0.11")
		} else {
			waitGID(t, "roce0", "10.9.0.11")
		}
		want := fmt.Sprintf(`{"type":"pci","version":"1.1.0","pci":{"pci-address":%q,"pf-pci-address":%q,"rdma-device":"roce0"}}`, v.pci, n.pci)
		if got, err := os.ReadFile(info); err != nil || string(got) != want {
			t.Errorf("%s: the device information: %s %v", name, got, err)
		}
		a.mustRun("CHECK")
		end(a)
		a.mustRun("DEL")
		a.mustRun("DEL")
		n.host.same(t, before, name)
		if !n.host.hasRDMA("roce0") {
			t.Fatalf("%s: the machine has lost the RDMA device", name)
		}
		waitGID(t, "roce0", "192.0.2.7")
	}
}

// On Ethernet the RDMA device goes after the interface, and comes back before it.
func TestPluginRoCEKilled(t *testing.T) {
	needExclusive(t)
	n, v, before := rail(t)
	conf := map[string]any{"kind": "sriov", "deviceID": v.pci, "rdma": "required", "vlan": 100}
	// midway looks which of the two the pod has at this moment, and ends the attachment.
	midway := func(a *attachment, what string, link, rdma bool) {
		t.Helper()
		if _, err := a.pod.byPCI(v.pci); (err == nil) != link || a.pod.hasRDMA("roce0") != rdma {
			t.Errorf("%s: the pod has the interface: %t, the RDMA device: %t", what, err == nil, a.pod.hasRDMA("roce0"))
		}
		a.mustRun("DEL")
		n.host.same(t, before, what)
		if !n.host.hasRDMA("roce0") {
			t.Errorf("%s: the machine has lost the RDMA device", what)
		}
	}
	for _, at := range []struct {
		point      string
		link, rdma bool
	}{{"add:vf", false, false}, {"add:moved", true, false}, {"add:rdma", true, true}, {"add:done", true, true}} {
		a := attach(t, n.host, newSpace(t), "net1", conf)
		a.dies("ADD", at.point)
		midway(a, "ADD died at "+at.point, at.link, at.rdma)
	}
	for _, at := range []struct {
		point      string
		link, rdma bool
	}{{"undo:1", true, true}, {"undo:rdma", true, false}, {"undo:pulled", false, false}, {"undo:done", false, false}} {
		a := attach(t, n.host, newSpace(t), "net1", conf)
		a.mustRun("ADD")
		a.dies("DEL", at.point)
		midway(a, "DEL died at "+at.point, at.link, at.rdma)
	}
}

// A subfunction is known by its name on the auxiliary bus; its RDMA device goes with it.
func TestPluginSubfunction(t *testing.T) {
	h := newAdapter(t)
	sfs := h.subfunctions(t, 2)
	var device string
	must(t, theOnly(filepath.Join(h.dir, sfs[1], "infiniband"), &device))
	before := h.host.state(t)
	for name, end := range map[string]func(*attachment){
		"DEL":         func(*attachment) {},
		"pod_is_dead": func(a *attachment) { a.pod.kill() },
	} {
		a := attach(t, h.host, newSpace(t), "net1", map[string]any{
			"kind": "host-device", "deviceID": sfs[1], "rdma": "required", "mac": "02:00:00:00:00:45", "mtu": 1400, "ipam": at(t, "10.9.0.11/24"),
		})
		a.mustRun("ADD")
		if l := a.pod.get("net1").Attrs(); l.ParentDev != sfs[1] || l.ParentDevBus != "auxiliary" || l.MTU != 1400 {
			t.Errorf("%s: the pod has %+v", name, l)
		}
		if !a.pod.hasRDMA(device) || h.host.hasRDMA(device) == exclusive() {
			t.Errorf("%s: the machine has %s: %t, the pod has it: %t", name, device, h.host.hasRDMA(device), a.pod.hasRDMA(device))
		}
		a.mustRun("CHECK")
		second := attach(t, h.host, newSpace(t), "net1", map[string]any{"kind": "host-device", "deviceID": sfs[1]})
		second.id, second.conf["stateDir"] = "second", a.conf["stateDir"]
		second.fails("ADD", 104, "c-net1@net1")
		end(a)
		a.mustRun("DEL")
		a.mustRun("DEL")
		h.host.same(t, before, name)
		if !h.host.hasRDMA(device) {
			t.Errorf("%s: the machine has lost %s", name, device)
		}
	}
}

// The subfunction is removed under the pod: there is nothing to give back.
func TestPluginSubfunctionGone(t *testing.T) {
	h := newAdapter(t)
	before := h.host.state(t)
	sf := h.subfunctions(t, 1)[0]
	a := attach(t, h.host, newSpace(t), "net1", map[string]any{"kind": "host-device", "deviceID": sf, "rdma": "required"})
	a.mustRun("ADD")
	must(t, os.WriteFile(filepath.Join(h.dir, "sf_num"), []byte("0"), 0))
	a.fails("CHECK", 109, "net1")
	a.mustRun("DEL")
	a.mustRun("DEL")
	h.host.same(t, before, "the subfunction is gone")
}

// The adapter's driver is loaded anew while a pod has the adapter. The pod is left without, and DEL makes the new interface what the old was.
func TestPluginDriverReload(t *testing.T) {
	h := newAdapter(t)
	before := h.lived(t)
	a := attach(t, h.host, newSpace(t), "net1", map[string]any{"kind": "host-device", "deviceID": h.pci, "rdma": "required", "mtu": 1400})
	a.mustRun("ADD")
	drive(t, h.pci, "ryfab")
	a.fails("CHECK", 109, "net1")
	a.mustRun("DEL")
	a.mustRun("DEL")
	h.host.same(t, before, "the driver is another")
	if device := h.rdma(t); !h.host.hasRDMA(device) {
		t.Errorf("the machine has lost %s", device)
	}
}

// A function with two RDMA devices: in shared mode both are the pod's, in exclusive mode it is not known which to move.
func TestPluginTwoDevices(t *testing.T) {
	n, v, before := rail(t)
	n.host.roce("roce1", v.name)
	info := filepath.Join(t.TempDir(), "info.json")
	a := attach(t, n.host, newSpace(t), "net1", map[string]any{
		"kind": "host-device", "deviceID": v.pci, "rdma": "required", "ipam": at(t, "10.9.0.11/24"),
		"runtimeConfig": map[string]any{"CNIDeviceInfoFile": info},
	})
	if exclusive() {
		a.fails("ADD", codeRDMA, "roce0, roce1")
		n.host.same(t, before, "ADD was refused")
		return
	}
	a.mustRun("ADD")
	if text, err := os.ReadFile(info); err != nil || !strings.Contains(string(text), `"rdma-device":"roce0,roce1"`) {
		t.Errorf("the device information: %s %v", text, err)
	}
	a.mustRun("DEL")
	n.host.same(t, before, "DEL")
}

// The module goes with all that it has made, also in pods, and the kernel does not mind.
func TestModuleUnload(t *testing.T) {
	n, _, _ := rail(t)
	h := newAdapter(t)
	before := h.lived(t)
	sfs := h.subfunctions(t, 2)
	h.virtual(t, 1)
	a := attach(t, h.host, newSpace(t), "net1", map[string]any{"kind": "host-device", "deviceID": sfs[0]})
	a.mustRun("ADD")
	b := attach(t, h.host, newSpace(t), "net2", map[string]any{"kind": "host-device", "deviceID": h.pci})
	b.mustRun("ADD")
	modprobe(t, "-r", "ryfab")
	if left, err := os.ReadDir(class); err != nil || len(left) != 0 {
		t.Errorf("there are RDMA devices: %v %v", left, err)
	}
	a.mustRun("DEL")
	b.mustRun("DEL") // and keeps in mind what the interface was, should it come again
	modprobe(t, "ryfab")
	drive(t, h.pci, "ryfab")
	b.mustRun("DEL")
	h.host.same(t, before, "the module is loaded anew")
	n.host.roce("roce1", n.name)
}

// Without ib_ipoib an adapter has an RDMA device and no interface: there is nothing to give the pod an address on.
func TestPluginWithoutInterface(t *testing.T) {
	h := newAdapter(t)
	modprobe(t, "-r", "ib_ipoib")
	t.Cleanup(func() { modprobe(t, "ib_ipoib") })
	device, before := h.rdma(t), h.host.state(t)
	a := attach(t, h.host, newSpace(t), "net1", map[string]any{"kind": "host-device", "deviceID": h.pci, "rdma": "required"})
	a.fails("ADD", 104, h.pci+" has no network link on the host")
	a.mustRun("DEL")
	h.host.same(t, before, "ADD was refused")
	if !h.host.hasRDMA(device) {
		t.Errorf("the machine has lost %s", device)
	}
}

// A physical function tells its virtual ones their GUIDs; they have them from the moment that their driver comes.
func TestVirtualGUIDs(t *testing.T) {
	h := newAdapter(t)
	vfs := h.virtual(t, 2)
	pf := h.host.get(h.link(t))
	node, port := []byte{2, 0, 0, 0, 0, 0, 0, 0x10}, []byte{2, 0, 0, 0, 0, 0, 0, 0x11}
	must(t, h.host.link.LinkSetVfGUID(pf, 1, node, nl.IFLA_VF_IB_NODE_GUID))
	must(t, h.host.link.LinkSetVfGUID(pf, 1, port, nl.IFLA_VF_IB_PORT_GUID))
	guids := map[string]string{}
	for _, pci := range vfs {
		v := infiniBand(t, h.host, pci)
		text, err := os.ReadFile(filepath.Join(class, v.rdma(t), "node_guid"))
		must(t, err)
		guids[pci] = strings.TrimSpace(string(text))
		if l := h.host.get(v.link(t)).Attrs(); pci == vfs[1] && !strings.HasSuffix(l.HardwareAddr.String(), "02:00:00:00:00:00:00:11") {
			t.Errorf("the interface of the virtual function has the address %s", l.HardwareAddr)
		}
	}
	if guids[vfs[1]] != "0200:0000:0000:0010" || guids[vfs[0]] == guids[vfs[1]] {
		t.Errorf("the virtual functions have the node GUIDs %v", guids)
	}
	is := h.host.get(h.link(t)).Attrs().Vfs
	if len(is) != 2 {
		t.Errorf("netlink tells of %d virtual functions", len(is))
	}
}
