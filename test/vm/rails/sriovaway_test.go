//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A physical function that is away when DEL comes, in another namespace here, gets another chance: DEL succeeds, the device is back
// and marked as not yet done, nobody else is given it meanwhile, and a later DEL, or the agent, does the rest.
func TestPluginSRIOVAway(t *testing.T) {
	n := nics(t)[0]
	v := n.virtual(t, 1)[0]
	must(t, n.host.link.LinkSetHardwareAddr(n.host.get(v.name), n.host.get(v.name).Attrs().HardwareAddr))
	before := n.host.state(t)
	conf := map[string]any{"kind": "sriov", "deviceID": v.pci, "vlan": 100, "trust": "on", "mtu": 1400}
	a := attach(t, n.host, newSpace(t), "net1", conf)
	a.mustRun("ADD")
	away := newSpace(t)
	must(t, n.host.move(n.name, away, n.name))
	t.Cleanup(func() {
		if away.has(n.name) {
			must(t, away.move(n.name, n.host, n.name))
		}
	})
	a.mustRun("DEL")
	if l := n.host.get(v.name).Attrs(); l.MTU == 1400 || !strings.HasPrefix(strings.Join(l.AltNames, " "), "railyard-") {
		t.Errorf("the device is back with MTU %d and the names %v", l.MTU, l.AltNames)
	}
	journal := filepath.Join(a.conf["stateDir"].(string), "attachments", a.id+"@net1.json")
	if _, err := os.Stat(journal); err != nil {
		t.Errorf("the journal is not kept: %v", err)
	}
	second := attach(t, n.host, newSpace(t), "net1", conf)
	second.id, second.conf["stateDir"] = "second", a.conf["stateDir"]
	second.fails("ADD", 104, "c-net1@net1")
	a.pod.kill()
	second.fails("ADD", 11, "")
	must(t, away.move(n.name, n.host, n.name))
	must(t, n.host.link.LinkSetUp(n.host.get(n.name)))
	a.mustRun("DEL")
	// A physical function that is reset while its virtual one tells it an address, as here when it comes up, may miss that.
	must(t, n.host.link.LinkSetHardwareAddr(n.host.get(v.name), n.host.get(v.name).Attrs().HardwareAddr))
	n.host.same(t, before, "the physical function is back")
	if _, err := os.Stat(journal); !os.IsNotExist(err) {
		t.Errorf("the journal is still there: %v", err)
	}
	second.mustRun("ADD")
	second.mustRun("DEL")
	n.host.same(t, before, "another one")
}

// A GUID is for InfiniBand: what asks for one on a function of an Ethernet NIC, or on what is no function, is told so, and all is as it was.
func TestPluginGUIDRefused(t *testing.T) {
	n := nics(t)[0]
	v := n.virtual(t, 1)[0]
	must(t, n.host.link.LinkSetHardwareAddr(n.host.get(v.name), n.host.get(v.name).Attrs().HardwareAddr))
	before := n.host.state(t)
	guid := map[string]any{"infinibandGUID": "02:11:22:33:44:55:66:77"}
	for _, kind := range []string{"sriov", "host-device"} {
		a := attach(t, n.host, newSpace(t), "net1", map[string]any{"kind": kind, "deviceID": v.pci, "runtimeConfig": guid})
		a.fails("ADD", 7, "no InfiniBand link")
		a.mustRun("DEL")
		n.host.same(t, before, kind)
	}
	a := attach(t, n.host, newSpace(t), "net1", map[string]any{"kind": "host-device", "deviceID": n.pci, "runtimeConfig": guid})
	a.fails("ADD", 104, "no virtual function")
	n.host.same(t, before, "a physical function")
}
