// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// set writes settings in the pod.
func (p *pod) set(list []journal.Sysctl) error {
	if len(list) == 0 {
		return nil
	}
	return p.do(func() error {
		for _, s := range list {
			err := writeSysctl(s.Path, s.Value)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return dispatch.Errorf(dispatch.CodeSysctl, "set %s: this kernel does not have the setting, or not that protocol: %w", s.Path, err)
			case err != nil:
				return dispatch.Errorf(dispatch.CodeSysctl, "set %s to %q: %w", s.Path, s.Value, err)
			}
		}
		return nil
	})
}

// address gives the link its addresses and brings it up, in the order that makes the kernel announce them.
func (p *plugin) address(ctx context.Context, pod *pod, link netlink.Link, ips []*current.IPConfig) error {
	name := link.Attrs().Name
	for _, c := range ips {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: c.Address.IP, Mask: c.Address.Mask}}
		if c.Address.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := pod.link.AddrAdd(link, addr); err != nil {
			return dispatch.Errorf(dispatch.CodeAddress, "add the address %s to %s: %w", addr.IPNet, name, err)
		}
	}
	p.Hit("add:addressed")
	if err := p.bringUp(ctx, pod, link); err != nil {
		return err
	}
	p.Hit("add:up")
	return nil
}

func (p *plugin) bringUp(ctx context.Context, pod *pod, link netlink.Link) error {
	name := link.Attrs().Name
	err := patiently(ctx, unix.EADDRINUSE, func() error { return pod.link.LinkSetUp(link) })
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return dispatch.Errorf(dispatch.CodeLink, "bring %s up: its MAC %s is in use on the same master: %w", name, link.Attrs().HardwareAddr, err)
	case err != nil:
		return dispatch.Errorf(dispatch.CodeLink, "bring %s up: %w", name, err)
	}
	return nil
}

// route adds routes over the link and gives those that it added: of two to one destination the pod keeps the first, as
// with the reference plugins, since two attachments may well want the same.
func (p *plugin) route(pod *pod, link netlink.Link, routes []*types.Route) ([]*types.Route, error) {
	name := link.Attrs().Name
	var added []*types.Route
	for _, r := range routes {
		switch err := pod.link.RouteAdd(kernelRoute(link, r)); {
		case errors.Is(err, unix.EEXIST):
			p.Log.Info("the pod has a route to that destination and keeps it", "dst", r.Dst.String(), "via", r.GW, "link", name)
		case err != nil:
			return nil, dispatch.Errorf(dispatch.CodeRoute, "add the route to %s via %s on %s: %w", &r.Dst, r.GW, name, err)
		default:
			added = append(added, r)
		}
	}
	p.Hit("add:routed")
	return added, nil
}

func kernelRoute(link netlink.Link, r *types.Route) *netlink.Route {
	out := &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: &net.IPNet{IP: r.Dst.IP, Mask: r.Dst.Mask}, Gw: r.GW,
		MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority,
	}
	if r.GW == nil {
		out.Scope = netlink.SCOPE_LINK
	}
	if r.Table != nil {
		out.Table = *r.Table
	}
	if r.Scope != nil {
		out.Scope = netlink.Scope(*r.Scope)
	}
	return out
}

// settle waits until no IPv6 address of the link is tentative. With duplicate address detection off that is at
// once, unless the whole namespace insists on it.
func settle(ctx context.Context, h *netlink.Handle, link netlink.Link) error {
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		list, err := h.AddrList(link, netlink.FAMILY_V6)
		if err != nil {
			return dispatch.Errorf(dispatch.CodeAddress, "list the addresses of %s: %w", link.Attrs().Name, err)
		}
		var tentative *netlink.Addr
		for i, a := range list {
			switch {
			case a.Flags&unix.IFA_F_DADFAILED != 0:
				return dispatch.Errorf(dispatch.CodeAddress, "the address %s is in use by a neighbour", a.IPNet)
			case a.Flags&unix.IFA_F_TENTATIVE != 0:
				tentative = &list[i]
			}
		}
		if tentative == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return dispatch.Errorf(dispatch.CodeAddress, "the address %s is still not usable after %s", tentative.IPNet, settleWait)
		case <-time.After(wait):
		}
	}
}

// compareAddresses says which addresses and routes of the result the link lacks.
func compareAddresses(h *netlink.Handle, link netlink.Link, ips []*current.IPConfig, routes []*types.Route) error {
	name := link.Attrs().Name
	addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return dispatch.Errorf(dispatch.CodeAddress, "list the addresses of %s: %w", name, err)
	}
	var errs []error
	for _, c := range ips {
		found := false
		for _, a := range addrs {
			found = found || a.IP.Equal(c.Address.IP) && a.Mask.String() == c.Address.Mask.String()
		}
		if !found {
			errs = append(errs, dispatch.Errorf(dispatch.CodeDrift, "%s has lost the address %s", name, &c.Address))
		}
	}
	if len(routes) == 0 {
		return errors.Join(errs...)
	}
	have, err := routesOf(h, link)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if !hasRoute(have, kernelRoute(link, r)) {
			errs = append(errs, dispatch.Errorf(dispatch.CodeDrift, "%s has lost the route to %s via %s", name, &r.Dst, r.GW))
		}
	}
	return errors.Join(errs...)
}

// routesOf are the link's routes, in all tables.
func routesOf(h *netlink.Handle, link netlink.Link) ([]netlink.Route, error) {
	list, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: link.Attrs().Index, Table: unix.RT_TABLE_UNSPEC},
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, dispatch.Errorf(dispatch.CodeRoute, "list the routes of %s: %w", link.Attrs().Name, err)
	}
	return list, nil
}

func hasRoute(have []netlink.Route, want *netlink.Route) bool {
	for _, r := range have {
		dst := r.Dst
		if dst == nil {
			dst = &net.IPNet{IP: make(net.IP, len(want.Dst.Mask)), Mask: make(net.IPMask, len(want.Dst.Mask))}
		}
		// A route for the main table counts in any: the plugin sbr after this one moves them to a table of the link's.
		table := want.Table == 0 || want.Table == r.Table
		if table && dst.IP.Equal(want.Dst.IP) && dst.Mask.String() == want.Dst.Mask.String() && r.Gw.Equal(want.Gw) {
			return true
		}
	}
	return false
}
