// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package echo pings: it sends ICMP echo requests and waits for the answers.
package echo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

const (
	pingInterval = 500 * time.Millisecond // before a request is sent again
	pingTimeout  = 10 * time.Second
)

// family is what differs between ICMP for IPv4 and for IPv6.
type family struct {
	network  string
	protocol int
	request  icmp.Type
	reply    icmp.Type
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return family{"ip4:icmp", 1, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply}
	}
	return family{"ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply}
}

// Listen opens a socket for ICMP, from where and with what address the caller wants; network is one of package net's.
type Listen func(ctx context.Context, network string) (net.PacketConn, error)

// Ping sends an echo request to each of the targets, which are all of one family, and returns when all have answered. Requests without
// an answer are repeated; an error names the targets that have not answered in time.
func Ping(ctx context.Context, listen Listen, targets ...netip.Addr) error {
	if len(targets) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	fam := familyOf(targets[0])
	conn, err := listen(ctx, fam.network)
	if err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	defer conn.Close()
	waiting := map[int]netip.Addr{} // by sequence number
	for i, to := range targets {
		waiting[i+1] = to
	}
	id := os.Getpid() & 0xffff
	for len(waiting) > 0 && ctx.Err() == nil {
		for seq, to := range waiting {
			if err := sendEcho(conn, fam, id, seq, to); err != nil {
				return fmt.Errorf("ping %s: %w", to, err)
			}
		}
		if err := receiveEchos(conn, fam, id, waiting); err != nil {
			return err
		}
	}
	if len(waiting) > 0 {
		return fmt.Errorf("no answer from %v within %v", slices.Collect(maps.Values(waiting)), pingTimeout)
	}
	return nil
}

func sendEcho(conn net.PacketConn, fam family, id, seq int, to netip.Addr) error {
	msg := icmp.Message{Type: fam.request, Body: &icmp.Echo{ID: id, Seq: seq, Data: []byte("railyard")}}
	data, err := msg.Marshal(nil) // the kernel fills in the checksum of ICMPv6
	if err != nil {
		return err
	}
	_, err = conn.WriteTo(data, &net.IPAddr{IP: to.AsSlice()})
	if errors.Is(err, unix.EHOSTUNREACH) {
		return nil // an answer to an earlier request of ours: neighbour discovery failed; the next one tries again
	}
	return err
}

// receiveEchos takes answers off waiting until there is none left or it is time to ask again.
func receiveEchos(conn net.PacketConn, fam family, id int, waiting map[int]netip.Addr) error {
	if err := conn.SetReadDeadline(time.Now().Add(pingInterval)); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for len(waiting) > 0 {
		size, from, err := conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.EHOSTUNREACH) {
			return nil
		}
		if err != nil {
			return err
		}
		msg, err := icmp.ParseMessage(fam.protocol, buf[:size])
		if err != nil || msg.Type != fam.reply {
			continue
		}
		echo, ok := msg.Body.(*icmp.Echo)
		if !ok || echo.ID != id {
			continue
		}
		addr, ok := netip.AddrFromSlice(from.(*net.IPAddr).IP)
		if ok && waiting[echo.Seq] == addr.Unmap() {
			delete(waiting, echo.Seq)
		}
	}
	return nil
}
