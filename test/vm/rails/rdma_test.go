//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const class = "/sys/class/infiniband"

// rxe makes a software RoCE device on a link.
func (s *space) rxe(name, link string) {
	s.t.Helper()
	s.software("rxe", name, link)
}

// software makes a software RDMA device of a type on a link; it is always made in the machine's namespace, wherever the link is. It ends
// with its link, or with the test.
func (s *space) software(kind, name, link string) {
	s.t.Helper()
	eventually(s.t, func() error {
		err := s.link.RdmaLinkAdd(name, kind, link)
		if err != nil && !errors.Is(err, unix.ENFILE) { // that one says that the name is not free yet: the last one is on its way out
			s.t.Fatalf("make %s %s on %s: %v", kind, name, link, err)
		}
		return err
	})
	host := machine(s.t)
	s.t.Cleanup(func() {
		if host.hasRDMA(name) {
			must(s.t, host.link.RdmaLinkDel(name))
		}
	})
}

// hasRDMA says that the namespace sees the RDMA device.
func (s *space) hasRDMA(name string) bool {
	s.t.Helper()
	all, err := s.link.RdmaLinkList()
	must(s.t, err)
	for _, l := range all {
		if l.Attrs.Name == name {
			return true
		}
	}
	return false
}

// moveRDMA moves an RDMA device from this namespace into another. It does so on a thread of this namespace: the kernel looks for the device in
// that of the thread, not of the socket.
func (s *space) moveRDMA(name string, to *space) error {
	s.t.Helper()
	return s.do(func() error { return s.moveRDMAFromOutside(name, to) })
}

func (s *space) moveRDMAFromOutside(name string, to *space) error {
	l, err := s.link.RdmaLinkByName(name)
	if err != nil {
		return err
	}
	return s.link.RdmaLinkSetNsFd(l, uint32(to.ns.Fd()))
}

// gid is an entry of an RDMA device's table of addresses.
type gid struct {
	index int
	addr  netip.Addr // an IPv4 address is mapped into IPv6
	link  string     // whose address it is, by its present name
}

// gids gives the table of a device's port in the machine's /sys. rxe's has 1024 entries, the first ones used.
func gids(device string) ([]gid, error) {
	port := filepath.Join(class, device, "ports/1")
	var out []gid
	for i := range 32 {
		text, err := os.ReadFile(filepath.Join(port, "gids", fmt.Sprint(i)))
		if err != nil {
			return nil, err
		}
		a, err := netip.ParseAddr(strings.TrimSpace(string(text)))
		if err != nil {
			return nil, err
		}
		if a == netip.IPv6Unspecified() {
			continue
		}
		link, err := os.ReadFile(filepath.Join(port, "gid_attrs/ndevs", fmt.Sprint(i)))
		if err != nil { // removed meanwhile
			continue
		}
		out = append(out, gid{i, a, strings.TrimSpace(string(link))})
	}
	return out, nil
}

// waitGID waits for an address in a device's table and gives its entry.
func waitGID(t testing.TB, device, addr string) gid {
	t.Helper()
	want := netip.AddrFrom16(netip.MustParseAddr(addr).As16())
	var found gid
	eventually(t, func() error {
		all, err := gids(device)
		if err != nil {
			return err
		}
		for _, g := range all {
			if g.addr == want {
				found = g
				return nil
			}
		}
		return fmt.Errorf("%s has no GID %s; it has %v", device, want, all)
	})
	return found
}

// parents are the kinds of link on which an rxe can be; each function makes one called name.
func parents() map[string]func(host *space, name string) {
	return map[string]func(*space, string){
		"dummy": func(host *space, name string) { host.add(&netlink.Dummy{LinkAttrs: attrs(name)}) },
		"veth": func(host *space, name string) {
			host.add(&netlink.Veth{LinkAttrs: attrs(name), PeerName: name + "p"})
		},
		"macvlan": func(host *space, name string) {
			a := attrs(name)
			a.ParentIndex = host.add(&netlink.Dummy{LinkAttrs: attrs(name + "m")}).Attrs().Index
			host.add(&netlink.Macvlan{LinkAttrs: a, Mode: netlink.MACVLAN_MODE_BRIDGE})
		},
	}
}

// podGID is the index of an address in the table of a device that only the pod sees, by a /sys of the pod's own.
func podGID(t testing.TB, pod *space, device, addr string) int {
	t.Helper()
	want := netip.AddrFrom16(netip.MustParseAddr(addr).As16()).StringExpanded()
	index := -1
	eventually(t, func() error {
		return pod.do(func() error {
			line := fmt.Sprintf("mount -t sysfs sysfs /sys && cd /sys/class/infiniband/%s/ports/1/gids && for i in 0 1 2 3 4 5 6 7; do echo $i $(cat $i); done", device)
			cmd := exec.Command("sh", "-c", line)
			cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
			out, err := cmd.CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			for l := range strings.Lines(string(out)) {
				f := strings.Fields(l)
				if len(f) == 2 && f[1] == want {
					index, err = strconv.Atoi(f[0])
					return err
				}
			}
			return fmt.Errorf("%s has no GID %s: %s", device, want, out)
		})
	})
	return index
}
