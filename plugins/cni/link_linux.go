// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"cmp"
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

// planLink decides on a link that is made on a master. It changes nothing.
func planLink(s conf.Spec, r conf.RailSpec, m master, id journal.ID) (*journal.Link, error) {
	if parent, ok := m.link.(*netlink.IPoIB); ok {
		s.PKey, s.Mode = cmp.Or(s.PKey, parent.Pkey), cmp.Or(s.Mode, ipoibModeName(parent.Mode))
	}
	mtu, err := m.checkMTU(s.Mode, r.MTU)
	if err != nil {
		return nil, err
	}
	mac := s.MAC
	switch {
	case s.Kind != conf.KindMacvlan && mac != nil:
		return nil, &conf.FieldError{Field: "mac", Detail: fmt.Sprintf("an %s link has its master's address: leave it out", s.Kind)}
	case s.Kind == conf.KindMacvlan && s.Mode == conf.ModePassthru && mac != nil:
		return nil, &conf.FieldError{Field: "mac", Detail: "a passthru link has its master's address: leave it out"}
	case s.Kind != conf.KindMacvlan || s.Mode == conf.ModePassthru:
		mac = m.link.Attrs().HardwareAddr
	case mac == nil:
		mac = deriveMAC(id)
	}
	return &journal.Link{
		Kind: s.Kind, Mode: s.Mode, Name: id.IfName, MAC: mac.String(), MTU: mtu,
		Parent: m.parent(s.Kind), Master: m.name(), PKey: s.PKey,
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

// addLink makes the link in the pod by one request: it appears there with its name, MAC and MTU, IPoIB's MTU apart, and is never
// seen on the host.
func addLink(ctx context.Context, host *netlink.Handle, p *pod, l *journal.Link, m master, queue uint32) error {
	a := netlink.NewLinkAttrs()
	a.Name, a.ParentIndex, a.MTU = l.Name, m.link.Attrs().Index, l.MTU
	a.Namespace = netlink.NsFd(p.ns.Fd())
	busy := unix.EBUSY
	if l.Mode == conf.ModePassthru {
		busy = unix.EINVAL // the master still has a link
	} else if l.Kind == conf.KindMacvlan {
		mac, err := net.ParseMAC(l.MAC)
		if err != nil {
			return err
		}
		a.HardwareAddr = mac
	}
	add := func() error { return host.LinkAdd(newLink(a, l, queue)) }
	err := patiently(ctx, busy, add)
	if err == nil && l.Kind == conf.KindIPoIB {
		return setMTU(p.link, l)
	}
	if !errors.Is(err, unix.EEXIST) {
		return linkError(err, l)
	}
	// Older kernels refuse a name that the host has, though the link is not for the host. Under a name
	// of its own the link is ours until it is renamed.
	if _, err := p.link.LinkByName(l.Name); !linkGone(err) {
		return interfaceExists(l.Name)
	}
	a.Name = passing(l)
	if err := add(); err != nil {
		return linkError(err, l)
	}
	made, err := p.link.LinkByName(a.Name)
	if err != nil {
		return linkError(err, l)
	}
	if err := p.link.LinkSetName(made, l.Name); err != nil || l.Kind != conf.KindIPoIB {
		return linkError(err, l)
	}
	return setMTU(p.link, l)
}

// setMTU is for IPoIB, which makes its links with the largest MTU that their mode allows, whatever the request says (ipoib_ndo_init,
// ipoib_set_mode). Where nothing is planned, that is it.
func setMTU(h *netlink.Handle, l *journal.Link) error {
	link, err := h.LinkByName(l.Name)
	if err != nil {
		return linkError(err, l)
	}
	if l.MTU == 0 {
		l.MTU = link.Attrs().MTU
		return nil
	}
	if err := h.LinkSetMTU(link, l.MTU); err != nil {
		return dispatch.Errorf(dispatch.CodeLink, "give %s the MTU %d, while the port allows %d: %w", l.Name, l.MTU, link.Attrs().MTU, err)
	}
	return nil
}

// passing is a name that no other attachment's link has while it passes from the host to the pod.
func passing(l *journal.Link) string {
	sum := journal.ID{ContainerID: l.MAC, IfName: l.Name}.Sum()
	return fmt.Sprintf("ry%x", sum[:6])
}

// newLink is the link for the kernel.
func newLink(a netlink.LinkAttrs, l *journal.Link, queue uint32) netlink.Link {
	switch l.Kind {
	case conf.KindIPvlan:
		return &netlink.IPVlan{LinkAttrs: a, Mode: ipvlanMode(l.Mode)}
	case conf.KindIPoIB:
		return &netlink.IPoIB{LinkAttrs: a, Pkey: l.PKey, Mode: ipoibMode(l.Mode)}
	default: // nobody plans another
		return &netlink.Macvlan{LinkAttrs: a, Mode: macvlanMode(l.Mode), BCQueueLen: queue}
	}
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
	case l.Kind == conf.KindIPvlan && errors.Is(err, unix.EBUSY):
		return dispatch.Errorf(dispatch.CodeLink, "make %s on %s: %w: ipvlans and macvlans on one master exclude each other, and so do ipvlans and a bridge or bond", l.Name, l.Master, err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return dispatch.Errorf(dispatch.CodeLink, "make %s on %s: %w: this kernel has no %s links, or not on such a master", l.Name, l.Master, err, l.Kind)
	case l.Kind == conf.KindMacvlan && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EBUSY)):
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

func ipvlanMode(mode string) netlink.IPVlanMode {
	switch mode {
	case conf.ModeL3:
		return netlink.IPVLAN_MODE_L3
	case conf.ModeL3S:
		return netlink.IPVLAN_MODE_L3S
	default: // conf.Parse lets no other pass
		return netlink.IPVLAN_MODE_L2
	}
}

func ipoibModeName(mode netlink.IPoIBMode) string {
	if mode == netlink.IPOIB_MODE_CONNECTED {
		return conf.ModeConnected
	}
	return conf.ModeDatagram
}

func ipoibMode(mode string) netlink.IPoIBMode {
	if mode == conf.ModeConnected {
		return netlink.IPOIB_MODE_CONNECTED
	}
	return netlink.IPOIB_MODE_DATAGRAM
}

// delLink removes a link that was made from the pod, wherever the pod has renamed it to. None is fine, and no other
// link is ever taken for it.
func delLink(h *netlink.Handle, l *journal.Link) error {
	link, err := findLink(h, l)
	if link == nil || err != nil {
		return err
	}
	if err := h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return dispatch.Errorf(dispatch.CodeLink, "remove %s from the pod: %w", link.Attrs().Name, err)
	}
	return nil
}

// findLink gives the journal's link, or nil if the pod has it no more.
func findLink(h *netlink.Handle, l *journal.Link) (netlink.Link, error) {
	failed := func(err error) error {
		return dispatch.Errorf(dispatch.CodeLink, "look for %s in the pod: %w", l.Name, err)
	}
	var link netlink.Link
	var err error
	switch {
	case l.Host != nil:
		link, err = h.LinkByName(l.Host.Tag)
	case l.Index != 0:
		link, err = h.LinkByIndex(l.Index)
	default:
		link, err = h.LinkByName(l.Name)
	}
	switch {
	case err != nil && !linkGone(err):
		return nil, failed(err)
	case err == nil && (l.Host != nil || l.Index != 0 && sameKind(link, l) || ours(link, l)):
		return link, nil
	case l.Host != nil || l.Index != 0 || l.Kind == conf.KindChained:
		return nil, nil //nolint:nilnil // none is an answer
	}
	all, err := h.LinkList()
	if err != nil {
		return nil, failed(err)
	}
	for _, link := range all {
		if ours(link, l) {
			return link, nil
		}
	}
	return nil, nil //nolint:nilnil // none is an answer
}

// sameKind says that the link can be the journal's: an index is used again once its link is gone.
func sameKind(link netlink.Link, l *journal.Link) bool {
	return l.Kind == conf.KindChained || link.Type() == l.Kind
}

// ours says that the link is the journal's, by what was known of it before it was made.
func ours(link netlink.Link, l *journal.Link) bool {
	a := link.Attrs()
	switch {
	case l.Kind == conf.KindChained:
		return a.Name == l.Name
	case link.Type() != l.Kind || l.Parent != 0 && a.ParentIndex != l.Parent:
		return false
	case l.Kind == conf.KindMacvlan:
		return a.HardwareAddr.String() == l.MAC
	}
	return a.Name == l.Name || a.Name == passing(l)
}

// compareLink says how the link differs from the journal.
func compareLink(link netlink.Link, l *journal.Link) error {
	differ := func(what string, is, was any) error {
		return fmt.Errorf("%s has the %s %v, it was made with %v", l.Name, what, is, was)
	}
	a := link.Attrs()
	var errs []error
	if a.Name != l.Name {
		errs = append(errs, differ("name", a.Name, l.Name))
	}
	if is := modeOf(link); is != "" && l.Host == nil && l.Kind != conf.KindChained && is != modeOf(newLink(*a, l, 0)) {
		errs = append(errs, differ("mode", is, l.Mode))
	}
	if a.MTU != l.MTU {
		errs = append(errs, differ("MTU", a.MTU, l.MTU))
	}
	if a.HardwareAddr.String() != l.MAC {
		errs = append(errs, differ("MAC", a.HardwareAddr, l.MAC))
	}
	if a.ParentIndex != l.Parent && l.Parent != 0 {
		errs = append(errs, differ("parent link", a.ParentIndex, l.Parent))
	}
	if a.Flags&net.FlagUp == 0 {
		errs = append(errs, fmt.Errorf("%s is down", l.Name))
	}
	return errors.Join(errs...)
}

// modeOf is the mode of a link of a kind with modes, or empty.
func modeOf(link netlink.Link) string {
	switch l := link.(type) {
	case *netlink.Macvlan:
		return fmt.Sprint(l.Mode)
	case *netlink.IPVlan:
		return fmt.Sprint(l.Mode)
	case *netlink.IPoIB:
		return fmt.Sprintf("%s of partition %#x", ipoibModeName(l.Mode), l.Pkey|0x8000) // with the bit of full membership that the kernel sets
	}
	return ""
}
