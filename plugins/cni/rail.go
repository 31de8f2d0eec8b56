// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// rail is one interface of an attachment: what is planned for it, and what it got.
type rail struct {
	// args and spec are the call's, with the rail's own interface name and pool.
	args dispatch.Args
	spec conf.Spec
	// table is the routing table of what leaves with the rail's addresses, or 0.
	table int
	// master is the host's link that the interface stands on or is. A chained rail has none.
	master master
	link   *journal.Link
	rdma   rdmaPlan
	// wantToS is the config's type of service, or nil; tos are the ports that get it.
	wantToS *uint8
	tos     []*journal.ToS
	source  *journal.Step
	got     addresses
}

func (r *rail) name() string { return r.args.IfName }

// planRail looks at everything that one rail needs, and changes nothing.
func (p *plugin) planRail(ctx context.Context, dir *journal.Dir, t *attachment, s conf.RailSpec) (*rail, error) {
	r := &rail{args: t.args, spec: t.spec, wantToS: s.ToS}
	r.args.IfName, r.spec.Pool = s.Name(t.args.IfName), s.Pool
	if r.args.IfName != t.args.IfName {
		r.spec.Attachment = t.args.IfName
	}
	id := idOf(r.args)
	var err error
	if r.source, err = planAddresses(r.args, &r.spec); err != nil {
		return nil, err
	}
	if r.source != nil && r.name() != t.args.IfName {
		r.source.Rename(r.name())
	}
	switch {
	case r.spec.Kind == conf.KindChained:
		err = r.planChained(t)
	case conf.Moves(r.spec.Kind):
		if err = p.claimDevice(ctx, dir, t, r, s); err != nil {
			return nil, err
		}
		if r.link, err = planDevice(t.host, p.Sys, r.spec, s, r.master, id); err == nil && r.spec.Kind == conf.KindSRIOV {
			r.link.Host.VF, err = planVF(p.Sys, r.spec, r.master)
		}
		if err == nil && r.spec.GUID != nil {
			r.link.Host.VF, err = p.planGUID(r.spec, r.master, r.link.Host.VF)
		}
	default:
		if r.master, err = p.chooseMaster(t, s); err != nil {
			return nil, err
		}
		if r.link, err = planLink(r.spec, s, r.master, id); err == nil {
			err = sameMode(dir, idOf(t.args), r.link)
		}
	}
	if err != nil {
		return nil, err
	}
	if r.rdma, err = p.planRDMA(r.spec, r.master, r.name()); err != nil || r.spec.Kind == conf.KindChained {
		return r, err
	}
	if _, err := t.pod.link.LinkByName(r.name()); !linkGone(err) {
		if err != nil {
			return nil, dispatch.Errorf(dispatch.CodeLink, "look for %s in the pod: %w", r.name(), err)
		}
		return nil, interfaceExists(r.name())
	}
	return r, nil
}

// planChained finds the interface that the plugin before made.
func (r *rail) planChained(t *attachment) error {
	for _, i := range t.prev.Interfaces {
		if i.Name != r.name() || !inSandbox(i, t.args.NS) {
			continue
		}
		link, err := t.pod.link.LinkByName(r.name())
		if err != nil {
			return dispatch.Errorf(dispatch.CodeLink, "look for %s, which prevResult lists, in the pod: %w", r.name(), err)
		}
		a := link.Attrs()
		r.link = &journal.Link{Kind: conf.KindChained, Name: r.name(), MAC: a.HardwareAddr.String(), MTU: a.MTU, Index: a.Index}
		r.master = master{link: link, bus: a.ParentDev}
		if conf.IsPCI(a.ParentDev) {
			r.master.pci = a.ParentDev
		}
		return nil
	}
	return dispatch.Errorf(dispatch.CodeConfig, "prevResult: has no interface %s in the pod: put the plugin behind the one that makes it", r.name())
}

// sameMode refuses an ipvlan in another mode than those of others on its master: the kernel would change the mode of all of them
// (ipvlan_set_port_mode).
func sameMode(dir *journal.Dir, id journal.ID, l *journal.Link) error {
	if l.Kind != conf.KindIPvlan {
		return nil
	}
	for _, j := range others(dir, id) {
		for _, s := range j.Steps {
			if o := s.Link; o != nil && o.Kind == conf.KindIPvlan && o.Parent == l.Parent && o.Mode != l.Mode && !j.NetNS.Gone() {
				return &conf.FieldError{Field: "mode", Detail: fmt.Sprintf("is %s, and %s has an ipvlan in mode %s on %s: all on one master share one mode", l.Mode, j.ID(), o.Mode, l.Master)}
			}
		}
	}
	return nil
}

// steps are the rail's, in the order of their doing.
func (r *rail) steps() []journal.Step {
	var out []journal.Step
	if r.source != nil {
		out = append(out, *r.source)
	}
	out = append(out, journal.Step{Link: r.link})
	for _, s := range r.tos {
		out = append(out, journal.Step{ToS: s}) // undone when the device is back: a move resets it
	}
	if r.rdma.move != nil {
		out = append(out, journal.Step{RDMA: r.rdma.move}) // undone before the link is, on every link layer
	}
	if r.table != 0 {
		out = append(out, journal.Step{Rule: &journal.Rule{Table: r.table, Priority: rulePriority}})
	}
	return out
}

// makeLink makes the rail's interface, or moves it into the pod, and with it its RDMA device: on Ethernet after the
// interface, on InfiniBand before it, where the kernel makes the interface anew in the pod.
func (p *plugin) makeLink(ctx context.Context, t *attachment, r *rail) error {
	if r.link.Host != nil {
		if err := p.tagDevice(t.host, r.link, r.master); err != nil {
			return err
		}
		if err := p.setUpVF(r.link, r.master); err != nil {
			return err
		}
		p.Hit("add:vf")
	}
	if r.rdma.move != nil && r.rdma.infiniband {
		if err := p.moveRDMA(ctx, t.pod, r.rdma.move); err != nil {
			return err
		}
	}
	var err error
	switch {
	case r.link.Kind == conf.KindChained:
	case r.link.Host == nil:
		if err = r.master.bringUp(t.host); err == nil {
			err = addLink(ctx, t.host, t.pod, r.link, r.master, r.spec.BCQueueLen)
		}
	case r.rdma.move != nil && r.rdma.infiniband:
		err = adopt(ctx, t.host, t.pod, r.link)
	default:
		err = takeDevice(t.pod, r.link, r.master)
	}
	if err != nil || r.rdma.move == nil || r.rdma.infiniband {
		return err
	}
	p.Hit("add:moved")
	return p.moveRDMA(ctx, t.pod, r.rdma.move)
}

// configure gives the rail's interface its addresses and routes.
func (p *plugin) configure(ctx context.Context, dir *journal.Dir, t *attachment, r *rail) error {
	link, err := findNew(t.pod.link, r.link)
	if err != nil {
		return err
	}
	r.link.Index = link.Attrs().Index
	if link.Type() == "ipoib" || r.spec.GUID != nil {
		r.link.MAC = link.Attrs().HardwareAddr.String() // with the number of its queue pair and the GUID, which nobody knew before
	}
	if r.got.probe {
		if err := p.freeOf(ctx, t.pod, link, r); err != nil {
			return err
		}
	}
	ips, routes := r.got.ips, r.got.install
	if r.link.Kind == conf.KindChained && len(ips) > 0 {
		if ips, routes, err = missingHere(t.pod.link, link, ips, routes); err != nil {
			return err
		}
		// They are taken from the interface again: it is another plugin's, and may outlive the attachment.
		for _, c := range ips {
			r.link.Addresses = append(r.link.Addresses, c.Address.String())
		}
		r.link.Routes = routes
		if err := dir.Write(t.journal); err != nil {
			return journalError(err)
		}
	}
	if err := p.address(ctx, t.pod, link, ips); err != nil {
		return err
	}
	added, err := p.route(t.pod, link, routes)
	if err != nil {
		return err
	}
	r.link.Routes = added
	if r.table != 0 {
		if err := p.routeBySource(t.pod, link, r); err != nil {
			return err
		}
	}
	if r.got.has6() {
		if err := settle(ctx, t.pod.link, link); err != nil {
			return err
		}
	}
	if r.link.Kind == conf.KindChained || r.got.probe { // it was up before
		p.announce(t.pod, link, ips)
	}
	r.link.GIDs, err = p.awaitGIDs(ctx, r)
	return err
}

// missingHere leaves of the addresses and routes those that the link does not have yet: the rest is not the attachment's
// to take away again.
func missingHere(h *netlink.Handle, link netlink.Link, ips []*current.IPConfig, routes []*types.Route) ([]*current.IPConfig, []*types.Route, error) {
	addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, nil, dispatch.Errorf(dispatch.CodeAddress, "list the addresses of %s: %w", link.Attrs().Name, err)
	}
	have, err := routesOf(h, link)
	if err != nil {
		return nil, nil, err
	}
	ips = slices.DeleteFunc(slices.Clone(ips), func(c *current.IPConfig) bool {
		return slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
			return a.IP.Equal(c.Address.IP) && a.Mask.String() == c.Address.Mask.String()
		})
	})
	routes = slices.DeleteFunc(slices.Clone(routes), func(r *types.Route) bool { return hasRoute(have, kernelRoute(link, r)) })
	return ips, routes, nil
}

// findNew gives the interface that makeLink has made.
func findNew(h *netlink.Handle, l *journal.Link) (netlink.Link, error) {
	link, err := h.LinkByName(l.Name)
	if err != nil {
		return nil, dispatch.Errorf(dispatch.CodeLink, "look for %s in the pod: %w", l.Name, err)
	}
	return link, nil
}

// builtin are the settings that the interface gets before it comes up; see the package's comment. With several
// rails each answers for its own addresses only, and takes what comes back another way than the main table's.
func (r *rail) builtin() []journal.Sysctl {
	if r.link.Kind == conf.KindChained {
		return nil // it is up, and another plugin's
	}
	v4, v6 := "net/ipv4/conf/"+r.name()+"/", "net/ipv6/conf/"+r.name()+"/"
	out := []journal.Sysctl{{Path: v4 + "arp_notify", Value: "1"}}
	if r.table != 0 {
		out = append(out,
			journal.Sysctl{Path: v4 + "arp_ignore", Value: "1"},
			journal.Sysctl{Path: v4 + "arp_announce", Value: "2"},
			journal.Sysctl{Path: v4 + "rp_filter", Value: "2"})
	}
	if r.got.has6() {
		out = append(out,
			journal.Sysctl{Path: v6 + "disable_ipv6", Value: "0"},
			journal.Sysctl{Path: v6 + "accept_dad", Value: "0"},
			journal.Sysctl{Path: v6 + "ndisc_notify", Value: "1"})
	}
	return out
}
