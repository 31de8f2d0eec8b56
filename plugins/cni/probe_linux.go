// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// Of RFC 5227 and 4862 the messages; their times are for hosts that nobody waits for.
const (
	probes    = 3
	probeGap  = 50 * time.Millisecond
	probeWait = 100 * time.Millisecond // after the last
	// carrierWait bounds how long a device is waited for that has just come up.
	carrierWait = 5 * time.Second
	// maxConflicts is how many addresses of one attachment may be somebody else's.
	maxConflicts = 8
)

// freeOf makes sure that nobody on the link answers for the rail's addresses, for a pool that wants to know: one for which somebody
// does is declined, and the next ones are asked for.
func (p *plugin) freeOf(ctx context.Context, pod *pod, link netlink.Link, r *rail) error {
	if err := p.bringUp(ctx, pod, link); err != nil {
		return err
	}
	carrier, err := awaitCarrier(ctx, pod.link, link)
	switch {
	case err != nil:
		return dispatch.Errorf(dispatch.CodeLink, "look at %s: %w", r.name(), err)
	case !carrier:
		p.Log.Warn("no neighbour can be asked whether it has the pod's addresses: the interface has no carrier", "link", r.name())
		return nil
	}
	for range maxConflicts {
		found, err := pod.conflict(link.Attrs(), r.got)
		switch {
		case err != nil:
			return dispatch.Errorf(dispatch.CodeAddress, "ask the neighbours of %s for its addresses: %w", r.name(), err)
		case found == nil:
			p.Hit("add:probed")
			return nil
		}
		err = p.Leaser(r.spec.Paths).Decline(ctx, leaseKey(r.args.Name, idOf(r.args)), *found)
		if err != nil && !errors.Is(err, ipam.ErrNotFound) { // an answer that was lost
			return dispatch.Errorf(dispatch.CodeAddress, "the address %s is in use by a neighbour, %s, and could not be declined: %w", found.Address, found.Neighbour, err)
		}
		p.Hit("add:declined")
		if r.got, err = p.obtain(ctx, r.args, r.spec); err != nil {
			return fmt.Errorf("after %s, which a neighbour has (%s): %w", found.Address, found.Neighbour, err)
		}
	}
	return dispatch.Errorf(dispatch.CodeAddress, "%d addresses of pool %s in a row are in use by neighbours: exclude them from the pool", maxConflicts, r.spec.Pool)
}

// awaitCarrier says whether the link can be used within a while.
func awaitCarrier(ctx context.Context, h *netlink.Handle, link netlink.Link) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, carrierWait)
	defer cancel()
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		now, err := h.LinkByIndex(link.Attrs().Index)
		if err != nil {
			return false, err
		}
		if s := now.Attrs().OperState; s == netlink.OperUp || s == netlink.OperUnknown {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-time.After(wait):
		}
	}
}

// conflict asks the neighbours on an Ethernet link that is up and gives the first that answers, or nil.
func (p *pod) conflict(a *netlink.LinkAttrs, got addresses) (found *ipam.Conflict, err error) {
	if a.EncapType != "ether" {
		return nil, nil //nolint:nilnil // nobody can be asked
	}
	return found, p.do(func() error {
		arp, err := packetSocket(a.Index, unix.ETH_P_ARP)
		if err != nil {
			return err
		}
		defer unix.Close(arp)
		nd, err := packetSocket(a.Index, unix.ETH_P_IPV6)
		if err != nil {
			return err
		}
		defer unix.Close(nd)
		begin := time.Now()
		for sent, end := 0, probes*probeGap+probeWait; found == nil && time.Since(begin) < end; {
			if sent < probes && time.Since(begin) >= time.Duration(sent)*probeGap {
				sent++
				if err := ask(arp, nd, a, got); err != nil {
					return err
				}
			}
			next := end
			if sent < probes {
				next = time.Duration(sent) * probeGap
			}
			if found, err = listen(arp, nd, a.HardwareAddr, got, next-time.Since(begin)); err != nil {
				return err
			}
		}
		return nil
	})
}

// packetSocket receives what the link gets of a protocol, without the Ethernet header.
func packetSocket(index int, proto uint16) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	// Answers to who has no address yet go to all nodes, a group that the link need not be in.
	all := &unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_ALLMULTI}
	err = errors.Join(unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, all),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(proto), Ifindex: index}))
	if err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// ask sends one probe for each address.
func ask(arp, nd int, a *netlink.LinkAttrs, got addresses) error {
	to := &unix.SockaddrLinklayer{Ifindex: a.Index, Halen: 6}
	for _, c := range got.ips {
		addr := prefix(c).Addr()
		var err error
		if addr.Is4() {
			to.Protocol, to.Addr = networkOrder(unix.ETH_P_ARP), [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
			err = unix.Sendto(arp, arpProbe(a.HardwareAddr, addr), 0, to)
		} else {
			group := solicited(addr)
			to.Protocol, to.Addr = networkOrder(unix.ETH_P_IPV6), [8]byte{0x33, 0x33, group[12], group[13], group[14], group[15]}
			err = unix.Sendto(nd, dadProbe(addr), 0, to)
		}
		if err != nil {
			return fmt.Errorf("send a probe for %s: %w", addr, err)
		}
	}
	return nil
}

// listen looks at what comes in for a while.
func listen(arp, nd int, mac net.HardwareAddr, got addresses, d time.Duration) (*ipam.Conflict, error) {
	fds := []unix.PollFd{{Fd: int32(arp), Events: unix.POLLIN}, {Fd: int32(nd), Events: unix.POLLIN}}
	buf := make([]byte, 2048)
	for until := time.Now().Add(d); ; {
		left := int(time.Until(until).Milliseconds())
		if n, err := unix.Poll(fds, max(left, 0)); err != nil && !errors.Is(err, unix.EINTR) {
			return nil, err
		} else if n <= 0 && left <= 0 {
			return nil, nil //nolint:nilnil // none is an answer
		}
		for i, fd := range []int{arp, nd} {
			for {
				n, from, err := unix.Recvfrom(fd, buf, 0)
				if err != nil {
					break // there is no more
				}
				ll, ok := from.(*unix.SockaddrLinklayer)
				if !ok || ll.Pkttype == unix.PACKET_OUTGOING || bytes.Equal(ll.Addr[:6], mac) {
					continue
				}
				claimed := [...]func([]byte) (netip.Addr, bool){claimedByARP, claimedByND}[i]
				if addr, ok := claimed(buf[:n]); ok && slices.ContainsFunc(got.ips, func(c *current.IPConfig) bool { return prefix(c).Addr() == addr }) {
					return &ipam.Conflict{Address: addr, Neighbour: net.HardwareAddr(ll.Addr[:6]).String()}, nil
				}
			}
		}
	}
}

// claimedByARP is the address that a message says its sender has, or is about to take.
func claimedByARP(b []byte) (netip.Addr, bool) {
	if len(b) < 28 || !bytes.Equal(b[:6], []byte{0, 1, 8, 0, 6, 4}) {
		return netip.Addr{}, false
	}
	sender, target := netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	if sender.IsUnspecified() {
		return target, true // a probe, as ours
	}
	return sender, true
}

// claimedByND is the address that a neighbour advertisement is of, or a solicitation of one that has no address yet.
func claimedByND(b []byte) (netip.Addr, bool) {
	const hopLimit, next, source, icmp = 7, 6, 8, 40
	if len(b) < icmp+24 || b[0]>>4 != 6 || b[next] != unix.IPPROTO_ICMPV6 || b[hopLimit] != 255 {
		return netip.Addr{}, false
	}
	target := netip.AddrFrom16([16]byte(b[icmp+8 : icmp+24]))
	switch b[icmp] {
	case typeAdvertisement:
		return target, true
	case typeSolicitation:
		return target, netip.AddrFrom16([16]byte(b[source:source+16])) == netip.IPv6Unspecified()
	}
	return netip.Addr{}, false
}

const (
	typeSolicitation  = 135
	typeAdvertisement = 136
)

// arpProbe asks for an address on behalf of nobody (RFC 5227, section 2.1.1).
func arpProbe(mac net.HardwareAddr, addr netip.Addr) []byte {
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 1}, mac, make([]byte, 4), make([]byte, 6), addr.AsSlice())
}

// dadProbe is the solicitation by which a host looks whether an address is free (RFC 4862, section 5.4.2), as a whole packet.
func dadProbe(addr netip.Addr) []byte {
	group := solicited(addr)
	ns := slices.Concat([]byte{typeSolicitation, 0, 0, 0, 0, 0, 0, 0}, addr.AsSlice())
	head := slices.Concat([]byte{6 << 4, 0, 0, 0, 0, byte(len(ns)), unix.IPPROTO_ICMPV6, 255}, make([]byte, 16), group[:])
	binary.BigEndian.PutUint16(ns[2:], checksum(slices.Concat(head[8:40], []byte{0, 0, 0, byte(len(ns)), 0, 0, 0, unix.IPPROTO_ICMPV6}, ns)))
	return append(head, ns...)
}

// solicited is the multicast group of an address (RFC 4291, section 2.7.1).
func solicited(addr netip.Addr) [16]byte {
	a := addr.As16()
	return [16]byte{0xff, 0x02, 11: 1, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]}
}

// checksum is that of RFC 1071, over an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// networkOrder is a number as the kernel wants it in a field of network order.
func networkOrder(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}
