// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
	"github.com/railyard-net/railyard/rdma"
)

// gidWait bounds how long ADD waits for an address to appear in a table of GIDs; the kernel takes a few milliseconds.
const gidWait = time.Second

// rdmaPlan is what is to happen with the RDMA device of a rail. Nothing, if both are empty.
type rdmaPlan struct {
	// move is the device to hand over, in exclusive mode; infiniband says which way round.
	move       *journal.RDMA
	infiniband bool
	// shared are the devices in whose tables the rail's addresses are to appear.
	shared []rdma.Device
	// moved is the device of move, as it was on the host.
	moved rdma.Device
}

// devices are those of the rail, wherever they will be.
func (r rdmaPlan) devices() []rdma.Device {
	if r.move != nil {
		return []rdma.Device{r.moved}
	}
	return r.shared
}

// names are those of the devices.
func (r rdmaPlan) names() []string {
	var out []string
	if r.move != nil {
		out = append(out, r.move.Name)
	}
	for _, d := range r.shared {
		out = append(out, d.Name)
	}
	return out
}

// planRDMA decides what happens with the RDMA device under the master. It changes nothing. The ifName is that of a
// chained interface, which is in the pod already.
func (p *plugin) planRDMA(s conf.Spec, m master, ifName string) (rdmaPlan, error) {
	if s.RDMA == conf.RDMAOff {
		return rdmaPlan{}, nil
	}
	found, err := p.rdmaDevices(s, m, ifName)
	devices, unfit := serving(s.Kind, found)
	name := ifName
	if m.link != nil {
		name = m.name()
	}
	switch {
	case err != nil && s.RDMA == conf.RDMARequired:
		return rdmaPlan{}, dispatch.Errorf(dispatch.CodeRDMA, "rdma: look for the device of %s: %w", name, err)
	case err != nil:
		p.Log.Warn("the RDMA devices cannot be read; the pod gets none", "link", name, "error", err)
		return rdmaPlan{}, nil
	case len(devices) == 0 && unfit != "" && s.RDMA == conf.RDMARequired:
		return rdmaPlan{}, dispatch.Errorf(dispatch.CodeRDMA, "rdma: is %s and of %s a %s can have no RDMA device: %s, or write %s for pods that can do without", conf.RDMARequired, name, s.Kind, unfit, conf.RDMAAuto)
	case len(devices) == 0 && s.RDMA == conf.RDMARequired:
		return rdmaPlan{}, dispatch.Errorf(dispatch.CodeRDMA, "rdma: is %s and %s has no RDMA device: load its driver's RDMA module, or write %s", conf.RDMARequired, name, conf.RDMAAuto)
	case len(devices) == 0:
		return rdmaPlan{}, nil
	}
	h, err := rdma.Open()
	if err != nil {
		return rdmaPlan{}, dispatch.Errorf(dispatch.CodeRDMA, "rdma: %w", err)
	}
	defer h.Close()
	mode, err := h.Mode()
	switch {
	case errors.Is(err, rdma.ErrUnsupported) || mode == rdma.Shared:
		return rdmaPlan{shared: devices}, nil
	case err != nil:
		return rdmaPlan{}, dispatch.Errorf(dispatch.CodeRDMA, "rdma: ask for the mode: %w", err)
	case conf.OnMaster(s.Kind):
		return rdmaPlan{}, dispatch.Errorf(dispatch.CodeRDMA, "rdma: %s has the RDMA device %s, and this node hands each to one pod only (rdma system: netns exclusive), so a %s cannot share it: "+
			"use kind %s or %s, or switch the node to netns shared, or write rdma: %s for a pod that needs none", name, devices[0].Name, s.Kind, conf.KindHostDevice, conf.KindSRIOV, conf.RDMAOff)
	case len(devices) > 1:
		return rdmaPlan{}, dispatch.Errorf(dispatch.CodeRDMA, "rdma: %s has the RDMA devices %s, %s, ...: one is supported", name, devices[0].Name, devices[1].Name)
	}
	d := devices[0]
	id, err := h.Identify(d)
	if err != nil {
		return rdmaPlan{}, dispatch.Errorf(dispatch.CodeRDMA, "rdma: %w", err)
	}
	return rdmaPlan{
		move:       &journal.RDMA{Name: d.Name, ID: id, Bus: string(d.Bus)},
		infiniband: onInfiniBand(d),
		moved:      d,
	}, nil
}

// serving leaves of a link's devices those that serve what the kind makes of the link, and says of the last of the others why it does not.
func serving(kind string, found []rdma.Device) (devices []rdma.Device, unfit string) {
	for _, d := range found {
		switch {
		case conf.OnMaster(kind) && d.IWARP(): // cma_validate_port in drivers/infiniband/core/cma.c
			unfit = fmt.Sprintf("%s is iWARP, which serves the addresses of its own interface and of none on that. Use kind %s or %s", d.Name, conf.KindHostDevice, conf.KindSRIOV)
		case conf.Moves(kind) && d.Bus == "":
			unfit = fmt.Sprintf("%s is a software device, which the kernel removes when its interface moves. Make one on the pod's interface", d.Name)
		default:
			devices = append(devices, d)
		}
	}
	return devices, unfit
}

func onInfiniBand(d rdma.Device) bool {
	return slices.ContainsFunc(d.Ports, func(p rdma.Port) bool { return p.LinkLayer == rdma.InfiniBand })
}

// rdmaDevices are those that belong to the master. Machines without RDMA cost one look.
func (p *plugin) rdmaDevices(s conf.Spec, m master, ifName string) ([]rdma.Device, error) {
	if entries, err := fs.ReadDir(p.Sys, "class/infiniband"); errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil, nil
	}
	if m.bus != "" {
		devices, err := rdma.DiscoverAt(p.Sys, rdma.BusAddr(m.bus))
		if len(devices) > 0 || s.Kind == conf.KindChained {
			return devices, err
		}
	}
	all, err := rdma.Discover(p.Sys)
	if s.Kind != conf.KindChained {
		if m.link == nil {
			return nil, err
		}
		found, missing := rdma.OfNetDev(p.Sys, all, m.name())
		if len(found) > 0 {
			return found, nil
		}
		return nil, errors.Join(err, missing)
	}
	// The interface is in the pod, where this sysfs does not see it. A software device has its name, as others in other
	// pods may, and a GUID made of its hardware address.
	return slices.DeleteFunc(all, func(d rdma.Device) bool {
		return d.Parent != ifName || m.link == nil || d.NodeGUID != eui64(m.link.Attrs().HardwareAddr)
	}), err
}

// eui64 is the GUID that a software device on a link with that address gets (addrconf_addr_eui48 in net/addrconf.h).
func eui64(mac net.HardwareAddr) rdma.GUID {
	if len(mac) != 6 {
		return 0
	}
	b := [8]byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]}
	return rdma.GUID(binary.BigEndian.Uint64(b[:]))
}

// moveRDMA hands the device over to the pod.
func (p *plugin) moveRDMA(ctx context.Context, pod *pod, d *journal.RDMA) error {
	h, err := rdma.Open()
	if err == nil {
		err = h.Move(ctx, d.ID, int(pod.ns.Fd()))
		_ = h.Close()
	}
	if err != nil {
		return dispatch.Errorf(dispatch.CodeRDMA, "rdma: hand %s over to the pod: %w", d.Name, err)
	}
	p.Hit("add:rdma")
	return nil
}

// adopt gives the interface that the kernel made anew, when the RDMA device arrived in the pod, its name and settings there. Linux 7.3
// makes it in the pod, 6.12 on the host (ipoib_add_port), from where it is moved.
func adopt(ctx context.Context, host *netlink.Handle, pod *pod, l *journal.Link) error {
	ctx, cancel := context.WithTimeout(ctx, deadLinkWait)
	defer cancel()
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		link, err := ofIPoIB(pod.link, l.Host.Bus)
		switch {
		case err != nil:
			return dispatch.Errorf(dispatch.CodeLink, "look for the interface of %s in the pod: %w", l.Host.Bus, err)
		case link != nil:
			return settleIn(pod.link, link, l, func(c change) error { return pod.do(c.apply) })
		}
		link, err = ofIPoIB(host, l.Host.Bus)
		switch {
		case err != nil:
			return dispatch.Errorf(dispatch.CodeLink, "look for the interface of %s on the host: %w", l.Host.Bus, err)
		case link != nil:
			return settleIn(host, link, l, func(c change) error {
				c.netns = int(pod.ns.Fd())
				return c.apply()
			})
		}
		select {
		case <-ctx.Done():
			return dispatch.Errorf(dispatch.CodeLink, "the RDMA device of %s is in the pod, and no interface came with it: load ib_ipoib", l.Host.Name)
		case <-time.After(wait):
		}
	}
}

// ofIPoIB gives the interface that IPoIB made for the hardware, or nil.
func ofIPoIB(h *netlink.Handle, bus string) (netlink.Link, error) {
	all, err := h.LinkList()
	if err != nil {
		return nil, err
	}
	if at := slices.IndexFunc(all, func(n netlink.Link) bool { return n.Attrs().ParentDev == bus && n.Type() == "ipoib" }); at >= 0 {
		return all[at], nil
	}
	return nil, nil //nolint:nilnil // none is an answer
}

// settleIn tags an interface where the handle has it, and has it made what the pod is to get.
func settleIn(h *netlink.Handle, link netlink.Link, l *journal.Link, apply func(change) error) error {
	if err := h.LinkAddAltName(link, l.Host.Tag); err != nil {
		return dispatch.Errorf(dispatch.CodeLink, "give %s an alternative name: %w", link.Attrs().Name, err)
	}
	if err := apply(change{index: link.Attrs().Index, name: l.Name, mtu: l.MTU}); err != nil {
		return dispatch.Errorf(dispatch.CodeLink, "set up %s in the pod: %w", l.Name, err)
	}
	return nil
}

// returnRDMA takes the device back from a living pod. One that is not there is back already, or gone.
func (u *undoing) returnRDMA(ctx context.Context, d *journal.RDMA) error {
	host, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return dispatch.Errorf(dispatch.CodeIO, "%w", err)
	}
	defer host.Close()
	h, err := u.pod.openRDMA()
	if err == nil {
		err = h.Move(ctx, d.ID, int(host.Fd()))
		_ = h.Close()
	}
	if err != nil && !errors.Is(err, rdma.ErrNotFound) && !errors.Is(err, rdma.ErrNoRDMA) {
		return dispatch.Errorf(dispatch.CodeRDMA, "rdma: take %s back from the pod: %w", d.Name, err)
	}
	u.Hit("undo:rdma")
	return nil
}

func (p *pod) openRDMA() (h *rdma.Handle, err error) {
	err = p.do(func() error {
		h, err = rdma.Open()
		return err
	})
	return h, err
}

func (c *checking) checkRDMA(d *journal.RDMA) error {
	h, err := c.pod.openRDMA()
	if err != nil {
		return dispatch.Errorf(dispatch.CodeDrift, "rdma: %s: %w", d.Name, err)
	}
	defer h.Close()
	if _, err := h.ByID(d.ID); err != nil {
		return dispatch.Errorf(dispatch.CodeDrift, "the pod has lost the RDMA device %s: %w", d.Name, err)
	}
	return nil
}

// awaitGIDs waits until each address of the rail is in a table of its RDMA device, and says where. One that does not come
// is an error if the config requires RDMA. An InfiniBand port has GIDs of its own, whatever addresses its interfaces have, and so
// has one of iWARP.
func (p *plugin) awaitGIDs(ctx context.Context, r *rail) ([]journal.GID, error) {
	devices := slices.DeleteFunc(slices.Clone(r.rdma.shared), func(d rdma.Device) bool { return len(rocePorts(d)) == 0 })
	if len(devices) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, gidWait)
	defer cancel()
	var out []journal.GID
	for _, c := range r.got.ips {
		addr := prefix(c).Addr()
		gid, err := p.awaitGID(ctx, devices, addr)
		switch {
		case err == nil:
			out = append(out, gid)
		case r.spec.RDMA == conf.RDMARequired:
			return nil, dispatch.Errorf(dispatch.CodeRDMA, "rdma: %w", err)
		default:
			p.Log.Warn("an address has no GID: RDMA from it will not work", "link", r.name(), "error", err)
		}
	}
	return out, nil
}

func (p *plugin) awaitGID(ctx context.Context, devices []rdma.Device, addr netip.Addr) (journal.GID, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		var last error
		for _, d := range devices {
			for _, port := range rocePorts(d) {
				gid, err := rdma.FindGID(p.Sys, d.Name, port, addr)
				if err == nil {
					return journal.GID{Address: addr.String(), Device: d.Name, Port: port, Index: gid.Index, Type: string(gid.Type)}, nil
				}
				last = err
			}
		}
		select {
		case <-ctx.Done():
			return journal.GID{}, fmt.Errorf("no GID of %s appeared within %s: %w", addr, gidWait, last)
		case <-time.After(wait):
		}
	}
}
