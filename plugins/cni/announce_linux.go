// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"net"
	"slices"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// announce tells the neighbours of addresses that came to an interface which was up already: the kernel does it only when
// one comes up. Neighbours may know another pod's MAC for them. Nothing depends on it for long, so a failure is logged only.
func (p *plugin) announce(pod *pod, link netlink.Link, ips []*current.IPConfig) {
	a := link.Attrs()
	if a.EncapType != "ether" || len(ips) == 0 {
		return
	}
	err := pod.do(func() error {
		var errs []error
		for _, c := range ips {
			if v4 := c.Address.IP.To4(); v4 != nil {
				errs = append(errs, broadcast(a.Index, gratuitousARP(a.HardwareAddr, v4)))
			} else {
				errs = append(errs, advertise(a.Index, unsolicitedNA(a.HardwareAddr, c.Address.IP), c.Address.IP))
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		p.Log.Warn("new addresses could not be announced: neighbours may keep an old MAC for a while", "link", a.Name, "error", err)
	}
}

// gratuitousARP is a request for the sender's own address (RFC 5227, section 3), without the Ethernet header.
func gratuitousARP(mac net.HardwareAddr, ip net.IP) []byte {
	head := []byte{0, 1, 8, 0, 6, 4, 0, 1} // Ethernet, IPv4, their lengths, request
	return slices.Concat[[]byte](head, mac, ip, make([]byte, 6), ip)
}

// unsolicitedNA is a neighbour advertisement that overrides what is known (RFC 4861, section 4.4). The kernel fills in the checksum.
func unsolicitedNA(mac net.HardwareAddr, ip net.IP) []byte {
	head := []byte{typeAdvertisement, 0, 0, 0, 0x20, 0, 0, 0} // type, code, checksum, the override flag
	option := []byte{2, 1}                                    // target link-layer address, in units of 8 bytes
	return slices.Concat[[]byte](head, ip.To16(), option, mac)
}

func broadcast(index int, arp []byte) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	to := &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ARP), Ifindex: index, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	return errors.Join(unix.Sendto(fd, arp, 0, to), unix.Close(fd))
}

// advertise sends to all nodes of the link, with the hop limit that proves that it was sent from there.
func advertise(index int, na []byte, from net.IP) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	source := &unix.SockaddrInet6{ZoneId: uint32(index), Addr: [16]byte(from.To16())}
	allNodes := &unix.SockaddrInet6{ZoneId: uint32(index), Addr: [16]byte(net.IPv6linklocalallnodes)}
	for _, set := range []func() error{
		func() error { return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255) },
		func() error { return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index) },
		func() error { return unix.Bind(fd, source) },
		func() error { return unix.Sendto(fd, na, 0, allNodes) },
	} {
		if err := set(); err != nil {
			return err
		}
	}
	return nil
}
