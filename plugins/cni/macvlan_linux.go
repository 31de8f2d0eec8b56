// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// planMacvlan decides on the link. It changes nothing.
func planMacvlan(s conf.Spec, m master, id journal.ID) (*journal.Link, error) {
	mtu, err := m.checkMTU(s.MTU)
	if err != nil {
		return nil, err
	}
	mac := s.MAC
	switch {
	case s.Mode == conf.ModePassthru && mac != nil:
		return nil, &conf.FieldError{Field: "mac", Detail: "a passthru link has its master's address: leave it out"}
	case s.Mode == conf.ModePassthru:
		mac = m.link.Attrs().HardwareAddr
	case mac == nil:
		mac = deriveMAC(id)
	}
	return &journal.Link{
		Kind: conf.KindMacvlan, Mode: s.Mode, Name: id.IfName, MAC: mac.String(), MTU: mtu,
		Parent: m.parent(), Master: m.name(),
	}, nil
}

// deriveMAC is the attachment's own address, locally administered: known before the link is, so that the
// journal can name it, and the same if the ADD is repeated.
func deriveMAC(id journal.ID) net.HardwareAddr {
	sum := id.Sum()
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^1 | 2
	return mac
}

// addMacvlan makes the link in the pod by one request: it appears there with its name, MAC and MTU, and is never seen
// on the host.
func addMacvlan(ctx context.Context, host *netlink.Handle, p *pod, l *journal.Link, m master, queue uint32) error {
	a := netlink.NewLinkAttrs()
	a.Name, a.ParentIndex, a.MTU = l.Name, m.link.Attrs().Index, l.MTU
	a.Namespace = netlink.NsFd(p.ns.Fd())
	if l.Mode != conf.ModePassthru {
		mac, err := net.ParseMAC(l.MAC)
		if err != nil {
			return err
		}
		a.HardwareAddr = mac
	}
	link := &netlink.Macvlan{LinkAttrs: a, Mode: macvlanMode(l.Mode), BCQueueLen: queue}
	busy := unix.EBUSY
	if l.Mode == conf.ModePassthru {
		busy = unix.EINVAL // the master still has a link
	}
	err := patiently(ctx, busy, func() error { return host.LinkAdd(link) })
	if !errors.Is(err, unix.EEXIST) {
		return linkError(err, l)
	}
	// Older kernels refuse a name that the host has, though the link is not for the host. Under a name
	// of its own the link is ours by its MAC until it is renamed.
	if _, err := p.link.LinkByName(l.Name); !linkGone(err) {
		return interfaceExists(l.Name)
	}
	link.Index, link.Name = 0, "ry"+l.MAC[0:2]+l.MAC[3:5]+l.MAC[6:8]+l.MAC[9:11]+l.MAC[12:14]+l.MAC[15:17]
	if err := host.LinkAdd(link); err != nil {
		return linkError(err, l)
	}
	made, err := p.link.LinkByName(link.Name)
	if err != nil {
		return linkError(err, l)
	}
	if err := p.link.LinkSetName(made, l.Name); err != nil {
		return linkError(err, l)
	}
	return nil
}

// patiently repeats f while it fails with busy, for a while: a namespace that has just ended gives its links back
// some time later, and with them their MACs and a passthru link's master.
func patiently(ctx context.Context, busy unix.Errno, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, deadLinkWait)
	defer cancel()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := f()
		if !errors.Is(err, busy) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

func linkError(err error, l *journal.Link) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EBUSY):
		return dispatch.Errorf(dispatch.CodeLink, "make %s on %s: %w: a passthru link and any other on one master exclude each other, and so do macvlans and a bridge or bond", l.Name, l.Master, err)
	}
	return dispatch.Errorf(dispatch.CodeLink, "make %s on %s: %w", l.Name, l.Master, err)
}

func interfaceExists(name string) error {
	return dispatch.Errorf(dispatch.CodeInterfaceExists, "the pod has an interface %s already: ask for another name", name)
}

func macvlanMode(mode string) netlink.MacvlanMode {
	switch mode {
	case conf.ModePrivate:
		return netlink.MACVLAN_MODE_PRIVATE
	case conf.ModeVEPA:
		return netlink.MACVLAN_MODE_VEPA
	case conf.ModePassthru:
		return netlink.MACVLAN_MODE_PASSTHRU
	default: // conf.Parse lets no other pass
		return netlink.MACVLAN_MODE_BRIDGE
	}
}

// delMacvlan removes the link from the pod, wherever the pod has renamed it to. None is fine, and no other link is
// ever taken for it.
func delMacvlan(h *netlink.Handle, l *journal.Link) error {
	link, err := findMacvlan(h, l)
	if link == nil || err != nil {
		return err
	}
	if err := h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return dispatch.Errorf(dispatch.CodeLink, "remove %s from the pod: %w", link.Attrs().Name, err)
	}
	return nil
}

// findMacvlan gives the journal's link, or nil if the pod has it no more.
func findMacvlan(h *netlink.Handle, l *journal.Link) (*netlink.Macvlan, error) {
	var link netlink.Link
	var err error
	if l.Index != 0 {
		link, err = h.LinkByIndex(l.Index)
	} else {
		link, err = h.LinkByName(l.Name)
	}
	if err != nil && !linkGone(err) {
		return nil, dispatch.Errorf(dispatch.CodeLink, "look for %s in the pod: %w", l.Name, err)
	}
	if m, ok := link.(*netlink.Macvlan); ok && (l.Index != 0 || ours(m, l)) {
		return m, nil
	}
	if l.Index != 0 {
		return nil, nil //nolint:nilnil // none is an answer
	}
	all, err := h.LinkList()
	if err != nil {
		return nil, dispatch.Errorf(dispatch.CodeLink, "look for %s in the pod: %w", l.Name, err)
	}
	for _, link := range all {
		if m, ok := link.(*netlink.Macvlan); ok && ours(m, l) {
			return m, nil
		}
	}
	return nil, nil //nolint:nilnil // none is an answer
}

func ours(m *netlink.Macvlan, l *journal.Link) bool {
	return m.HardwareAddr.String() == l.MAC && (l.Parent == 0 || m.ParentIndex == l.Parent)
}

// compareMacvlan says how the link differs from the journal.
func compareMacvlan(m *netlink.Macvlan, l *journal.Link) error {
	differ := func(what string, is, was any) error {
		return fmt.Errorf("%s has the %s %v, it was made with %v", l.Name, what, is, was)
	}
	var errs []error
	if m.Name != l.Name {
		errs = append(errs, differ("name", m.Name, l.Name))
	}
	if m.Mode != macvlanMode(l.Mode) {
		errs = append(errs, differ("mode", m.Mode, l.Mode))
	}
	if m.MTU != l.MTU {
		errs = append(errs, differ("MTU", m.MTU, l.MTU))
	}
	if m.HardwareAddr.String() != l.MAC {
		errs = append(errs, differ("MAC", m.HardwareAddr, l.MAC))
	}
	if m.ParentIndex != l.Parent {
		errs = append(errs, differ("parent link", m.ParentIndex, l.Parent))
	}
	if m.Flags&net.FlagUp == 0 {
		errs = append(errs, fmt.Errorf("%s is down", l.Name))
	}
	return errors.Join(errs...)
}
