//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The physical function of these tests is netdevsim's, which takes every setting that the kernel has for a virtual one, and tells it again.
// Its virtual functions have no interface and are not on PCI; so that one has both, the plugin reads of them in a tree of files, and the
// interface is that of another device. All that is set, read and restored is the kernel's.

const (
	simPF = "0000:99:00.0"
	simVF = "0000:99:00.2" // the second of two
)

// functions is a /sys that says of two interfaces that they are a physical function and a virtual one of it.
func functions(t testing.TB, pf, vf string) string {
	t.Helper()
	sys := t.TempDir()
	dir := filepath.Join(sys, "bus/pci/devices")
	for _, d := range []string{filepath.Join(simPF, "net", pf), filepath.Join(simVF, "net", vf)} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	must(t, os.MkdirAll(filepath.Join(sys, "class/net", vf), 0o755))
	for name, to := range map[string]string{
		filepath.Join(dir, simPF, "virtfn1"):              "../" + simVF,
		filepath.Join(dir, simVF, "physfn"):               "../" + simPF,
		filepath.Join(sys, "class/net", vf, "device"):     "../../../bus/pci/devices/" + simVF,
		filepath.Join(dir, simPF, "net", pf, "device"):    "../../../" + simPF,
		filepath.Join(dir, simVF, "net", vf, "device"):    "../../../" + simVF,
		filepath.Join(dir, simVF, "net", vf, "subsystem"): "../../../../../../class/net",
	} {
		must(t, os.Symlink(to, name))
	}
	return sys
}

// simFunctions are a physical function with two virtual ones, of which the second has an interface; conf is that of an attachment of it.
func simFunctions(t testing.TB) (pf netlink.Link, host *space, rail func(conf map[string]any) *attachment) {
	t.Helper()
	one, two := newSim(t, 1, 1), newSim(t, 2, 1)
	must(t, os.WriteFile(filepath.Join(one.dir, "sriov_numvfs"), []byte("2"), 0))
	name, sys := one.port(t, 1), functions(t, one.port(t, 1), two.port(t, 1))
	return one.host.get(name), one.host, func(conf map[string]any) *attachment {
		a := attach(t, one.host, newSpace(t), "net1", map[string]any{"kind": "sriov", "deviceID": simVF})
		for k, v := range conf {
			a.conf[k] = v
		}
		a.sys = sys
		return a
	}
}

// vfSettings are those of the second virtual function.
type vfSettings struct {
	MAC             string
	VLAN, QoS       int
	Proto           int
	Min, Max        uint32
	Spoof, Trust    bool
	State, RSSQuery uint32
}

func settingsOf(h *space, pf netlink.Link) vfSettings {
	v := h.get(pf.Attrs().Name).Attrs().Vfs[1]
	return vfSettings{v.Mac.String(), v.Vlan, v.Qos, v.VlanProto, v.MinTxRate, v.MaxTxRate, v.Spoofchk, v.Trust == 1, v.LinkState, v.RssQuery}
}

// set gives the second virtual function the settings, as an administrator would.
func (s vfSettings) set(t testing.TB, h *netlink.Handle, pf netlink.Link) {
	t.Helper()
	mac := make([]byte, 6)
	_, err := fmt.Sscanf(s.MAC, "%02x:%02x:%02x:%02x:%02x:%02x", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5])
	must(t, err)
	must(t, h.LinkSetVfHardwareAddr(pf, 1, mac))
	must(t, h.LinkSetVfVlanQosProto(pf, 1, s.VLAN, s.QoS, s.Proto))
	must(t, h.LinkSetVfRate(pf, 1, int(s.Min), int(s.Max)))
	must(t, h.LinkSetVfSpoofchk(pf, 1, s.Spoof))
	must(t, h.LinkSetVfTrust(pf, 1, s.Trust))
	must(t, h.LinkSetVfState(pf, 1, s.State))
}

// states are what a virtual function may be before anybody has it.
func vfStates() map[string]vfSettings {
	return map[string]vfSettings{
		"untouched":     {MAC: "00:00:00:00:00:00", Proto: unix.ETH_P_8021Q},
		"of a provider": {MAC: "02:00:00:00:00:01", VLAN: 100, QoS: 5, Proto: unix.ETH_P_8021AD, Min: 5, Max: 50, Spoof: true, Trust: true, State: netlink.VF_LINK_STATE_DISABLE},
		"same VLAN":     {MAC: "02:00:00:00:00:02", VLAN: 100, QoS: 3, Proto: unix.ETH_P_8021Q, Max: 10, State: netlink.VF_LINK_STATE_ENABLE},
	}
}

// vfWishes are configs, and what they make of a virtual function.
func vfWishes() map[string]struct {
	conf map[string]any
	make func(*vfSettings)
} {
	return map[string]struct {
		conf map[string]any
		make func(*vfSettings)
	}{
		"all, 802.1ad": {
			map[string]any{
				"mac": "02:00:00:00:00:43", "vlan": 100, "vlanQoS": 3, "vlanProto": "802.1ad", "min_tx_rate": 10, "max_tx_rate": 100,
				"spoofchk": "off", "trust": "on", "link_state": "enable",
			},
			func(s *vfSettings) {
				*s = vfSettings{"02:00:00:00:00:43", 100, 3, unix.ETH_P_8021AD, 10, 100, false, true, netlink.VF_LINK_STATE_ENABLE, s.RSSQuery}
			},
		},
		"all, 802.1Q": {
			map[string]any{"vlan": 100, "vlanQoS": 3, "vlanProto": "802.1q", "spoofchk": "on", "trust": "off", "link_state": "auto"},
			func(s *vfSettings) {
				s.VLAN, s.QoS, s.Proto, s.Spoof, s.Trust, s.State = 100, 3, unix.ETH_P_8021Q, true, false, netlink.VF_LINK_STATE_AUTO
			},
		},
		"a floor alone":   {map[string]any{"min_tx_rate": 1}, func(s *vfSettings) { s.Min = 1 }},
		"a ceiling alone": {map[string]any{"max_tx_rate": 200}, func(s *vfSettings) { s.Max = 200 }},
		"no VLAN":         {map[string]any{"vlan": 0}, func(s *vfSettings) { s.VLAN, s.QoS, s.Proto = 0, 0, unix.ETH_P_8021Q }},
	}
}

// Every setting is set as asked, told by CHECK when it drifts, and afterwards what it was, whatever that is.
func TestPluginVF(t *testing.T) {
	pf, host, rail := simFunctions(t)
	for from, was := range vfStates() {
		was.set(t, host.link, pf)
		before := host.state(t)
		for name, wish := range vfWishes() {
			t.Run(from+", "+name, func(t *testing.T) {
				a := rail(wish.conf)
				a.mustRun("ADD")
				want := was
				wish.make(&want)
				if diff := cmp.Diff(want, settingsOf(host, pf)); diff != "" {
					t.Errorf("after ADD (-want +got):\n%s", diff)
				}
				a.mustRun("CHECK")
				a.mustRun("DEL")
				a.mustRun("DEL")
				if diff := cmp.Diff(was, settingsOf(host, pf)); diff != "" {
					t.Errorf("after DEL (-want +got):\n%s", diff)
				}
				host.same(t, before, "DEL")
			})
		}
	}
}

func TestPluginVFDrift(t *testing.T) {
	pf, host, rail := simFunctions(t)
	vfStates()["of a provider"].set(t, host.link, pf)
	before := host.state(t)
	a := rail(vfWishes()["all, 802.1ad"].conf)
	a.mustRun("ADD")
	is := settingsOf(host, pf)
	for name, drift := range map[string]func(*vfSettings){
		"mac": func(s *vfSettings) { s.MAC = "02:00:00:00:00:44" }, "vlan": func(s *vfSettings) { s.VLAN = 101 }, "qos": func(s *vfSettings) { s.QoS = 1 },
		"proto": func(s *vfSettings) { s.Proto = unix.ETH_P_8021Q }, "min": func(s *vfSettings) { s.Min = 11 }, "max": func(s *vfSettings) { s.Max = 0 },
		"spoof": func(s *vfSettings) { s.Spoof = true }, "trust": func(s *vfSettings) { s.Trust = false }, "state": func(s *vfSettings) { s.State = netlink.VF_LINK_STATE_AUTO },
	} {
		other := is
		drift(&other)
		other.set(t, host.link, pf)
		if _, err := a.run("CHECK"); err == nil {
			t.Errorf("CHECK does not mind %s", name)
		} else {
			a.fails("CHECK", 109, "virtual function 1")
		}
		is.set(t, host.link, pf)
		a.mustRun("CHECK")
	}
	a.pod.kill()
	a.mustRun("DEL")
	host.same(t, before, "the pod is dead")
}

// SIGKILL at each step, then DEL: what the physical function knows is what it knew.
func TestPluginVFKilled(t *testing.T) {
	pf, host, rail := simFunctions(t)
	vfStates()["of a provider"].set(t, host.link, pf)
	before := host.state(t)
	conf := vfWishes()["all, 802.1ad"].conf
	for _, point := range []string{"add:journaled", "add:tagged", "add:vf", "add:linked", "add:up", "add:done"} {
		a := rail(conf)
		a.dies("ADD", point)
		a.mustRun("DEL")
		host.same(t, before, "ADD died at "+point)
	}
	for _, point := range []string{"undo:0", "undo:pulled", "undo:restored", "undo:done"} {
		a := rail(conf)
		a.mustRun("ADD")
		a.dies("DEL", point)
		a.mustRun("DEL")
		host.same(t, before, "DEL died at "+point)
	}
	// What was as wanted is nothing to restore, so nobody waits for a physical function that is away.
	a := rail(map[string]any{"vlan": 100, "vlanQoS": 5, "vlanProto": "802.1ad", "trust": "on"})
	a.mustRun("ADD")
	away, name := newSpace(t), pf.Attrs().Name
	must(t, host.move(name, away, name))
	a.mustRun("DEL")
	if _, err := os.Stat(filepath.Join(a.conf["stateDir"].(string), "attachments", a.id+"@net1.json")); !os.IsNotExist(err) {
		t.Errorf("the journal is still there: %v", err)
	}
	must(t, away.move(name, host, name))
	host.same(t, before, "nothing was set")
	// One setting that the kernel refuses: those before it are taken back.
	a = rail(map[string]any{"vlan": 100, "trust": "off", "min_tx_rate": 200, "max_tx_rate": 100})
	if out, err := a.run("ADD"); err == nil {
		t.Errorf("a floor above the ceiling: %s", out)
	}
	host.same(t, before, "ADD was refused")
}
