// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/client"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/ipam/wire"
)

// openStore is what an agent does when it starts: a store, the pools, and what the node owns of them.
func openStore(ctx context.Context, dir string) (*store.Store, error) {
	options, err := store.SystemOptions()
	if err != nil {
		return nil, err
	}
	s, err := store.Open(ctx, client.StorePath(dir), options)
	if err != nil {
		return nil, err
	}
	pool, err := ipam.ParsePool(ipam.PoolSpec{
		Name: "rail0",
		IPv4: &ipam.SubnetSpec{Subnet: "10.20.0.0/16", Gateway: "10.20.0.1", Reserved: []string{"10.20.255.0/24"}},
		IPv6: &ipam.SubnetSpec{Subnet: "fd00:20::/64"},
	})
	if err != nil {
		return nil, err
	}
	if err := s.SetPool(pool); err != nil {
		return nil, err
	}
	for i, subnet := range pool.Subnets { // the agent claims these through the API first
		slot := subnet.SlotAt(uint64(i))
		h := store.Holding{Block: ipam.BlockName(pool.Name, slot), Pool: pool.Name, Slot: slot, Ranges: subnet.LeasableIn(slot)}
		if err := s.Grant(h); err != nil {
			return nil, err
		}
	}
	return s, s.Recovered()
}

// A program that is the node's only user of a pool leases in process, on a store.
func Example_inProcess() {
	dir, err := os.MkdirTemp("", "ipam")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	s, err := openStore(ctx, dir)
	if err != nil {
		panic(err)
	}
	defer s.Close()

	vm := ipam.Request{Key: ipam.Key{Network: "vms", ContainerID: "vm-4711", IfName: "eth0"}, Pool: "rail0"}
	lease, err := s.Lease(ctx, vm)
	if err != nil {
		panic(err)
	}
	for _, a := range lease.Addresses {
		fmt.Println(a.Prefix, a.Gateway)
	}
	again, err := s.Lease(ctx, vm)
	fmt.Println("again:", again.Addresses[0].Prefix, err)
	fmt.Println("released:", s.Release(ctx, vm.Key))
	fmt.Println("check:", s.Check())
	// Output:
	// 10.20.0.2/16 10.20.0.1
	// fd00:20::40/64 invalid IP
	// again: 10.20.0.2/16 <nil>
	// released: <nil>
	// check: <nil>
}

// Any other program, such as a DRA driver, leases from the node's agent over its socket. While no agent runs, the
// same client takes the node's store.
func Example_socket() {
	dir, err := os.MkdirTemp("", "ipam")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ctx, stop := context.WithCancel(context.Background())
	s, err := openStore(ctx, dir)
	if err != nil {
		panic(err)
	}
	l, err := wire.Listen(client.SocketPath(dir)) // here begins the agent
	if err != nil {
		panic(err)
	}
	served := make(chan error)
	go func() { served <- wire.Serve(ctx, l, s, slog.New(slog.DiscardHandler)) }()

	leaser := client.New(client.SocketPath(dir), client.StorePath(dir))
	claim := ipam.Request{
		Key:    ipam.Key{Network: "dra", ContainerID: "claim-6f1c", IfName: "rail0"},
		Pool:   "rail0",
		Static: []netip.Addr{netip.MustParseAddr("10.20.0.9")},
	}
	_, err = leaser.Lease(context.Background(), claim)
	var field *ipam.FieldError
	fmt.Println(errors.Is(err, ipam.ErrInvalid), errors.As(err, &field), field.Field)

	claim.Static = nil
	lease, err := leaser.Lease(context.Background(), claim)
	fmt.Println("from the agent:", lease.Addresses[0].Prefix, err)

	stop() // the agent goes away
	fmt.Println("stopped:", <-served, s.Close())
	lease, err = leaser.Lookup(context.Background(), claim.Key)
	fmt.Println("from the store:", lease.Addresses[0].Prefix, err)
	fmt.Println("files:", filepath.Base(client.SocketPath(dir)), filepath.Base(client.StorePath(dir)))
	// Output:
	// true true ips[0]
	// from the agent: 10.20.0.2/16 <nil>
	// stopped: <nil> <nil>
	// from the store: 10.20.0.2/16 <nil>
	// files: agent.sock ipam.db
}
