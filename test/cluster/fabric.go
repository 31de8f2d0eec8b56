// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	// RailLink is the name of a node's link into the fabric, the master of the rails' links.
	RailLink = "rail0"
	// RailMTU is the MTU of the fabric.
	RailMTU = 9000

	bridgeName = "fabric"
)

// Fabric is the switch that joins the nodes: a layer-2 bridge in a network namespace of its own, with no address and no way out.
type Fabric struct {
	space *space
	ports atomic.Int64
}

// NewFabric makes a fabric. It ends with Close, or with this process.
func NewFabric() (*Fabric, error) {
	s, err := newSpace(unix.CLONE_NEWNET, nil)
	if err != nil {
		return nil, fmt.Errorf("make the fabric: %w", err)
	}
	f := &Fabric{space: s}
	if err := f.addBridge(); err != nil {
		return nil, errors.Join(fmt.Errorf("make the fabric: %w", err), f.Close())
	}
	return f, nil
}

func (f *Fabric) addBridge() error {
	h, err := handleIn(f.space)
	if err != nil {
		return err
	}
	defer h.Close()
	// Without a querier, snooping only makes multicast, and so IPv6 neighbour discovery, less predictable.
	snoop := false
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName, MTU: RailMTU}, MulticastSnooping: &snoop}
	if err := h.LinkAdd(bridge); err != nil {
		return fmt.Errorf("add bridge: %w", err)
	}
	return h.LinkSetUp(bridge)
}

// plug joins the namespaces of to by a link named RailLink there. The link and its port go with that network namespace.
func (f *Fabric) plug(to *space) error {
	// Port names are never used twice: a namespace that ended may still hold its port for a moment.
	return plug(f.space, bridgeName, fmt.Sprintf("port%d", f.ports.Add(1)), to, RailLink, RailMTU)
}

// plug makes a cable: its one end is a port of a bridge, the other one a link in the namespaces of to. Both, and lo there, are up.
func plug(from *space, bridge, port string, to *space, name string, mtu int) error {
	h, err := handleIn(from)
	if err != nil {
		return err
	}
	defer h.Close()
	master, err := h.LinkByName(bridge)
	if err != nil {
		return err
	}
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: port, MTU: mtu, MasterIndex: master.Attrs().Index},
		PeerName:      name,
		PeerNamespace: netlink.NsFd(int(to.net.Fd())),
		PeerMTU:       uint32(mtu),
	}
	if err := h.LinkAdd(veth); err != nil {
		return fmt.Errorf("add port %s: %w", port, err)
	}
	link, err := h.LinkByName(port)
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set port %s up: %w", port, err)
	}
	inside, err := handleIn(to)
	if err != nil {
		return err
	}
	defer inside.Close()
	for _, name := range []string{"lo", name} {
		link, err := inside.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		if err := inside.LinkSetUp(link); err != nil {
			return fmt.Errorf("set %s up: %w", name, err)
		}
	}
	return nil
}

// Links lists the fabric's own links, the bridge and a port for each node.
func (f *Fabric) Links() ([]string, error) { return linkNames(f.space) }

// Close lets the fabric go. It may be called again.
func (f *Fabric) Close() error { return f.space.close() }

// handleIn opens netlink in the network namespace of s. The caller closes it.
func handleIn(s *space) (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(s.net.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink in a namespace: %w", err)
	}
	h.RetryInterrupted()
	return h, nil
}

func linkNames(s *space) ([]string, error) {
	h, err := handleIn(s)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return names, nil
}
