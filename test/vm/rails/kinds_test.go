//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

// fixed is an IPAM plugin that gives the address of the config.
const fixed = `#!/bin/sh
address=$(sed -n 's/.*"address":"\([^"]*\)".*/\1/p')
[ "$CNI_COMMAND" = ADD ] || exit 0
echo "{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"$address\"}]}"
`

// at is the ipam section that gives the address.
func at(t testing.TB, address string) map[string]any {
	t.Helper()
	must(t, os.WriteFile("/vm/fixed", []byte(fixed), 0o755))
	return map[string]any{"type": "fixed", "address": address}
}

// ping sends three echo requests from the pod.
func (s *space) ping(t testing.TB, address string) {
	t.Helper()
	must(t, s.do(func() error {
		out, err := exec.Command("ping", "-n", "-c", "3", "-i", "0.2", "-W", "5", address).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ping %s: %w: %s", address, err, out)
		}
		return nil
	}))
}

// fails is run for what has to fail with that code, with words in its message.
func (a *attachment) fails(verb string, code uint, words string) {
	a.t.Helper()
	_, err := a.run(verb)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("\"code\": %d,", code)) || !strings.Contains(err.Error(), words) {
		a.t.Fatalf("%s: %v, want code %d with %q", verb, err, code, words)
	}
}

// state is all of a namespace's links that an attachment may change, physical functions with what they know of virtual ones.
func (s *space) state(t testing.TB) []string {
	t.Helper()
	all, err := s.link.LinkList()
	must(t, err)
	var out []string
	for _, l := range all {
		a := l.Attrs()
		if len(a.HardwareAddr) == 20 {
			a.HardwareAddr = a.HardwareAddr[4:] // before that comes the number of a queue pair, another one each time
		}
		line := fmt.Sprintf("%s %s %s mtu %d up %v alt %v %s", a.Name, l.Type(), a.HardwareAddr, a.MTU, a.Flags&net.FlagUp != 0, a.AltNames, a.ParentDev)
		for _, v := range a.Vfs {
			line += fmt.Sprintf("; vf %d %s vlan %d/%d spoof %v trust %d rate %d-%d state %d", v.ID, v.Mac, v.Vlan, v.Qos, v.Spoofchk, v.Trust, v.MinTxRate, v.MaxTxRate, v.LinkState)
			if v.Vlan != 0 {
				line += fmt.Sprintf(" proto %#x", v.VlanProto)
			}
		}
		addrs, err := s.link.AddrList(l, netlink.FAMILY_V4)
		must(t, err)
		for _, x := range addrs {
			line += "; " + x.IPNet.String()
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

func (s *space) same(t testing.TB, before []string, what string) {
	t.Helper()
	if diff := cmp.Diff(before, s.state(t)); diff != "" {
		t.Errorf("%s: left behind (-before +after):\n%s", what, diff)
	}
}

func TestPluginIPvlan(t *testing.T) {
	n := nics(t)[0]
	for _, mode := range []string{"l2", "l3", "l3s"} {
		t.Run(mode, func(t *testing.T) {
			var all []*attachment
			for i := range 2 {
				a := attach(t, n.host, newSpace(t), fmt.Sprintf("net%d", i+1), map[string]any{
					"kind": "ipvlan", "mode": mode, "master": n.name, "ipam": at(t, fmt.Sprintf("10.9.0.1%d/24", i+1)), "stateDir": filepath.Join(os.TempDir(), "ipvlan-"+mode),
				})
				a.mustRun("ADD")
				a.mustRun("CHECK")
				link, ok := a.pod.get(a.ifName).(*netlink.IPVlan)
				if !ok || link.HardwareAddr.String() != n.host.get(n.name).Attrs().HardwareAddr.String() {
					t.Fatalf("%+v", a.pod.get(a.ifName))
				}
				if want := map[string]netlink.IPVlanMode{"l2": netlink.IPVLAN_MODE_L2, "l3": netlink.IPVLAN_MODE_L3, "l3s": netlink.IPVLAN_MODE_L3S}[mode]; link.Mode != want {
					t.Errorf("its mode is %d, want %d", link.Mode, want)
				}
				all = append(all, a)
			}
			all[0].pod.ping(t, "10.9.0.12")
			all[1].pod.ping(t, "10.9.0.11")
			other := attach(t, n.host, newSpace(t), "net3", map[string]any{"kind": "ipvlan", "mode": map[string]string{"l2": "l3", "l3": "l2", "l3s": "l2"}[mode], "master": n.name})
			other.conf["stateDir"] = all[0].conf["stateDir"]
			other.fails("ADD", 7, "one mode")
			attach(t, n.host, newSpace(t), "net4", map[string]any{"kind": "macvlan", "master": n.name}).fails("ADD", 105, "exclude each other")
			for _, a := range all {
				a.mustRun("DEL")
				a.mustRun("DEL")
				if a.pod.has(a.ifName) {
					t.Error("DEL left the interface")
				}
			}
		})
	}
}

// A rail may be a VLAN of the NIC.
func TestPluginMacvlanOnVLAN(t *testing.T) {
	n := nics(t)[0]
	a := attrs("rail100")
	a.ParentIndex = n.host.get(n.name).Attrs().Index
	must(t, n.host.link.LinkSetUp(n.host.get(n.name)))
	n.host.add(&netlink.Vlan{LinkAttrs: a, VlanId: 100})
	one := attach(t, n.host, newSpace(t), "net1", map[string]any{"master": "rail100", "ipam": at(t, "10.9.0.11/24")})
	two := attach(t, n.host, newSpace(t), "net2", map[string]any{"master": "rail100", "ipam": at(t, "10.9.0.12/24")})
	one.mustRun("ADD")
	two.mustRun("ADD")
	one.pod.ping(t, "10.9.0.12")
	one.mustRun("DEL")
	two.mustRun("DEL")
}

// A virtual function goes into the pod by its PCI address and comes back as it was: by DEL, by a DEL without a config or a namespace, and
// after the pod has died with it.
func TestPluginHostDevice(t *testing.T) {
	n := nics(t)[0]
	v := n.virtual(t, 1)[0]
	// A virtual function tells the physical one each address that it sets, and the latter keeps it: so let it know the first.
	must(t, n.host.link.LinkSetHardwareAddr(n.host.get(v.name), n.host.get(v.name).Attrs().HardwareAddr))
	must(t, n.host.link.LinkAddAltName(n.host.get(v.name), "rail0-vf0"))
	n.host.address(v.name, "192.0.2.7/24")
	before := n.host.state(t)
	for name, end := range map[string]func(*attachment){
		"DEL":              func(*attachment) {},
		"DEL_knows_little": func(a *attachment) { delete(a.conf, "deviceID"); delete(a.conf, "kind"); delete(a.conf, "prevResult") },
		"pod_is_dead":      func(a *attachment) { a.pod.kill() },
		"pod_died_before":  func(a *attachment) { a.pod.kill(); n.waitBack(t, v, func(*netlink.LinkAttrs) error { return nil }) },
	} {
		for _, device := range []map[string]any{{"deviceID": v.pci}, {"device": "rail0-vf0"}} {
			conf := map[string]any{"kind": "host-device", "mtu": 1400, "mac": "02:00:00:00:00:42", "ipam": at(t, "10.9.0.11/24")}
			for k, x := range device {
				conf[k] = x
			}
			a := attach(t, n.host, newSpace(t), "net1", conf)
			out := a.mustRun("ADD")
			if !strings.Contains(out, v.pci) {
				t.Errorf("%s: the result lacks the PCI address: %s", name, out)
			}
			link := a.pod.get("net1").Attrs()
			if link.ParentDev != v.pci || link.MTU != 1400 || link.HardwareAddr.String() != "02:00:00:00:00:42" || n.host.has(v.name) {
				t.Errorf("%s: %+v", name, link)
			}
			a.mustRun("CHECK")
			end(a)
			a.mustRun("DEL")
			a.mustRun("DEL")
			n.host.same(t, before, name)
		}
	}
	a := attach(t, n.host, newSpace(t), "net1", map[string]any{"kind": "host-device", "deviceID": v.pci})
	a.mustRun("ADD")
	second := attach(t, n.host, newSpace(t), "net1", map[string]any{"kind": "host-device", "deviceID": v.pci})
	second.id, second.conf["stateDir"] = "second", a.conf["stateDir"]
	second.fails("ADD", 104, "c-net1@net1")
	a.mustRun("DEL")
	n.host.same(t, before, "two wanted it")
}

// waitUp waits until the NIC has a carrier: without, it refuses rates.
func (n nic) waitUp(t testing.TB) {
	t.Helper()
	eventually(t, func() error {
		if s := n.host.get(n.name).Attrs().OperState; s != netlink.OperUp {
			return fmt.Errorf("%s is %s", n.name, s)
		}
		return nil
	})
}

// What the physical function sets for a virtual one is what it was again after DEL, and CHECK sees it drift.
func TestPluginSRIOV(t *testing.T) {
	n := nics(t)[0]
	v := n.virtual(t, 2)[1]
	n.waitUp(t)
	must(t, n.host.link.LinkSetHardwareAddr(n.host.get(v.name), n.host.get(v.name).Attrs().HardwareAddr))
	before := n.host.state(t)
	conf := map[string]any{
		"kind": "sriov", "deviceID": v.pci, "vlan": 100, "vlanQoS": 3, "spoofchk": "off", "trust": "on", "max_tx_rate": 100,
		"mac": "02:00:00:00:00:43", "ipam": at(t, "10.9.0.11/24"),
	}
	file := filepath.Join(t.TempDir(), "info.json")
	conf["runtimeConfig"] = map[string]any{"CNIDeviceInfoFile": file}
	a := attach(t, n.host, newSpace(t), "net1", conf)
	a.mustRun("ADD")
	got := n.host.get(n.name).Attrs().Vfs[1]
	if got.Mac.String() != "02:00:00:00:00:43" || got.Vlan != 100 || got.Qos != 3 || got.Spoofchk || got.Trust != 1 || got.MaxTxRate != 100 {
		t.Errorf("%+v", got)
	}
	if l := a.pod.get("net1").Attrs(); l.HardwareAddr.String() != "02:00:00:00:00:43" {
		t.Errorf("in the pod it has %s", l.HardwareAddr)
	}
	a.mustRun("CHECK")
	if info, err := os.ReadFile(file); err != nil || string(info) != fmt.Sprintf(`{"type":"pci","version":"1.1.0","pci":{"pci-address":%q,"pf-pci-address":%q}}`, v.pci, n.pci) {
		t.Errorf("the device information: %s %v", info, err)
	}
	must(t, n.host.link.LinkSetVfVlanQos(n.host.get(n.name), 1, 200, 0))
	a.fails("CHECK", 109, "virtual function 1")
	a.mustRun("DEL")
	n.host.same(t, before, "DEL")

	// The pod dies, and the DEL comes after it.
	a = attach(t, n.host, newSpace(t), "net1", conf)
	a.mustRun("ADD")
	a.pod.kill()
	a.mustRun("DEL")
	n.host.same(t, before, "the pod died")

	// What this driver cannot do is said, and undone.
	for key, value := range map[string]any{"vlanProto": "802.1ad", "link_state": "enable", "min_tx_rate": 50} {
		b := attach(t, n.host, newSpace(t), "net1", conf)
		b.conf[key] = value
		b.fails("ADD", 105, "virtual function 1")
		n.host.same(t, before, key)
	}
	pf := attach(t, n.host, newSpace(t), "net1", map[string]any{"kind": "sriov", "deviceID": n.pci})
	pf.fails("ADD", 104, "no virtual function")
}

// A virtual function that nobody trusts gets its MAC all the same, any number of times, and is not trusted afterwards.
func TestPluginSRIOVMAC(t *testing.T) {
	n := nics(t)[0]
	v := n.known(t)
	before := n.host.state(t)
	for i, point := range []string{"", "", "vf:trusted", "vf:trusted"} {
		a := attach(t, n.host, newSpace(t), "net1", map[string]any{"kind": "sriov", "deviceID": v.pci, "mac": fmt.Sprintf("02:00:00:00:00:5%d", i)})
		if point != "" {
			a.dies("ADD", point)
			a.mustRun("DEL")
			n.host.same(t, before, "ADD died at "+point)
		}
		a.mustRun("ADD")
		if l := a.pod.get("net1").Attrs(); l.HardwareAddr.String() != a.conf["mac"] || n.host.get(n.name).Attrs().Vfs[0].Trust == 1 {
			t.Errorf("in the pod it has %s, trust is %d", l.HardwareAddr, n.host.get(n.name).Attrs().Vfs[0].Trust)
		}
		a.mustRun("CHECK")
		if point != "" {
			a.dies("DEL", point)
		}
		a.mustRun("DEL")
		n.host.same(t, before, "DEL")
	}
}

// SIGKILL at the steps of moving a virtual function, then DEL: the machine is what it was.
func TestPluginSRIOVKilled(t *testing.T) {
	n := nics(t)[0]
	v := n.virtual(t, 1)[0]
	must(t, n.host.link.LinkSetHardwareAddr(n.host.get(v.name), n.host.get(v.name).Attrs().HardwareAddr))
	before := n.host.state(t)
	for _, point := range []string{"add:journaled", "add:vf", "add:tagged", "add:linked", "add:up", "add:done"} {
		a := attach(t, n.host, newSpace(t), "net1", map[string]any{
			"kind": "sriov", "deviceID": v.pci, "vlan": 100, "trust": "on", "mac": "02:00:00:00:00:44", "mtu": 1400,
		})
		a.dies("ADD", point)
		a.mustRun("DEL")
		n.host.same(t, before, "ADD died at "+point)
	}
	for _, point := range []string{"undo:0", "undo:pulled", "undo:restored", "undo:done"} {
		a := attach(t, n.host, newSpace(t), "net1", map[string]any{
			"kind": "sriov", "deviceID": v.pci, "vlan": 100, "trust": "on", "mac": "02:00:00:00:00:44", "mtu": 1400,
		})
		a.mustRun("ADD")
		a.dies("DEL", point)
		a.mustRun("DEL")
		n.host.same(t, before, "DEL died at "+point)
	}
}

// dies is run for what kills itself at a failpoint.
func (a *attachment) dies(verb, point string) {
	a.t.Helper()
	a.env = []string{"RAILYARD_FAILPOINT=" + point}
	out, err := a.run(verb)
	a.env = nil
	if err == nil || !strings.Contains(err.Error(), "signal: killed") {
		a.t.Fatalf("%s did not die at %s: %s %v", verb, point, out, err)
	}
}

// journalOf is the attachment's journal.
func (a *attachment) journalOf() map[string]any {
	a.t.Helper()
	b, err := os.ReadFile(filepath.Join(a.conf["stateDir"].(string), "attachments", a.id+"@"+a.ifName+".json"))
	must(a.t, err)
	var j map[string]any
	must(a.t, json.Unmarshal(b, &j))
	return j
}
