//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// codeRDMA is dispatch.CodeRDMA.
const codeRDMA = 112

// In shared mode ADD answers when the GID of the pod's address is in the table of the rail's device, and says where. Two pods
// made so speak RDMA.
func TestPluginRDMAShared(t *testing.T) {
	needShared(t)
	host, fabric := machine(t), newSpace(t)
	host.cable("r0", fabric, "port0")
	host.rxe("rxe0", "r0")
	for _, kind := range []string{"macvlan", "ipvlan"} {
		t.Run(kind, func(t *testing.T) {
			var ends []end
			for i := range 2 {
				addr := fmt.Sprintf("10.9.0.1%d", i+1)
				a := attach(t, host, newSpace(t), "net1", map[string]any{
					"kind": kind, "master": "r0", "rdma": "required", "ipam": at(t, addr+"/24"),
				})
				a.id = fmt.Sprintf("c%d", i)
				a.mustRun("ADD")
				t.Cleanup(func() { a.mustRun("DEL") })
				var found []any
				for _, s := range a.journalOf()["steps"].([]any) {
					if l, ok := s.(map[string]any)["link"].(map[string]any); ok {
						found, _ = l["gids"].([]any)
					}
				}
				if len(found) != 1 {
					t.Fatalf("GIDs in the journal: %v", found)
				}
				g := found[0].(map[string]any)
				want := waitGID(t, "rxe0", addr)
				if g["address"] != addr || g["device"] != "rxe0" || !strings.HasPrefix(g["type"].(string), "RoCE v2") && g["index"] != float64(want.index) {
					t.Errorf("%v, want index %d", g, want.index)
				}
				ends = append(ends, carrier(t, a, addr, want.index, kind, i))
			}
			ends[1].pod.ping(t, "10.9.0.11")
			if vm("_KERNEL") != "6.12" { // with 7.3 rxe learnt to receive in namespaces
				speak(t, ends[0], ends[1], "10.9.0.11")
			}
		})
	}
}

// carrier is the device over which the pod speaks. That of the rail carries what an ipvlan sends; for a macvlan, which has a MAC of
// its own, a NIC does that and rxe does not, so it gets one on itself.
func carrier(t testing.TB, a *attachment, addr string, index int, kind string, i int) end {
	t.Helper()
	if kind == "ipvlan" || vm("_KERNEL") == "6.12" {
		return end{a.pod, "rxe0", index}
	}
	device := fmt.Sprintf("rxe%d", i+1)
	a.pod.rxe(device, "net1")
	return end{a.pod, device, waitGID(t, device, addr).index}
}

// Without a device: nothing, unless the config requires one.
func TestPluginRDMANone(t *testing.T) {
	host, fabric := machine(t), newSpace(t)
	host.cable("r0", fabric, "port0")
	a := attach(t, host, newSpace(t), "net1", map[string]any{"master": "r0", "rdma": "required"})
	a.fails("ADD", codeRDMA, "no RDMA device")
	a.fails("STATUS", 50, "no RDMA device")
	a.conf["rdma"] = "auto"
	a.mustRun("STATUS")
	a.mustRun("ADD")
	a.mustRun("DEL")
}

// In exclusive mode a macvlan has no RDMA device and is refused early, unless it needs none.
func TestPluginRDMAExclusiveMacvlan(t *testing.T) {
	needExclusive(t)
	host, fabric := machine(t), newSpace(t)
	host.cable("r0", fabric, "port0")
	host.rxe("rxe0", "r0")
	a := attach(t, host, newSpace(t), "net1", map[string]any{"master": "r0"})
	a.fails("ADD", codeRDMA, "netns exclusive")
	a.fails("STATUS", 50, "netns exclusive")
	if a.pod.has("net1") {
		t.Error("the refused ADD left a link")
	}
	a.conf["rdma"] = "off"
	a.mustRun("STATUS")
	a.mustRun("ADD")
	a.mustRun("DEL")
}

// chain gives two pods a cable between them, a software RDMA device of the type on each end, and our plugin chained behind what made the
// interface.
func chain(t *testing.T, host *space, kind string) (pods []*space, all []*attachment) {
	t.Helper()
	pods = []*space{newSpace(t), newSpace(t)}
	pods[0].cable("net1", pods[1], "net1")
	for i, pod := range pods {
		pod.software(kind, fmt.Sprint(kind, i), "net1")
		a := attach(t, host, pod, "net1", map[string]any{"kind": "chained", "rdma": "required", "ipam": at(t, fmt.Sprintf("10.9.0.1%d/24", i+1))})
		a.id = fmt.Sprintf("c%d", i)
		a.conf["prevResult"] = json.RawMessage(fmt.Sprintf(
			`{"cniVersion":"1.1.0","interfaces":[{"name":"net1","mac":%q,"sandbox":%q}]}`, pod.get("net1").Attrs().HardwareAddr, pod.path))
		all = append(all, a)
	}
	return pods, all
}

// In shared mode the pods' own devices stay where they are, and each pod's address is in its device's table. Programs find
// each other by RDMA's connection manager too.
func TestPluginRDMAChained(t *testing.T) {
	needShared(t)
	needMovableRXE(t) // with it rxe learnt to receive in namespaces
	pods, all := chain(t, machine(t), "rxe")
	var ends []end
	for i, a := range all {
		a.mustRun("ADD")
		a.mustRun("CHECK")
		device := fmt.Sprintf("rxe%d", i)
		ends = append(ends, end{pods[i], device, waitGID(t, device, fmt.Sprintf("10.9.0.1%d", i+1)).index})
	}
	speak(t, ends[0], ends[1], "10.9.0.11")
	rping(t, ends[0], ends[1], "10.9.0.11")
	for _, a := range all {
		a.mustRun("DEL")
	}
}

// In exclusive mode the device goes into the pod and comes back, found by what it is and not by its name.
func TestPluginRDMAExclusive(t *testing.T) {
	needExclusive(t)
	needMovableRXE(t)
	host := machine(t)
	pods, all := chain(t, host, "rxe")
	var ends []end
	for i, a := range all {
		a.mustRun("ADD")
		device := fmt.Sprintf("rxe%d", i)
		if host.hasRDMA(device) || !pods[i].hasRDMA(device) {
			t.Fatalf("%s: machine has it: %t, pod has it: %t", device, host.hasRDMA(device), pods[i].hasRDMA(device))
		}
		a.mustRun("CHECK")
		ends = append(ends, end{pods[i], device, podGID(t, pods[i], device, fmt.Sprintf("10.9.0.1%d", i+1))})
	}
	speak(t, ends[0], ends[1], "10.9.0.11")

	// Another name by now; CHECK does not mind, and DEL brings it back all the same.
	l, err := pods[0].link.RdmaLinkByName("rxe0")
	must(t, err)
	must(t, pods[0].do(func() error { return pods[0].link.RdmaLinkSetName(l, "mine0") }))
	all[0].mustRun("CHECK")
	must(t, pods[1].moveRDMA("rxe1", host))
	all[1].fails("CHECK", 109, "lost the RDMA device")
	for _, a := range all {
		a.mustRun("DEL")
		a.mustRun("DEL")
	}
	for _, name := range []string{"mine0", "rxe1"} {
		if !host.hasRDMA(name) {
			t.Errorf("%s did not come back", name)
		}
	}
	for i, pod := range pods {
		addrs, err := pod.link.AddrList(pod.get("net1"), netlink.FAMILY_V4)
		must(t, err)
		if len(addrs) != 0 {
			t.Errorf("pod %d keeps the addresses %v", i, addrs)
		}
	}
}

// Where the kernel cannot move it, ADD says so and leaves nothing.
func TestPluginRDMAUnmovable(t *testing.T) {
	needExclusive(t)
	if vm("_KERNEL") != "6.12" {
		t.Skip("this kernel's rxe can be moved")
	}
	host := machine(t)
	pods, all := chain(t, host, "rxe")
	all[0].fails("ADD", codeRDMA, "hand rxe0 over")
	if !host.hasRDMA("rxe0") || pods[0].hasRDMA("rxe0") {
		t.Error("the device is not where it was")
	}
	all[0].mustRun("DEL")
}

// SIGKILL before and after the move, in both directions.
func TestPluginRDMAKilled(t *testing.T) {
	needExclusive(t)
	needMovableRXE(t)
	host := machine(t)
	pods, all := chain(t, host, "rxe")
	a := all[0]
	prev := a.conf["prevResult"]
	back := func(what string) {
		t.Helper()
		if !host.hasRDMA("rxe0") || pods[0].hasRDMA("rxe0") {
			t.Fatalf("%s: the device is not back", what)
		}
	}
	for _, point := range []string{"add:moved", "add:rdma", "add:leased", "add:done"} {
		a.conf["prevResult"] = prev
		a.dies("ADD", point)
		a.mustRun("DEL")
		back("ADD died at " + point)
	}
	for _, point := range []string{"undo:2", "undo:rdma", "undo:1", "undo:done"} {
		a.conf["prevResult"] = prev
		a.mustRun("ADD")
		a.dies("DEL", point)
		delete(a.conf, "prevResult")
		a.mustRun("DEL")
		back("DEL died at " + point)
	}
}
