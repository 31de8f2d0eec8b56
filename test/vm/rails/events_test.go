//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
)

// driver writes the function's address to a file of its driver: bind, unbind.
func (v vf) driver(t testing.TB, file string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join("/sys/bus/pci/drivers/igbvf", file), []byte(v.pci), 0))
}

// known gives the NIC's first virtual function, of which the physical one knows the address, so that it has it again later.
func (n nic) known(t testing.TB) vf {
	t.Helper()
	v := n.virtual(t, 1)[0]
	link := n.host.get(v.name)
	must(t, n.host.link.LinkSetHardwareAddr(link, link.Attrs().HardwareAddr))
	return v
}

// renamed says under which name the function's link is on the host, once it is.
func (n nic) renamed(t testing.TB, v vf) string {
	t.Helper()
	var name string
	n.waitBack(t, v, func(a *netlink.LinkAttrs) error {
		name = a.Name
		return nil
	})
	return name
}

// The driver is loaded anew under a pod: the interface is gone there, and a new one is on the host, under whatever name. CHECK says
// so, DEL gives the new one the old one's name.
func TestPluginDriverReloaded(t *testing.T) {
	n := nics(t)[0]
	v := n.known(t)
	before := n.host.state(t)
	a := attach(t, n.host, newSpace(t), "net1", map[string]any{"kind": "host-device", "deviceID": v.pci, "ipam": at(t, "10.9.0.11/24")})
	a.mustRun("ADD")
	v.driver(t, "unbind")
	a.fails("CHECK", 109, "gone")
	v.driver(t, "bind")
	n.renamed(t, v)
	a.fails("CHECK", 109, "gone")
	a.mustRun("DEL")
	n.host.same(t, before, "its driver was loaded anew")
	a.mustRun("ADD")
	a.mustRun("CHECK")
	a.mustRun("DEL")
	n.host.same(t, before, "and then attached again")
}

// The device is taken from the bus under a pod: there is nothing to give back. When it is there again it is as fresh as any.
func TestPluginUnplugged(t *testing.T) {
	n := nics(t)[0]
	v := n.known(t)
	a := attach(t, n.host, newSpace(t), "net1", map[string]any{"kind": "sriov", "deviceID": v.pci, "vlan": 100})
	a.mustRun("ADD")
	must(t, os.WriteFile(filepath.Join(n.dir, "sriov_numvfs"), []byte("0"), 0))
	a.fails("CHECK", 109, "gone")
	a.mustRun("DEL")
	a.mustRun("DEL")
	a.fails("ADD", 104, v.pci)
	must(t, os.WriteFile(filepath.Join(n.dir, "sriov_numvfs"), []byte("1"), 0))
	n.renamed(t, v)
	before := n.host.state(t)
	a.mustRun("ADD")
	a.mustRun("CHECK")
	a.mustRun("DEL")
	n.host.same(t, before, "and attached again")
}

// After a reboot there is neither a journal nor the namespace, the driver has made the device anew, and the kubelet ends the pods that it
// remembers: their DELs succeed and touch nothing, not even a device that a new pod has by then.
func TestPluginRebooted(t *testing.T) {
	n := nics(t)[0]
	v := n.known(t)
	conf := map[string]any{"kind": "host-device", "deviceID": v.pci, "mtu": 1400, "ipam": at(t, "10.9.0.11/24")}
	old := attach(t, n.host, newSpace(t), "net1", conf)
	old.mustRun("ADD")
	dir := old.conf["stateDir"].(string)
	v.driver(t, "unbind")
	must(t, os.RemoveAll(dir))
	old.pod.kill()
	v.driver(t, "bind")
	n.renamed(t, v)
	before := n.host.state(t)
	old.mustRun("DEL")
	n.host.same(t, before, "the DEL of a pod of the former boot")

	fresh := attach(t, n.host, newSpace(t), "net1", conf)
	fresh.id, fresh.conf["stateDir"] = "fresh", dir
	fresh.mustRun("ADD")
	old.mustRun("DEL")
	fresh.mustRun("CHECK")
	fresh.mustRun("DEL")
	n.host.same(t, before, "a pod of this boot")
}

// All virtual functions that the machine can have go into pods at once, and come back at once.
func TestPluginAllFunctionsAtOnce(t *testing.T) {
	host, dir := machine(t), t.TempDir()
	var all []*attachment
	for i, n := range nics(t) {
		for k, v := range n.virtual(t, 7) {
			must(t, host.link.LinkSetHardwareAddr(host.get(v.name), host.get(v.name).Attrs().HardwareAddr))
			a := attach(t, host, newSpace(t), "net1", map[string]any{
				"kind": "sriov", "deviceID": v.pci, "vlan": 100 + k, "mac": fmt.Sprintf("02:00:00:00:%02x:%02x", i, k), "stateDir": dir,
			})
			a.id = fmt.Sprintf("c-%d-%d", i, k)
			all = append(all, a)
		}
	}
	before := host.state(t)
	at := func(verb string) {
		t.Helper()
		outs, errs := make([]string, len(all)), make([]error, len(all))
		var wg sync.WaitGroup
		for i, a := range all {
			wg.Go(func() { outs[i], errs[i] = a.run(verb) })
		}
		wg.Wait()
		for i, err := range errs {
			if err != nil {
				t.Errorf("%s of %s: %v", verb, all[i].id, err)
			} else if verb == "ADD" {
				all[i].conf["prevResult"] = json.RawMessage(outs[i])
			}
		}
	}
	at("ADD")
	for _, a := range all {
		if l := a.pod.get("net1").Attrs(); l.HardwareAddr.String() != a.conf["mac"] || l.ParentDev != a.conf["deviceID"] {
			t.Errorf("%s has %s of %s", a.id, l.HardwareAddr, l.ParentDev)
		}
	}
	at("CHECK")
	at("DEL")
	host.same(t, before, "DEL of all")
}
