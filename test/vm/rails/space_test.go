//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"fmt"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/test/thread"
)

// space is a network namespace: the machine's own, or a fresh one that lives until the test ends, or until kill.
type space struct {
	t    testing.TB
	ns   *os.File
	path string          // for CNI_NETNS
	link *netlink.Handle // of links, addresses and RDMA devices
}

// newSpace makes a namespace whose loopback is up.
func newSpace(t testing.TB) *space {
	t.Helper()
	s := &space{t: t}
	var err error
	s.ns, err = thread.NewNetNS(s.open)
	must(t, err)
	t.Cleanup(s.kill)
	s.path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.ns.Fd())
	must(t, s.link.LinkSetUp(s.get("lo")))
	return s
}

// machine is the namespace in which the machine's devices are.
func machine(t testing.TB) *space {
	t.Helper()
	s := &space{t: t, path: "/proc/1/ns/net"}
	var err error
	s.ns, err = os.Open(s.path)
	must(t, err)
	t.Cleanup(s.kill)
	must(t, s.do(s.open))
	return s
}

// open opens the handle in the namespace of the calling thread.
func (s *space) open() (err error) {
	s.link, err = netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_RDMA)
	return err
}

// kill lets go of the namespace. A fresh one ends by it, some time later.
func (s *space) kill() {
	if s.ns != nil {
		if s.link != nil {
			_ = s.link.Close()
		}
		_ = s.ns.Close()
		s.ns = nil
	}
}

// do calls f on a thread inside of the namespace; programs that f starts are in it too.
func (s *space) do(f func() error) error { return thread.In(s.ns, f) }

func (s *space) get(name string) netlink.Link {
	s.t.Helper()
	l, err := s.link.LinkByName(name)
	if err != nil {
		s.t.Fatalf("link %s: %v", name, err)
	}
	return l
}

func (s *space) has(name string) bool {
	_, err := s.link.LinkByName(name)
	return err == nil
}

// address gives the link an address that is usable at once, and sets it up.
func (s *space) address(name, prefix string) {
	s.t.Helper()
	a, err := netlink.ParseAddr(prefix)
	must(s.t, err)
	a.Flags = unix.IFA_F_NODAD
	l := s.get(name)
	must(s.t, s.link.AddrAdd(l, a))
	must(s.t, s.link.LinkSetUp(l))
}

// add adds a link, which is removed when the test ends if it is then still here.
func (s *space) add(l netlink.Link) netlink.Link {
	s.t.Helper()
	if err := s.link.LinkAdd(l); err != nil {
		s.t.Fatalf("add %s %s: %v", l.Type(), l.Attrs().Name, err)
	}
	name := l.Attrs().Name
	s.t.Cleanup(func() {
		if s.ns == nil { // it went with the namespace
			return
		}
		if l, err := s.link.LinkByName(name); err == nil {
			must(s.t, s.link.LinkDel(l))
		}
	})
	return s.get(name)
}

// cable adds a pair of veth with one end here and one there, both up.
func (s *space) cable(name string, there *space, peer string) {
	s.t.Helper()
	s.add(&netlink.Veth{LinkAttrs: attrs(name), PeerName: peer, PeerNamespace: netlink.NsFd(there.ns.Fd())})
	must(s.t, s.link.LinkSetUp(s.get(name)))
	must(s.t, there.link.LinkSetUp(there.get(peer)))
}

// macvlan adds a link on a parent of this namespace and moves it into the pod.
func (s *space) macvlan(parent, name string, pod *space) {
	s.t.Helper()
	a := attrs(name)
	a.ParentIndex = s.get(parent).Attrs().Index
	a.Namespace = netlink.NsFd(pod.ns.Fd())
	must(s.t, s.link.LinkAdd(&netlink.Macvlan{LinkAttrs: a, Mode: netlink.MACVLAN_MODE_BRIDGE}))
}

func attrs(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}
