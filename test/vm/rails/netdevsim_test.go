//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

const simBus = "/sys/bus/netdevsim"

// sim is a device of netdevsim, which has ports with an interface each, on a bus of its own, and obeys devlink.
type sim struct {
	host           *space
	name, dir, bug string // bug is its folder of faults
}

// newSim makes one, until the test ends.
func newSim(t testing.TB, number, ports int) sim {
	t.Helper()
	if _, err := os.Stat(simBus); err != nil {
		t.Skip("this machine's kernel has no netdevsim")
	}
	quiet(t)
	name := fmt.Sprint("netdevsim", number)
	s := sim{machine(t), name, filepath.Join(simBus, "devices", name), filepath.Join("/sys/kernel/debug/netdevsim", name)}
	t.Cleanup(func() { s.remove(t) })
	s.make(t, ports)
	return s
}

func (s sim) make(t testing.TB, ports int) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(simBus, "new_device"), fmt.Appendf(nil, "%s %d", s.number(), ports), 0))
}

func (s sim) number() string { return strings.TrimPrefix(s.name, "netdevsim") }

// remove takes the device from its bus, if it is there.
func (s sim) remove(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(s.dir); err == nil {
		must(t, os.WriteFile(filepath.Join(simBus, "del_device"), []byte(s.number()), 0))
	}
}

// port is the interface of a port, counted from 1, if the machine's namespace has it.
func (s sim) port(t testing.TB, number int) string {
	t.Helper()
	name, err := s.find(fmt.Sprint("p", number))
	must(t, err)
	return name
}

// find gives the interface of the port that has that name.
func (s sim) find(port string) (string, error) {
	links, err := os.ReadDir(filepath.Join(s.dir, "net"))
	if err != nil {
		return "", err
	}
	for _, l := range links {
		if text, _ := os.ReadFile(filepath.Join(s.dir, "net", l.Name(), "phys_port_name")); strings.TrimSpace(string(text)) == port {
			return l.Name(), nil
		}
	}
	return "", fmt.Errorf("%s has no interface of port %s here", s.name, port)
}

// devlink has devlink do something with the device: before says what, after how.
func (s sim) devlink(before string, after ...string) error {
	args := slices.Concat(strings.Fields(before), []string{"netdevsim/" + s.name}, after)
	if out, err := exec.Command("devlink", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("devlink %v: %w: %s", args, err, out)
	}
	return nil
}

func (s sim) fault(t testing.TB, name, value string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(s.bug, name), []byte(value), 0))
}

// wire connects two interfaces of netdevsim, wherever they are.
func wire(t testing.TB, a *space, one string, b *space, other string) {
	t.Helper()
	text := fmt.Sprintf("%d:%d %d:%d", a.ns.Fd(), a.get(one).Attrs().Index, b.ns.Fd(), b.get(other).Attrs().Index)
	must(t, os.WriteFile(filepath.Join(simBus, "link_device"), []byte(text), 0))
}

// lingers lets go of the pod's namespace, to which somebody else still holds on until end.
func (a *attachment) lingers() (end func()) {
	a.t.Helper()
	held, err := os.Open(a.pod.path)
	must(a.t, err)
	a.pod.kill()
	return func() { must(a.t, held.Close()) }
}

// waitPort waits until the machine has the interface of the port.
func (s sim) waitPort(t testing.TB, port string) (name string) {
	t.Helper()
	eventually(t, func() (err error) {
		name, err = s.find(port)
		return err
	})
	return name
}

// An interface on hardware of neither PCI nor the auxiliary bus, with a sister on the same: it goes into the pod by its name, carries what the
// pod sends, and comes back as it was, after the pod has died with it too, however soon DEL comes.
func TestPluginNetdevsim(t *testing.T) {
	s := newSim(t, 1, 2)
	name := s.port(t, 1)
	must(t, s.host.link.LinkAddAltName(s.host.get(name), "simrail0"))
	s.host.address(name, "192.0.2.7/24")
	before := s.host.state(t)
	for what, end := range map[string]func(*attachment){
		"DEL":              func(*attachment) {},
		"DEL_knows_little": func(a *attachment) { delete(a.conf, "device"); delete(a.conf, "kind"); delete(a.conf, "prevResult") },
		"pod_is_dead":      func(a *attachment) { a.pod.kill() },
		"pod_died_before":  func(a *attachment) { a.pod.kill(); s.waitPort(t, "p1") },
		"pod_lingers": func(a *attachment) {
			end := a.lingers()
			a.mustRun("DEL") // and the device is nowhere to be seen, but on its bus
			end()
			s.waitPort(t, "p1")
		},
		"pod_took_the_names": func(a *attachment) {
			l := a.pod.get("net1")
			for _, alt := range l.Attrs().AltNames {
				must(t, a.pod.link.LinkDelAltName(l, alt))
			}
			must(t, a.pod.link.LinkSetDown(l))
			must(t, a.pod.link.LinkSetName(l, "mine"))
		},
	} {
		a := attach(t, s.host, newSpace(t), "net1", map[string]any{
			"kind": "host-device", "device": "simrail0", "mtu": 1400, "mac": "02:00:00:00:00:42", "ipam": at(t, "10.9.0.11/24"),
		})
		a.mustRun("ADD")
		if l := a.pod.get("net1").Attrs(); l.ParentDev != s.name || l.MTU != 1400 || l.HardwareAddr.String() != "02:00:00:00:00:42" || s.host.has(name) {
			t.Errorf("%s: %+v", what, l)
		}
		a.mustRun("CHECK")
		end(a)
		a.mustRun("DEL")
		a.mustRun("DEL")
		s.host.same(t, before, what)
	}
}

// Two interfaces of one device: in two pods they speak, and each comes back as itself, whichever way; one attachment may have both.
func TestPluginNetdevsimPorts(t *testing.T) {
	s := newSim(t, 1, 2)
	dir := t.TempDir()
	names := []string{s.port(t, 1), s.port(t, 2)}
	before := s.host.state(t)
	both := func() []*attachment {
		var all []*attachment
		for i, name := range names {
			a := attach(t, s.host, newSpace(t), "net1", map[string]any{
				"kind": "host-device", "device": name, "mtu": 1400 + i, "ipam": at(t, fmt.Sprintf("10.9.0.1%d/24", i+1)), "stateDir": dir,
			})
			a.id = fmt.Sprint("c", i)
			a.mustRun("ADD")
			all = append(all, a)
		}
		return all
	}
	all := both()
	wire(t, all[0].pod, "net1", all[1].pod, "net1")
	all[0].pod.ping(t, "10.9.0.12")
	for _, a := range all {
		a.mustRun("CHECK")
		a.mustRun("DEL")
	}
	s.host.same(t, before, "DEL of both")
	all = both()
	for _, a := range all {
		a.pod.kill()
	}
	for _, a := range slices.Backward(all) {
		a.mustRun("DEL")
	}
	s.host.same(t, before, "both pods are dead")
	// Neither the sister in a pod nor the one that is home by now is taken for the one that is still away.
	all = both()
	end := all[0].lingers()
	all[0].mustRun("DEL")
	all[1].mustRun("CHECK")
	all[1].mustRun("DEL")
	all[0].mustRun("DEL")
	end()
	s.waitPort(t, "p1")
	all[0].mustRun("DEL")
	s.host.same(t, before, "one came back later")
	multi := attach(t, s.host, newSpace(t), "net1", map[string]any{
		"kind": "host-device", "rails": []any{map[string]any{"device": names[0]}, map[string]any{"device": names[1], "mtu": 1400}},
	})
	multi.mustRun("ADD")
	multi.mustRun("CHECK")
	multi.mustRun("DEL")
	s.host.same(t, before, "one attachment had both")
	multi.conf["rails"] = []any{map[string]any{"device": names[0]}, map[string]any{"device": names[0]}}
	delete(multi.conf, "prevResult")
	multi.fails("ADD", 7, "that of another rail too")
	s.host.same(t, before, "one for two")
}

// What is no PCI function has no virtual ones: what asks for one is told so, and all is as it was.
func TestPluginNetdevsimRefused(t *testing.T) {
	s := newSim(t, 1, 1)
	must(t, os.WriteFile(filepath.Join(s.dir, "sriov_numvfs"), []byte("2"), 0))
	must(t, s.devlink("dev eswitch set", "mode", "switchdev"))
	before := s.host.state(t)
	for _, port := range []string{"p1", "pf0vf1"} { // the physical function's, and the representor of a virtual one
		name, err := s.find(port)
		must(t, err)
		a := attach(t, s.host, newSpace(t), "net1", map[string]any{"kind": "sriov", "device": name, "vlan": 100})
		a.fails("ADD", 104, name+" is no virtual function: it is on "+s.name+", and that is no PCI function")
		a.mustRun("DEL")
		a.conf["kind"], a.conf["runtimeConfig"] = "host-device", map[string]any{"infinibandGUID": "02:11:22:33:44:55:66:77"}
		delete(a.conf, "vlan")
		a.fails("ADD", 104, "no PCI function")
		a.mustRun("DEL")
		s.host.same(t, before, port)
	}
	a := attach(t, s.host, newSpace(t), "net1", map[string]any{"kind": "host-device", "device": s.name})
	a.fails("ADD", 104, "the host has no link "+s.name)
	s.host.same(t, before, "by its place on the bus")
}

// The device is made anew under a pod, or fails to be, or is refused it. The pod is left without its interface and DEL has nothing to give
// back; what is made anew is as fresh as any, and can be attached.
func TestPluginNetdevsimReload(t *testing.T) {
	s := newSim(t, 1, 1)
	again := func() *attachment {
		t.Helper()
		a := attach(t, s.host, newSpace(t), "net1", map[string]any{"kind": "host-device", "device": s.port(t, 1), "mtu": 1400, "ipam": at(t, "10.9.0.11/24")})
		a.mustRun("ADD")
		a.mustRun("CHECK")
		return a
	}
	over := func(a *attachment, what string) {
		t.Helper()
		before := s.host.state(t)
		a.mustRun("DEL")
		a.mustRun("DEL")
		s.host.same(t, before, what)
	}
	a, before := again(), s.host.state(t)
	s.fault(t, "dont_allow_reload", "Y")
	if err := s.devlink("dev reload"); err == nil {
		t.Error("the reload was not refused")
	}
	s.host.same(t, before, "a refused reload")
	a.mustRun("CHECK")
	s.fault(t, "dont_allow_reload", "N")

	s.fault(t, "fail_reload", "Y")
	if err := s.devlink("dev reload"); err == nil {
		t.Error("the reload did not fail")
	}
	a.fails("CHECK", 109, "gone")
	if name, err := s.find("p1"); err == nil {
		t.Errorf("there is an interface %s", name)
	}
	over(a, "a failed reload")
	s.fault(t, "fail_reload", "N")
	must(t, s.devlink("dev reload"))

	a = again()
	name := a.hostName()
	must(t, s.devlink("dev reload"))
	a.fails("CHECK", 109, "gone")
	a.mustRun("DEL")
	a.mustRun("DEL")
	if l := s.host.get(s.port(t, 1)).Attrs(); l.Name != name || l.MTU != 1500 || len(l.AltNames) != 0 {
		t.Errorf("after a reload and DEL the interface is %+v", l)
	}
	a = again()
	a.mustRun("DEL")
}

// hostName is the name that the attachment's device had on the host.
func (a *attachment) hostName() string {
	a.t.Helper()
	for _, s := range a.journalOf()["steps"].([]any) {
		if l, ok := s.(map[string]any)["link"].(map[string]any); ok {
			return l["host"].(map[string]any)["name"].(string)
		}
	}
	a.t.Fatal("the journal has no device")
	return ""
}

// The device goes from its bus under a pod. One of the same name that comes later is another one.
func TestPluginNetdevsimGone(t *testing.T) {
	s := newSim(t, 1, 1)
	before := s.host.state(t)
	conf := map[string]any{"kind": "host-device", "device": s.port(t, 1), "ipam": at(t, "10.9.0.11/24")}
	a := attach(t, s.host, newSpace(t), "net1", conf)
	a.mustRun("ADD")
	s.remove(t)
	a.fails("CHECK", 109, "gone")
	second := attach(t, s.host, newSpace(t), "net1", conf)
	second.id, second.conf["stateDir"] = "second", a.conf["stateDir"]
	second.fails("ADD", 104, "c-net1@net1 of network rail0 has it")
	a.mustRun("DEL")
	a.mustRun("DEL")
	s.make(t, 1)
	fresh := s.host.state(t)
	if len(fresh) != len(before) {
		t.Errorf("the machine has %v", fresh)
	}
	second.conf["device"] = s.port(t, 1)
	second.mustRun("ADD")
	a.mustRun("DEL") // once more, and it has nothing to do with that one
	second.mustRun("CHECK")
	second.mustRun("DEL")
	s.host.same(t, fresh, "and attached again")
}

// A whole device goes into another namespace by devlink and comes back with its end, with interfaces made anew each time: the pod that had one
// is left without.
func TestPluginNetdevsimNamespace(t *testing.T) {
	s := newSim(t, 1, 1)
	a := attach(t, s.host, newSpace(t), "net1", map[string]any{"kind": "host-device", "device": s.port(t, 1), "mtu": 1400})
	a.mustRun("ADD")
	away := newSpace(t)
	pid := exec.Command("sleep", "600") // devlink knows namespaces by a process in them
	must(t, away.do(pid.Start))
	t.Cleanup(func() { _ = pid.Process.Kill(); _ = pid.Wait() })
	must(t, s.devlink("dev reload", "netns", fmt.Sprint(pid.Process.Pid)))
	a.fails("CHECK", 109, "gone")
	isAway := func() error {
		all, err := away.link.LinkList()
		if slices.ContainsFunc(all, func(l netlink.Link) bool { return l.Attrs().ParentDev == s.name && l.Attrs().MTU == 1500 }) {
			return nil
		}
		return errors.Join(err, errors.New("the interface is not in the other namespace"))
	}
	must(t, isAway())
	// The device is on its bus, so its interface may yet come: the journal is kept, and what has another namespace is left alone.
	a.mustRun("DEL")
	must(t, isAway())
	must(t, pid.Process.Kill())
	_ = pid.Wait()
	away.kill()
	s.waitPort(t, "p1")
	a.mustRun("DEL")
	if l := s.host.get(s.port(t, 1)).Attrs(); l.MTU != 1500 || len(l.AltNames) != 0 {
		t.Errorf("at the end the interface is %+v", l)
	}
	if _, err := os.Stat(filepath.Join(a.conf["stateDir"].(string), "attachments", a.id+"@net1.json")); !os.IsNotExist(err) {
		t.Errorf("the journal is still there: %v", err)
	}
}
