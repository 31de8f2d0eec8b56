// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/test/cluster"
	"github.com/railyard-net/railyard/test/cluster/echo"
)

// ping sends an echo request out of one interface of a pod, from one of its addresses, to each of the targets, all of src's family.
// It returns when all have answered; an error names those that have not.
func ping(ctx context.Context, n *cluster.Node, netns, link string, src netip.Addr, targets []netip.Addr) error {
	bind := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), link) }), err)
	}}
	err := echo.Ping(ctx, func(ctx context.Context, network string) (conn net.PacketConn, err error) {
		err = n.InPod(netns, func() error {
			conn, err = bind.ListenPacket(ctx, network, src.String())
			return err
		})
		return conn, err
	}, targets...)
	if err != nil {
		return fmt.Errorf("from %s on %s: %w", src, link, err)
	}
	return nil
}
