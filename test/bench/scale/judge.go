// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/test/sim/check"
	"github.com/railyard-net/railyard/test/sim/see"
)

// leakPatience is how long a node may take to bring its store and the API together after the last request.
const leakPatience = 2 * time.Minute

// verdict is what the checker found. It shares no code with the allocator.
type verdict struct {
	duplicates int // breaches of an invariant: an address owned, leased or answered twice above all
	leaks      int // addresses that the API gives to a node which cannot lease them
	leased     map[string]int
	err        error
}

// judge looks at the whole cluster while nobody asks for anything. A difference between a store and the API that sync, or a hand-over
// under way, will settle is waited for.
func (l *lab) judge(ctx context.Context) (verdict, error) {
	var v verdict
	for began := time.Now(); ; {
		var err error
		if v, err = l.look(ctx); err != nil || v.duplicates+v.leaks == 0 || time.Since(began) > leakPatience {
			return v, err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return v, ctx.Err()
		}
	}
}

func (l *lab) look(ctx context.Context) (verdict, error) {
	v := verdict{leased: map[string]int{}}
	var c check.Cluster
	// Stores first, as what they hold was acknowledged before.
	for _, m := range l.members {
		n, err := see.Node(m.name, m.store)
		if err != nil {
			return v, err
		}
		c.Nodes = append(c.Nodes, n)
		for _, p := range m.living() {
			c.Pods = append(c.Pods, check.Pod{Key: fmt.Sprint(p.key), Node: m.name, Addrs: []netip.Addr{p.addr}})
			v.leased[p.key.Network]++
		}
	}
	var blocks v1alpha1.IPBlockList
	if err := l.admin.List(ctx, &blocks); err != nil {
		return v, err
	}
	for i := range blocks.Items {
		c.Blocks = append(c.Blocks, see.Block(&blocks.Items[i]))
	}
	if v.err = check.Check(c); v.err != nil {
		v.duplicates = 1
		if many, ok := v.err.(interface{ Unwrap() []error }); ok {
			v.duplicates = len(many.Unwrap())
		}
	}
	if err := l.leaks(blocks.Items, c.Nodes); err != nil {
		v.leaks, v.err = err.n, errors.Join(v.err, err)
	}
	return v, nil
}

type leakError struct {
	n     int
	first string
}

func (e *leakError) Error() string {
	return fmt.Sprintf("%d addresses are a node's by the API, and not in its store, the first is %s", e.n, e.first)
}

// leaks finds addresses that nobody can lease: a node's by the API, and not held by its store.
func (l *lab) leaks(blocks []v1alpha1.IPBlock, nodes []check.Node) *leakError {
	held := map[netip.Addr]string{}
	for _, n := range nodes {
		for _, h := range n.Holdings {
			for _, r := range h.Ranges {
				see.Each(r, func(a netip.Addr) { held[a] = n.Name })
			}
		}
	}
	var e leakError
	for i := range blocks {
		b, err := blocks[i].Block()
		if err != nil {
			continue // check has said it
		}
		for _, s := range b.Shares {
			for _, r := range see.Ranges(s.Ranges) {
				see.Each(r, func(a netip.Addr) {
					if held[a] != s.Node {
						if e.n++; e.n == 1 {
							e.first = fmt.Sprintf("%s of block %s, node %s", a, b.Name, s.Node)
						}
					}
				})
			}
		}
	}
	if e.n == 0 {
		return nil
	}
	return &e
}
