// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// clock is a boot clock that moves only when told to.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.advance(time.Hour)
	return c
}

func (c *clock) now() time.Duration      { return time.Duration(c.ns.Load()) }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }
func (c *clock) options() Options {
	return Options{BootID: "boot-1", Now: c.now, Wall: func() time.Time { return time.Unix(1_800_000_000, 0) }}
}

func mustOpen(t testing.TB, path string, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newStore gives an empty store that is checked when the test ends.
func newStore(t testing.TB, c *clock) *Store {
	t.Helper()
	s := mustOpen(t, filepath.Join(t.TempDir(), "ipam.db"), c.options())
	t.Cleanup(func() {
		if err := s.Check(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func testPool(t testing.TB, change func(*ipam.PoolSpec)) ipam.Pool {
	t.Helper()
	spec := ipam.PoolSpec{
		Name: "rail0", UID: "uid-1",
		IPv4: &ipam.SubnetSpec{Subnet: "10.20.0.0/24", Gateway: "10.20.0.1", Reserved: []string{"10.20.0.240/28"}, BlockSize: 16},
		IPv6: &ipam.SubnetSpec{Subnet: "fd00:20::/64", BlockSize: 16, Reserved: []string{"fd00:20::f0/124"}},
	}
	if change != nil {
		change(&spec)
	}
	p, err := ipam.ParsePool(spec)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// grant gives the store everything that is leasable in the slot around each address.
func grant(t testing.TB, s *Store, p ipam.Pool, around ...string) {
	t.Helper()
	for _, text := range around {
		if err := s.Grant(slotHolding(t, p, netip.MustParseAddr(text))); err != nil {
			t.Fatal(err)
		}
	}
}

func slotHolding(t testing.TB, p ipam.Pool, a netip.Addr) Holding {
	t.Helper()
	sub, ok := p.Subnet(a)
	if !ok {
		t.Fatalf("%s is not in %s", a, p.Name)
	}
	slot := sub.Slot(a)
	return Holding{Block: ipam.BlockName(p.Name, slot), Pool: p.Name, Slot: slot, Ranges: sub.LeasableIn(slot)}
}

func setPool(t testing.TB, s *Store, p ipam.Pool) {
	t.Helper()
	if err := s.SetPool(p); err != nil {
		t.Fatal(err)
	}
}

func key(i int) ipam.Key {
	return ipam.Key{Network: "net", ContainerID: fmt.Sprintf("c%d", i), IfName: "net1"}
}

func request(i int) ipam.Request { return ipam.Request{Key: key(i), Pool: "rail0"} }

func addrs(l ipam.Lease) []string {
	var out []string
	for _, a := range l.Addresses {
		out = append(out, a.Prefix.Addr().String())
	}
	return out
}

func ranges(t testing.TB, texts ...string) (out []iprange.Range) {
	t.Helper()
	for _, text := range texts {
		r, err := iprange.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

var background = context.Background()

func mustAddr(s string) netip.Addr { return netip.MustParseAddr(s) }
