// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go4.org/netipx"
	"pgregory.net/rapid"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// machine runs a store and its model side by side. Every action is one that an agent may take at any time.
type machine struct {
	model
	path  string
	clock *clock
	store *Store
	pools map[string]ipam.Pool
	slots []Holding
}

// TestModel drives random histories: of leases, grants, retirements, pool edits, time, and of processes that die
// and open the store again.
func TestModel(t *testing.T) {
	pools := map[string]ipam.Pool{
		"plain": testPool(t, nil),
		"excluded": testPool(t, func(s *ipam.PoolSpec) {
			s.IPv4.Exclude = []string{"10.20.0.8/29", "10.20.0.20"}
			s.IPv6.Exclude = []string{"fd00:20::10/125"}
		}),
		"unreserved": testPool(t, func(s *ipam.PoolSpec) { s.IPv4.Reserved = []string{"10.20.0.248/29"} }),
	}
	closed := pools["plain"]
	closed.Closed = "not for this node"
	pools["closed"] = closed
	base := t.TempDir()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		m := &machine{path: filepath.Join(base, fmt.Sprint(n), "ipam.db"), clock: newClock(), pools: pools}
		m.model = model{pool: pools["plain"], cooldown: ipam.DefaultCooldown, blocks: map[string]*modelBlock{}, released: map[netip.Addr]time.Duration{}, leases: map[ipam.Key][]netip.Addr{}, named: map[ipam.Key]bool{}}
		for _, a := range []string{"10.20.0.0", "10.20.0.16", "10.20.0.240", "fd00:20::", "fd00:20::10"} {
			h := slotHolding(t, m.pool, netip.MustParseAddr(a))
			if a == "10.20.0.240" {
				h.Ranges = ranges(t, "10.20.0.240-10.20.0.250") // reserved, so only by name
			}
			m.slots = append(m.slots, h)
		}
		m.open(rt)
		defer func() { _ = m.store.Close() }()
		m.must(rt, m.store.SetPool(m.pool))
		rt.Repeat(map[string]func(*rapid.T){
			"": m.check, "lease": m.Lease, "release": m.Release, "retain": m.Retain, "grant": m.Grant, "retire": m.Retire, "withdraw": m.Withdraw, "withdrawFree": m.WithdrawFree,
			"forget": m.Forget, "setPool": m.SetPool, "restore": m.Restore, "wait": m.Wait, "reopen": m.Reopen,
		})
	})
	if err := os.RemoveAll(base); err != nil {
		t.Error(err)
	}
}

func (m *machine) open(t *rapid.T) {
	s, err := Open(background, m.path, m.clock.options())
	m.must(t, err)
	m.store = s
}

func (m *machine) must(t *rapid.T, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

func (m *machine) key(t *rapid.T) ipam.Key { return key(rapid.IntRange(0, 20).Draw(t, "key")) }

func (m *machine) block(t *rapid.T) Holding { return rapid.SampledFrom(m.slots).Draw(t, "block") }

func (m *machine) Lease(t *rapid.T) {
	req := ipam.Request{Key: m.key(t), Pool: "rail0"}
	if rapid.IntRange(0, 3).Draw(t, "named") == 0 {
		req.Static = []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.20.0.%d", rapid.IntRange(248, 252).Draw(t, "static")))}
	}
	reuse := rapid.Bool().Draw(t, "reuse")
	want, wantErr := m.lease(req.Key, req.Static, reuse)
	do := m.store.Lease
	if reuse {
		do = m.store.LeaseReusing
	}
	got, err := do(background, req)
	if !errors.Is(err, wantErr) || (err == nil) != (wantErr == nil) {
		t.Fatalf("got error %v, want %v", err, wantErr)
	}
	var have []netip.Addr
	for _, a := range got.Addresses {
		have = append(have, a.Prefix.Addr())
	}
	if !slices.Equal(have, want) {
		t.Fatalf("leased %v, want %v", have, want)
	}
	var room *NoRoom
	if errors.As(err, &room) && room.Cooling {
		if _, err := m.store.LeaseReusing(background, req); err != nil {
			t.Fatalf("said to be cooling only: %v", err)
		}
		_, _ = m.lease(req.Key, req.Static, true)
	}
}

func (m *machine) Release(t *rapid.T) {
	k := m.key(t)
	m.release(k)
	m.must(t, m.store.Release(background, k))
}

func (m *machine) Retain(t *rapid.T) {
	var keep []ipam.Key
	drop := 0
	for _, k := range slices.SortedFunc(maps.Keys(m.leases), func(a, b ipam.Key) int { return cmpKeys(a, b) }) {
		if rapid.Bool().Draw(t, "keep") {
			keep = append(keep, k)
		} else {
			m.release(k)
			drop++
		}
	}
	if other, err := m.store.Retain(background, "ne", nil); err != nil || other != 0 {
		t.Fatalf("another network lost %d leases: %v", other, err)
	}
	if n, err := m.store.Retain(background, "net", keep); err != nil || n != drop {
		t.Fatalf("dropped %d leases, want %d: %v", n, drop, err)
	}
}

func cmpKeys(a, b ipam.Key) int { return slices.Compare(leaseKey(a), leaseKey(b)) }

func (m *machine) Grant(t *rapid.T) {
	h := m.block(t)
	if b := m.blocks[h.Block]; b == nil {
		m.blocks[h.Block] = &modelBlock{Holding: h, since: m.now}
	} else if !b.Retired {
		b.Ranges = h.Ranges
	}
	m.requeue(0)
	m.must(t, m.store.Grant(h))
}

func (m *machine) Retire(t *rapid.T) {
	h, idle := m.block(t), time.Duration(rapid.IntRange(0, 100).Draw(t, "idle"))*time.Second
	want := true
	if b := m.blocks[h.Block]; b != nil && !b.Retired {
		want = m.now-b.since >= idle && !m.busy(h.Slot, max(idle, m.cooldown))
		b.Retired = want
	}
	m.requeue(0)
	if got, err := m.store.Retire(h.Block, idle); err != nil || got != want {
		t.Fatalf("retired %v, want %v: %v", got, want, err)
	}
}

func (m *machine) Withdraw(t *rapid.T) {
	h := m.block(t)
	a := h.Slot.Addr()
	for range rapid.IntRange(1, 14).Draw(t, "offset") {
		a = a.Next()
	}
	part := iprange.Of(a)
	want := true
	if b := m.blocks[h.Block]; b != nil && !b.Retired {
		if want = !m.leasedIn(part.Contains); want {
			b.Ranges = without(b.Ranges, part)
		}
	}
	m.requeue(0)
	if got, err := m.store.Withdraw(h.Block, part); err != nil || got != want {
		t.Fatalf("withdrawn %v, want %v: %v", got, want, err)
	}
}

// WithdrawFree leaves the choice to the store, within what may be chosen.
func (m *machine) WithdrawFree(t *rapid.T) {
	h, n, cooling := m.block(t), rapid.IntRange(1, 6).Draw(t, "n"), rapid.Bool().Draw(t, "cooling")
	got, err := m.store.WithdrawFree(h.Block, n, cooling)
	m.must(t, err)
	rested, cools := m.freeIn(h)
	from := rested
	if len(rested) == 0 && cooling {
		from = cools
	}
	taken := 0
	for _, r := range got {
		for a := r.From(); r.Contains(a); a = a.Next() {
			if !slices.Contains(from, a) {
				t.Fatalf("withdrew %s, of %v", a, from)
			}
			taken++
		}
		m.blocks[h.Block].Ranges = without(m.blocks[h.Block].Ranges, r)
	}
	if taken != min(n, len(from)) {
		t.Fatalf("withdrew %v, want %d of %v", got, n, from)
	}
	m.requeue(0)
}

func (m *machine) Forget(t *rapid.T) {
	h := m.block(t)
	if b := m.blocks[h.Block]; b == nil || !b.Retired {
		t.Skip("only a retired block is forgotten")
	}
	delete(m.blocks, h.Block)
	m.must(t, m.store.Forget(h.Block))
}

func (m *machine) SetPool(t *rapid.T) {
	m.pool = m.pools[rapid.SampledFrom(slices.Sorted(maps.Keys(m.pools))).Draw(t, "pool")]
	m.requeue(m.now)
	m.must(t, m.store.SetPool(m.pool))
}

func (m *machine) Restore(t *rapid.T) {
	k, a := m.key(t), netip.MustParseAddr(fmt.Sprintf("10.20.0.%d", rapid.IntRange(1, 31).Draw(t, "addr")))
	have, ok := m.leases[k]
	if ok {
		t.Skip("the key is leased")
	}
	_, taken := m.owner(a)
	err := m.store.Restore(ipam.Lease{Key: k, Pool: "rail0", Addresses: []ipam.Address{{Prefix: netip.PrefixFrom(a, 32)}}})
	if want := taken || !m.covered(a); want != errors.Is(err, ipam.ErrTaken) || (err != nil) != want {
		t.Fatalf("restore of %s: %v", a, err)
	}
	if err == nil {
		m.leases[k] = append(have, a)
		delete(m.released, a)
	}
}

func (m *machine) Wait(t *rapid.T) {
	d := time.Duration(rapid.IntRange(1, 90).Draw(t, "seconds")) * time.Second
	m.clock.advance(d)
}

// Reopen is a process that ended and another that took over.
func (m *machine) Reopen(t *rapid.T) {
	m.must(t, m.store.Close())
	m.open(t)
}

// check compares everything that the store tells with the model, after every action.
func (m *machine) check(t *rapid.T) {
	m.now = m.clock.now()
	m.must(t, m.store.Check())
	ls, err := m.store.Leases()
	m.must(t, err)
	got := map[ipam.Key][]netip.Addr{}
	for _, l := range ls {
		for _, a := range l.Addresses {
			got[l.Key] = append(got[l.Key], a.Prefix.Addr())
		}
	}
	if d := cmp.Diff(m.leases, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Fatalf("leases (-want +got):\n%s", d)
	}
	want := map[bool]*PoolStats{true: {Pool: "rail0", Is4: true}, false: {Pool: "rail0"}}
	for a, at := range m.released {
		if at > 0 && m.now-at < m.cooldown {
			want[a.Is4()].Cooling++
		} else {
			want[a.Is4()].Free++
		}
	}
	for _, as := range m.leases {
		for _, a := range as {
			want[a.Is4()].Leased++
		}
	}
	for _, b := range m.blocks {
		want[b.Slot.Addr().Is4()].Blocks++
	}
	stats, err := m.store.Stats()
	m.must(t, err)
	if d := cmp.Diff([]PoolStats{*want[true], *want[false]}, stats); d != "" {
		t.Fatalf("stats (-want +got):\n%s", d)
	}
}

func without(ranges []iprange.Range, part iprange.Range) []iprange.Range {
	var b netipx.IPSetBuilder
	b.AddSet(iprange.Set(ranges...))
	b.RemoveSet(iprange.Set(part))
	set, _ := b.IPSet()
	return iprange.Ranges(set)
}
