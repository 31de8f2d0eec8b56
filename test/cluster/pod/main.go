// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Command pod is all that runs in the pods of tests, and in their sandboxes.
//
//	pod              waits for SIGTERM
//	pod ping ADDR... returns when all have answered
//	pod simulate DIR FROM makes in DIR the hardware of the drawing in FROM (package test/sysfs)
//	pod look         prints its environment, and the devices that it has been given
//	pod keep ADDR... pings them over and over until SIGTERM, and fails when one does not answer for ten seconds
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/railyard-net/railyard/test/cluster/echo"
	"github.com/railyard-net/railyard/test/sysfs"
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
	case args[0] == "keep" && len(args) > 1:
		return keepPinging(ctx, args[1:])
	case args[0] == "look":
		return look(os.Stdout)
	case args[0] == "simulate" && len(args) == 3:
		return simulate(args[1], args[2])
	default:
		return errors.New("usage: pod, or pod look, or pod ping|keep with addresses, or pod simulate with two folders")
	}
}

func keepPinging(ctx context.Context, args []string) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := ping(ctx, args); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func ping(ctx context.Context, args []string) error {
	var v4, v6 []netip.Addr
	for _, arg := range args {
		to, err := netip.ParseAddr(arg)
		if err != nil {
			return err
		}
		if to.Is4() {
			v4 = append(v4, to)
		} else {
			v6 = append(v6, to)
		}
	}
	listen := func(ctx context.Context, network string) (net.PacketConn, error) {
		return (&net.ListenConfig{}).ListenPacket(ctx, network, "")
	}
	return errors.Join(echo.Ping(ctx, listen, v4...), echo.Ping(ctx, listen, v6...))
}

func simulate(dir, from string) error {
	drawing, err := os.ReadFile(filepath.Join(from, "drawing"))
	if err != nil {
		return err
	}
	m, err := sysfs.Draw(string(drawing))
	if err != nil {
		return err
	}
	return errors.Join(m.Write(dir), m.WriteDevices(dir, filepath.Join(from, "libnvidia-ml.so.1")))
}

// look prints what devices come as.
func look(out io.Writer) error {
	for _, v := range os.Environ() {
		if _, err := fmt.Fprintln(out, v); err != nil {
			return err
		}
	}
	for _, pattern := range []string{"/dev/infiniband/*", "/dev/nvidia*"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, f := range files {
			if _, err := fmt.Fprintln(out, f); err != nil {
				return err
			}
		}
	}
	return nil
}
