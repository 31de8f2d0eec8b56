// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// ServiceAPIAddress is where everybody in the cluster finds the API server: the address of the service "kubernetes". The control
	// plane has it itself, so no proxy is needed.
	ServiceAPIAddress = "10.96.0.1"

	lanBridge = "lan"
	lanLink   = "eth0" // of a machine
	lanMTU    = 1500
)

// LAN is what joins the machines of a cluster and its control plane: a switch and router in a network namespace of its own, which
// is the control plane's, too. No way leads out of it.
//
// Machine number i has the address 10.99.0.<10+i>, and its pods have 10.244.<i>.0/24.
type LAN struct {
	space *space
	ports atomic.Int64
}

// NewLAN makes a LAN. It ends with Close, or with this process.
func NewLAN() (*LAN, error) {
	s, err := newSpace(unix.CLONE_NEWNET, forwardIPv4)
	if err != nil {
		return nil, fmt.Errorf("make the LAN: %w", err)
	}
	l := &LAN{space: s}
	if err := l.addBridge(); err != nil {
		return nil, errors.Join(fmt.Errorf("make the LAN: %w", err), l.Close())
	}
	return l, nil
}

// Close lets the LAN go. It may be called again.
func (l *LAN) Close() error { return l.space.close() }

// Links lists the LAN's own links.
func (l *LAN) Links() ([]string, error) { return linkNames(l.space) }

func lanGateway() netip.Addr { return netip.AddrFrom4([4]byte{10, 99, 0, 1}) }

// MachineAddr is the address of machine number i.
func MachineAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 99, 0, byte(10 + i)}) }

// MachinePods is the subnet of the pods of machine number i.
func MachinePods(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24)
}

// maxMachines is what the addresses above have room for.
const maxMachines = 200

func (l *LAN) addBridge() error {
	h, err := handleIn(l.space)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: lanBridge, MTU: lanMTU}}); err != nil {
		return fmt.Errorf("add bridge: %w", err)
	}
	service := netip.PrefixFrom(netip.MustParseAddr(ServiceAPIAddress), 32)
	for name, addr := range map[string]netip.Prefix{"lo": service, lanBridge: netip.PrefixFrom(lanGateway(), 24)} {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		if err := h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(addr)}); err != nil {
			return fmt.Errorf("add %s to %s: %w", addr, name, err)
		}
		if err := h.LinkSetUp(link); err != nil {
			return err
		}
	}
	return nil
}

// plug joins machine number i, by the link eth0 in its network namespace, and makes the routes to it and out of it.
func (l *LAN) plug(to *space, i int) error {
	if err := plug(l.space, lanBridge, fmt.Sprintf("port%d", l.ports.Add(1)), to, lanLink, lanMTU); err != nil {
		return err
	}
	inside, err := handleIn(to)
	if err != nil {
		return err
	}
	defer inside.Close()
	link, err := inside.LinkByName(lanLink)
	if err != nil {
		return err
	}
	if err := inside.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(MachineAddr(i), 24))}); err != nil {
		return fmt.Errorf("add %s to %s: %w", MachineAddr(i), lanLink, err)
	}
	if err := inside.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: lanGateway().AsSlice()}); err != nil {
		return fmt.Errorf("add the default route: %w", err)
	}
	h, err := handleIn(l.space)
	if err != nil {
		return err
	}
	defer h.Close()
	// Replaced: after a reboot it is there already.
	if err := h.RouteReplace(&netlink.Route{Dst: ipNet(MachinePods(i)), Gw: MachineAddr(i).AsSlice()}); err != nil {
		return fmt.Errorf("add the route to the pods of %s: %w", MachineAddr(i), err)
	}
	return nil
}

// forwardIPv4 lets the calling thread's network namespace route.
func forwardIPv4() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
