//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/rdma"
)

// needSIW skips where the machine's kernel has no iWARP in software.
func needSIW(t testing.TB) {
	t.Helper()
	if _, err := os.Stat("/sys/module/siw"); err != nil {
		t.Skip("this machine's kernel has no siw")
	}
}

// siw makes a software iWARP device on a link. It ends with its link, or with the test.
func (s *space) siw(name, link string) {
	s.t.Helper()
	s.software("siw", name, link)
}

// What an iWARP device is to the kernel, and what our discovery makes of it.
func TestSIW(t *testing.T) {
	needSIW(t)
	host, fabric := machine(t), newSpace(t)
	host.cable("r0", fabric, "port0")
	host.address("r0", "10.9.0.1/24")
	host.siw("siw0", "r0")
	a := attrs("v0")
	a.ParentIndex = host.get("r0").Attrs().Index
	host.add(&netlink.Vlan{LinkAttrs: a, VlanId: 100})
	sys := os.DirFS("/sys")
	all, err := rdma.Discover(sys)
	must(t, err)
	if len(all) != 1 {
		t.Fatalf("found %+v", all)
	}
	mac := host.get("r0").Attrs().HardwareAddr
	d := all[0]
	want := rdma.Device{
		Name: "siw0", Parent: "r0", Node: rdma.NodeRNIC, NUMA: -1, NodeGUID: d.NodeGUID, CharDevs: d.CharDevs,
		Ports: []rdma.Port{{Number: 1, LinkLayer: rdma.Ethernet, State: rdma.StateActive, NetDevs: []string{"r0"}}},
	}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Error(diff)
	}
	if guid := d.NodeGUID.String(); !d.IWARP() || d.RoCE(d.Ports[0]) || d.CharDevs.Verbs == "" || d.CharDevs.CM == "" ||
		strings.ReplaceAll(guid, ":", "") != fmt.Sprintf("%x%xfffe%x", mac[0]^2, []byte(mac[1:3]), []byte(mac[3:])) {
		t.Errorf("%+v, GUID %s, on %s", d, guid, mac)
	}
	// One GID: the hardware address. No IP address, of whatever interface, is in the table.
	table, err := rdma.GIDs(sys, "siw0", 1)
	must(t, err)
	if len(table) != 1 || table[0].NetDev != "r0" || !strings.HasPrefix(fmt.Sprintf("%x", table[0].Addr.As16()), fmt.Sprintf("%x", []byte(mac))) {
		t.Errorf("its GIDs are %+v", table)
	}
	if _, err := rdma.FindGID(sys, "siw0", 1, netip.MustParseAddr("10.9.0.1")); !errors.Is(err, rdma.ErrNotFound) {
		t.Errorf("the GID of its interface's IP address: %v", err)
	}
	for _, link := range []string{"r0", "v0"} {
		if under, err := rdma.OfNetDev(sys, all, link); err != nil || len(under) != 1 {
			t.Errorf("under %s are %v %v", link, under, err)
		}
	}
}

// It cannot be moved, in neither mode, and ends when its link moves.
func TestSIWMove(t *testing.T) {
	needSIW(t)
	host, pod := machine(t), newSpace(t)
	l := host.add(&netlink.Dummy{LinkAttrs: attrs("r0")})
	host.siw("siw0", "r0")
	if err := host.moveRDMA("siw0", pod); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("move it: %v, want EOPNOTSUPP", err)
	}
	if !host.hasRDMA("siw0") || pod.hasRDMA("siw0") == exclusive() {
		t.Errorf("the machine has it: %t, the pod has it: %t", host.hasRDMA("siw0"), pod.hasRDMA("siw0"))
	}
	must(t, host.link.LinkSetNsFd(l, int(pod.ns.Fd())))
	eventually(t, func() error {
		if host.hasRDMA("siw0") || pod.hasRDMA("siw0") {
			return errors.New("it is still there")
		}
		return nil
	})
}

// refusedCM says that the pod's program cannot even begin to listen at the address with the connection manager.
func refusedCM(t testing.TB, pod *space, address string) {
	t.Helper()
	s, said := inContainer(t, "rping -s -C 1 -a "+address)
	if err := pod.do(s.Run); err == nil || !strings.Contains(said.String(), "No such device") {
		t.Errorf("rping listens at %s: %v %s", address, err, said)
	}
}

// The device of a rail's master serves the master's addresses, and none of a pod on it: rails that require RDMA are refused, others are
// made at once without. On devices on the pods' own interfaces the rail carries connections between the pods.
func TestPluginIWARPShared(t *testing.T) {
	needSIW(t)
	needShared(t)
	host, fabric := machine(t), newSpace(t)
	host.cable("r0", fabric, "port0")
	host.address("r0", "10.9.0.1/24")
	host.siw("siw0", "r0")
	before := host.state(t)
	for _, kind := range []string{"macvlan", "ipvlan"} {
		t.Run(kind, func(t *testing.T) {
			var ends []end
			for i := range 2 {
				addr := fmt.Sprintf("10.9.0.1%d", i+1)
				a := attach(t, host, newSpace(t), "net1", map[string]any{
					"kind": kind, "master": "r0", "rdma": "required", "ipam": at(t, addr+"/24"), "stateDir": filepath.Join(os.TempDir(), "iwarp-"+kind),
				})
				a.id = fmt.Sprintf("c%d", i)
				a.fails("ADD", codeRDMA, "siw0 is iWARP")
				a.fails("STATUS", 50, "siw0 is iWARP")
				if a.pod.has("net1") {
					t.Error("the refused ADD left a link")
				}
				a.conf["rdma"] = "auto"
				a.mustRun("STATUS")
				a.mustRun("ADD")
				t.Cleanup(func() { a.mustRun("DEL"); a.pod.kill() })
				a.mustRun("CHECK")
				if text, err := json.Marshal(a.journalOf()); err != nil || strings.Contains(string(text), `"gids"`) {
					t.Errorf("the journal speaks of GIDs: %s %v", text, err)
				}
				ends = append(ends, end{pod: a.pod, device: fmt.Sprintf("siw%d", i+1)})
			}
			refusedCM(t, ends[0].pod, "10.9.0.11")
			for _, e := range ends {
				e.pod.siw(e.device, "net1")
			}
			rping(t, ends[0], ends[1], "10.9.0.11")
		})
		host.same(t, before, kind)
	}
}

// Chained behind what made an interface, the plugin finds the iWARP device that is on it, waits for no GID, and says what it is.
func TestPluginIWARPChained(t *testing.T) {
	needSIW(t)
	needShared(t)
	pods, all := chain(t, machine(t), "siw")
	var ends []end
	for i, a := range all {
		a.env = []string{"CNI_ARGS=K8S_POD_UID=0c6a8b52-1f3e-4a57"}
		a.conf["roceToS"] = 106
		a.fails("ADD", 7, "it is iWARP")
		delete(a.conf, "roceToS")
		a.mustRun("ADD")
		a.mustRun("CHECK")
		text, err := os.ReadFile(filepath.Join(a.conf["stateDir"].(string), "pods/0c6a8b52-1f3e-4a57/net1.json"))
		must(t, err)
		if want := fmt.Sprintf(`"rdma":[{"device":"siw%d","iWARP":true,"ports":[{"number":1,"linkLayer":"Ethernet"}]}]`, i); !strings.Contains(string(text), want) {
			t.Errorf("the pod's file lacks %s: %s", want, text)
		}
		ends = append(ends, end{pod: pods[i], device: fmt.Sprintf("siw%d", i)})
	}
	rping(t, ends[0], ends[1], "10.9.0.11")
	for i, a := range all {
		a.mustRun("DEL")
		a.mustRun("DEL")
		if addrs, err := pods[i].link.AddrList(pods[i].get("net1"), netlink.FAMILY_V4); err != nil || len(addrs) != 0 || !pods[i].hasRDMA(fmt.Sprintf("siw%d", i)) {
			t.Errorf("pod %d has the addresses %v after DEL, %v", i, addrs, err)
		}
	}
}

// Where devices are handed to one pod each, one that cannot be is refused, and all is as it was.
func TestPluginIWARPExclusive(t *testing.T) {
	needSIW(t)
	needExclusive(t)
	host := machine(t)
	pods, all := chain(t, host, "siw")
	all[0].fails("ADD", codeRDMA, "hand siw0 over")
	if !host.hasRDMA("siw0") || pods[0].hasRDMA("siw0") {
		t.Error("the device is not where it was")
	}
	all[0].mustRun("DEL")
	fabric := newSpace(t)
	host.cable("r0", fabric, "port0")
	host.siw("siw2", "r0")
	a := attach(t, host, newSpace(t), "net1", map[string]any{"master": "r0", "rdma": "required"})
	a.fails("ADD", codeRDMA, "siw2 is iWARP")
	a.conf["rdma"] = "auto"
	a.mustRun("ADD")
	a.mustRun("DEL")
}

// A software device, of whichever kind, ends as its interface moves: a rail that moves it and requires RDMA is refused before.
func TestPluginSoftwareDeviceMoves(t *testing.T) {
	host, fabric := machine(t), newSpace(t)
	host.cable("r0", fabric, "port0")
	kinds := []string{"rxe"}
	if _, err := os.Stat("/sys/module/siw"); err == nil {
		kinds = append(kinds, "siw")
	}
	for _, kind := range kinds {
		host.software(kind, kind+"0", "r0")
		before := host.state(t)
		a := attach(t, host, newSpace(t), "net1", map[string]any{"kind": "host-device", "device": "r0", "rdma": "required", "ipam": at(t, "10.9.0.11/24")})
		a.fails("ADD", codeRDMA, kind+"0 is a software device")
		a.fails("STATUS", 50, kind+"0 is a software device")
		host.same(t, before, kind)
		if !host.hasRDMA(kind + "0") {
			t.Errorf("the machine has lost %s0", kind)
		}
		a.conf["rdma"] = "auto"
		a.mustRun("ADD")
		a.mustRun("DEL")
		host.same(t, before, kind)
		eventually(t, func() error {
			if host.hasRDMA(kind + "0") {
				return errors.New("the software device has survived")
			}
			return nil
		})
	}
}
