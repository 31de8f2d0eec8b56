// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Command pod is all that runs in the pods of tests, and in their sandboxes.
//
//	pod              waits for SIGTERM
//	pod ping ADDR... returns when all have answered
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"github.com/railyard-net/railyard/test/cluster/echo"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "pod:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 0:
		<-ctx.Done()
		return nil
	case args[0] == "ping" && len(args) > 1:
		return ping(ctx, args[1:])
	default:
		return errors.New("usage: pod | pod ping ADDR...")
	}
}

func ping(ctx context.Context, args []string) error {
	var targets []netip.Addr
	for _, arg := range args {
		to, err := netip.ParseAddr(arg)
		if err != nil {
			return err
		}
		targets = append(targets, to)
	}
	return echo.Ping(ctx, func(ctx context.Context, network string) (net.PacketConn, error) {
		return (&net.ListenConfig{}).ListenPacket(ctx, network, "")
	}, targets...)
}
