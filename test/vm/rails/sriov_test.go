//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// nic is an igb with virtual functions.
type nic struct {
	host *space
	pci  string // address
	name string // link
	dir  string // in /sys
}

// nics are the machine's, in the order of their NUMA nodes: 0 and 1. Their names are in no order.
func nics(t testing.TB) []nic {
	t.Helper()
	found, err := filepath.Glob("/sys/bus/pci/drivers/igb/*/sriov_totalvfs")
	must(t, err)
	var out []nic
	for _, f := range found { // Glob sorts, and node 0 has the lower buses
		dir := filepath.Dir(f)
		links, err := os.ReadDir(filepath.Join(dir, "net"))
		must(t, err)
		if len(links) != 1 {
			t.Fatalf("%s has %d links", dir, len(links))
		}
		out = append(out, nic{machine(t), filepath.Base(dir), links[0].Name(), dir})
	}
	if len(out) != 2 {
		t.Fatalf("the machine has %d NICs, want 2", len(out))
	}
	return out
}

// vf is a virtual function.
type vf struct {
	pci, name string
}

// virtual gives the NIC n virtual functions with links, until the test ends.
func (n nic) virtual(t testing.TB, count int) []vf {
	t.Helper()
	file := filepath.Join(n.dir, "sriov_numvfs")
	must(t, n.host.link.LinkSetUp(n.host.get(n.name)))
	t.Cleanup(func() { must(t, os.WriteFile(file, []byte("0"), 0)) })
	must(t, os.WriteFile(file, []byte(strconv.Itoa(count)), 0))
	var out []vf
	for i := range count {
		dir, err := filepath.EvalSymlinks(filepath.Join(n.dir, fmt.Sprint("virtfn", i)))
		must(t, err)
		eventually(t, func() error {
			links, err := os.ReadDir(filepath.Join(dir, "net"))
			if err == nil && len(links) == 1 {
				out = append(out, vf{filepath.Base(dir), links[0].Name()})
				return nil
			}
			return errors.Join(err, fmt.Errorf("virtual function %d has no link", i))
		})
	}
	return out
}

// move moves a link into another namespace under a new name, in one request.
func (s *space) move(name string, to *space, as string) error {
	s.t.Helper()
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(s.get(name).Attrs().Index)
	return s.do(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
		req.AddData(msg)
		req.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(to.ns.Fd()))))
		req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(as)))
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

// byPCI gives the link of a PCI device.
func (s *space) byPCI(pci string) (netlink.Link, error) {
	all, err := s.link.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range all {
		if a := l.Attrs(); a.ParentDevBus == "pci" && a.ParentDev == pci {
			return l, nil
		}
	}
	return nil, fmt.Errorf("no link is of %s", pci)
}

func TestTopology(t *testing.T) {
	for i, n := range nics(t) {
		node, err := os.ReadFile(filepath.Join(n.dir, "numa_node"))
		must(t, err)
		if got := strings.TrimSpace(string(node)); got != fmt.Sprint(i) {
			t.Errorf("NIC %s is of node %s, want %d", n.pci, got, i)
		}
		if l, err := n.host.byPCI(n.pci); err != nil || l.Attrs().Name != n.name {
			t.Errorf("by netlink, %s is %v, %v; want %s", n.pci, l, err, n.name)
		}
	}
	gpus, err := filepath.Glob("/sys/class/nvme/*/serial")
	must(t, err)
	want := map[string]string{"gpu0": "0", "gpu1": "0", "gpu2": "1"}
	for _, g := range gpus {
		serial, err := os.ReadFile(g)
		must(t, err)
		node, err := os.ReadFile(filepath.Join(filepath.Dir(g), "device/numa_node"))
		must(t, err)
		name := strings.TrimSpace(string(serial))
		if got := strings.TrimSpace(string(node)); got != want[name] {
			t.Errorf("%s is of node %q, want %q", name, got, want[name])
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("not there: %v", want)
	}
}

// The parts share the functions, because making them takes seconds. Each part has one to itself.
func TestSRIOV(t *testing.T) {
	n := nics(t)[0]
	vfs := n.virtual(t, 4)
	t.Run("identity", func(t *testing.T) {
		for i, v := range vfs {
			testIdentity(t, n, i, v)
		}
	})
	t.Run("number is fixed", func(t *testing.T) { // it changes by way of 0 alone
		if err := os.WriteFile(filepath.Join(n.dir, "sriov_numvfs"), []byte("3"), 0); !errors.Is(err, unix.EBUSY) {
			t.Errorf("from 4 to 3: %v, want EBUSY", err)
		}
	})
	t.Run("attributes", func(t *testing.T) { testAttributes(t, n, 1) })
	t.Run("refused attributes", func(t *testing.T) { testRefusedAttributes(t, n, 1) })
	t.Run("move", func(t *testing.T) { testMove(t, n, vfs[2]) })
	t.Run("return to a taken name", func(t *testing.T) { testReturnToTakenName(t, n, vfs[3]) })
}

func testIdentity(t *testing.T, n nic, i int, v vf) {
	l, err := n.host.byPCI(v.pci)
	must(t, err)
	if l.Attrs().Name != v.name {
		t.Errorf("virtual function %d is %s by netlink, %s in /sys", i, l.Attrs().Name, v.name)
	}
	pf, err := filepath.EvalSymlinks(filepath.Join("/sys/bus/pci/devices", v.pci, "physfn"))
	must(t, err)
	if filepath.Base(pf) != n.pci {
		t.Errorf("the physical function of %s is %s, want %s", v.pci, pf, n.pci)
	}
}

// A physical function is told what its virtual ones may; what it tells of them is what it was told. A rate it takes only while it has
// a carrier, for it is measured by that.
func testAttributes(t *testing.T, n nic, i int) {
	pf, h := n.host.get(n.name), n.host.link
	for what, err := range map[string]error{
		"mac":       h.LinkSetVfHardwareAddr(pf, i, []byte{2, 0, 0, 0, 0, 0x10}),
		"vlan, qos": h.LinkSetVfVlanQos(pf, i, 100, 3),
		"spoofchk":  h.LinkSetVfSpoofchk(pf, i, false),
		"trust":     h.LinkSetVfTrust(pf, i, true),
	} {
		if err != nil {
			t.Errorf("set %s: %v", what, err)
		}
	}
	eventually(t, func() error { return h.LinkSetVfRate(pf, i, 0, 100) })
	got := n.host.get(n.name).Attrs().Vfs
	if len(got) != 4 {
		t.Fatalf("netlink tells of %d virtual functions, want 4", len(got))
	}
	if v := got[i]; v.ID != i || v.Mac.String() != "02:00:00:00:00:10" || v.Vlan != 100 || v.Qos != 3 || v.Spoofchk || v.Trust != 1 || v.MaxTxRate != 100 {
		t.Errorf("netlink tells %+v", v)
	}
}

// What igb does not take, other NICs do; the errors are those a plugin meets.
func testRefusedAttributes(t *testing.T, n nic, i int) {
	pf, h := n.host.get(n.name), n.host.link
	for what, tt := range map[string]struct{ got, want error }{
		"min_tx_rate": {h.LinkSetVfRate(pf, i, 10, 100), unix.EINVAL},
		"vlan proto":  {h.LinkSetVfVlanQosProto(pf, i, 100, 3, unix.ETH_P_8021AD), unix.EPROTONOSUPPORT},
		"state":       {h.LinkSetVfState(pf, i, netlink.VF_LINK_STATE_ENABLE), unix.EOPNOTSUPP},
	} {
		if !errors.Is(tt.got, tt.want) {
			t.Errorf("set %s: %v, want %v", what, tt.got, tt.want)
		}
	}
}

// A virtual function keeps its altnames on the way into a pod and back. It returns under the name it had in the pod.
func testMove(t *testing.T, n nic, v vf) {
	pod, alt := newSpace(t), "railyard-was-"+v.name
	must(t, n.host.link.LinkAddAltName(n.host.get(v.name), alt))
	must(t, n.host.move(v.name, pod, "net1"))
	moved, err := pod.byPCI(v.pci)
	must(t, err)
	if a := moved.Attrs(); a.Name != "net1" || !slices.Contains(a.AltNames, alt) {
		t.Errorf("in the pod it is %s with altnames %v", a.Name, a.AltNames)
	}
	if n.host.has(v.name) {
		t.Errorf("the machine still has %s", v.name)
	}
	pod.kill()
	n.waitBack(t, v, func(a *netlink.LinkAttrs) error {
		if a.Name != "net1" || !slices.Contains(a.AltNames, alt) {
			return fmt.Errorf("it came back as %s with altnames %v", a.Name, a.AltNames)
		}
		return nil
	})
}

// Where the machine has a link of the name that a virtual function had in its pod, it returns as dev and a number.
func testReturnToTakenName(t *testing.T, n nic, v vf) {
	pod := newSpace(t)
	must(t, n.host.move(v.name, pod, "net2"))
	n.host.add(&netlink.Dummy{LinkAttrs: attrs("net2")})
	pod.kill()
	n.waitBack(t, v, func(a *netlink.LinkAttrs) error {
		if !strings.HasPrefix(a.Name, "dev") {
			return fmt.Errorf("it came back as %s", a.Name)
		}
		return nil
	})
}

// waitBack waits until a virtual function is the machine's again, and has check judge its link.
func (n nic) waitBack(t testing.TB, v vf, check func(*netlink.LinkAttrs) error) {
	t.Helper()
	var back netlink.Link
	eventually(t, func() (err error) {
		back, err = n.host.byPCI(v.pci)
		return err
	})
	must(t, check(back.Attrs()))
}
