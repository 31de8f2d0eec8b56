// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// master is the link on the host that an attachment stands on.
type master struct {
	link netlink.Link
	// bus is its PCI address or the name of its auxiliary device, and pci the former; both may be empty.
	bus, pci string
}

func (m master) name() string { return m.link.Attrs().Name }
func (m master) mtu() int     { return m.link.Attrs().MTU }

// parent is the index that a macvlan on this master shows as its parent's: the kernel puts a macvlan on a macvlan
// beside it, on the same device below (macvlan_common_newlink).
func (m master) parent(kind string) int {
	if a := m.link.Attrs(); kind == conf.KindMacvlan && m.link.Type() == "macvlan" && a.ParentIndex != 0 {
		return a.ParentIndex
	}
	return m.link.Attrs().Index
}

// findMaster resolves a rail's master.
func findMaster(h *netlink.Handle, sys fs.FS, s conf.Spec, r conf.RailSpec) (master, error) {
	var name string
	var err error
	switch {
	case conf.IsPCI(r.Master):
		name, err = byBus(sys, "pci", "master", r.Master)
	case r.Master != "":
		name = r.Master
	case s.DevicePCI != "":
		name, err = byBus(sys, "pci", "deviceID", s.DevicePCI)
	default:
		m, err := defaultMaster(h, sys)
		return m, errors.Join(err, m.checkKind(s.Kind))
	}
	if err != nil {
		return master{}, err
	}
	link, err := h.LinkByName(name)
	switch {
	case linkGone(err):
		return master{}, dispatch.Errorf(dispatch.CodeMaster, "master: the host has no link %s: write a link's name, an alternative name or a PCI address of this node", name)
	case err != nil:
		return master{}, dispatch.Errorf(dispatch.CodeMaster, "master: look for %s: %w", name, err)
	}
	m := newMaster(link, sys)
	return m, m.checkKind(s.Kind)
}

func newMaster(link netlink.Link, sys fs.FS) master {
	m := master{link: link, bus: link.Attrs().ParentDev}
	if target, err := fs.ReadLink(sys, path.Join("class/net", m.name(), "device")); err == nil {
		m.bus = path.Base(target)
	}
	if conf.IsPCI(m.bus) {
		m.pci = m.bus
	}
	return m
}

// checkKind refuses a master on which no such link can stand.
func (m master) checkKind(kind string) error {
	if m.link == nil {
		return nil
	}
	a, encap := m.link.Attrs(), "ether"
	if kind == conf.KindIPoIB {
		encap = "infiniband"
	}
	switch {
	case a.EncapType == encap && a.Flags&net.FlagLoopback == 0:
		return nil
	case kind == conf.KindIPoIB:
		return dispatch.Errorf(dispatch.CodeConfig, "master: %s is no InfiniBand link (%s): write kind %s or %s for Ethernet", a.Name, a.EncapType, conf.KindMacvlan, conf.KindIPvlan)
	case a.EncapType == "infiniband":
		return dispatch.Errorf(dispatch.CodeConfig, "master: %s is no Ethernet link (%s): write kind %s for it", a.Name, a.EncapType, conf.KindIPoIB)
	}
	return dispatch.Errorf(dispatch.CodeConfig, "master: %s is no Ethernet link (%s): %s stands on Ethernet only", a.Name, a.EncapType, kind)
}

// byBus is the name of the one link of a PCI function or an auxiliary device.
func byBus(sys fs.FS, bus, field, address string) (string, error) {
	device := path.Join("bus", bus, "devices", address)
	entries, err := fs.ReadDir(sys, path.Join(device, "net"))
	switch {
	case err == nil && len(entries) == 0, errors.Is(err, fs.ErrNotExist):
		if _, err := fs.Stat(sys, device); errors.Is(err, fs.ErrNotExist) {
			return "", dispatch.Errorf(dispatch.CodeMaster, "%s: the host has no device %s", field, address)
		}
		return "", dispatch.Errorf(dispatch.CodeMaster, "%s: %s has no network link on the host: a pod has it, or its driver is not loaded, or makes none, as for a function for RDMA alone", field, address)
	case err != nil:
		return "", dispatch.Errorf(dispatch.CodeMaster, "%s: look for the link of %s: %w", field, address, err)
	case len(entries) != 1:
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return "", dispatch.Errorf(dispatch.CodeMaster, "%s: %s has the links %v: name one of them", field, address, names)
	}
	return entries[0].Name(), nil
}

// defaultMaster is the link of the default route, IPv4's before IPv6's, the one with the least metric.
func defaultMaster(h *netlink.Handle, sys fs.FS) (master, error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return master{}, dispatch.Errorf(dispatch.CodeMaster, "master: look for the default route: %w", err)
		}
		var best *netlink.Route
		for i, r := range routes {
			if r.Dst != nil {
				if ones, _ := r.Dst.Mask.Size(); ones != 0 || !r.Dst.IP.IsUnspecified() {
					continue
				}
			}
			if index(r) != 0 && (best == nil || r.Priority < best.Priority) {
				best = &routes[i]
			}
		}
		if best == nil {
			continue
		}
		link, err := h.LinkByIndex(index(*best))
		if err != nil {
			return master{}, dispatch.Errorf(dispatch.CodeMaster, "master: look for the default route's link: %w", err)
		}
		return newMaster(link, sys), nil
	}
	return master{}, dispatch.Errorf(dispatch.CodeMaster, "master: is empty and the host has no default route: name a link")
}

func index(r netlink.Route) int {
	if r.LinkIndex == 0 && len(r.MultiPath) > 0 {
		return r.MultiPath[0].LinkIndex
	}
	return r.LinkIndex
}

// bringUp makes sure that the master is up.
func (m master) bringUp(h *netlink.Handle) error {
	if m.link.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	if err := h.LinkSetUp(m.link); err != nil {
		return dispatch.Errorf(dispatch.CodeMaster, "master: %s is down and cannot be brought up: %w", m.name(), err)
	}
	return nil
}

// maxConnectedMTU is that of an IPoIB link in connected mode (IPOIB_CM_MTU). In datagram mode it is the port's.
const maxConnectedMTU = 65520

// checkMTU gives the MTU of a link on the master. An IPoIB link in another mode than its master is not bound to that one's: it is 0 then if
// none is asked for, and the kernel decides.
func (m master) checkMTU(mode string, want int) (int, error) {
	parent, ipoib := m.link.(*netlink.IPoIB)
	switch {
	case ipoib && mode != "" && mode != ipoibModeName(parent.Mode):
		if want > maxConnectedMTU {
			return 0, &conf.FieldError{Field: "mtu", Detail: fmt.Sprintf("is %d, more than the %d of IPoIB's connected mode", want, maxConnectedMTU)}
		}
		return want, nil
	case want == 0:
		return m.mtu(), nil
	case want > m.mtu():
		return 0, &conf.FieldError{Field: "mtu", Detail: fmt.Sprintf(
			"is %d, more than the %d of master %s: write at most that, or raise the master's", want, m.mtu(), m.name())}
	}
	return want, nil
}
