// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/iprange"
)

func TestRestore(t *testing.T) {
	four, six := netip.MustParseAddr("10.20.0.7"), netip.MustParseAddr("fd00:20::7")
	lease := func(i int, as ...netip.Addr) ipam.Lease {
		l := ipam.Lease{Key: key(i), Pool: "rail0", NetNS: ipam.NetNS{Path: "/run/netns/a"}}
		for _, a := range as {
			l.Addresses = append(l.Addresses, ipam.Address{Prefix: netip.PrefixFrom(a, a.BitLen())})
		}
		return l
	}
	s, _, _ := standard(t, nil)
	for _, step := range []struct {
		lease ipam.Lease
		want  error
	}{
		{lease(1, four), nil}, {lease(1, four), nil}, {lease(1, six), nil}, {lease(1, four, six), nil},
		{lease(2, four), ipam.ErrTaken}, {lease(2, static("10.20.0.8", "10.20.0.99")...), ipam.ErrTaken},
		{lease(2), ipam.ErrInvalid}, {lease(3, netip.MustParseAddr("10.20.0.241")), nil},
		{ipam.Lease{Key: key(9), Pool: "none", Addresses: lease(1, four).Addresses}, ipam.ErrPoolUnknown},
		{lease(4, netip.Addr{}), ipam.ErrTaken},
	} {
		if err := s.Restore(step.lease); !errors.Is(err, step.want) {
			t.Errorf("restore %v of %s: got %v, want %v", addrs(step.lease), step.lease.Key.ContainerID, err, step.want)
		}
	}
	l, err := s.Lease(background, request(1))
	if want := []string{"10.20.0.7", "fd00:20::7"}; err != nil || !slices.Equal(addrs(l), want) || l.Addresses[0].Prefix.Bits() != 24 {
		t.Errorf("got %v, %v, want %v", addrs(l), err, want)
	}
	if _, err := s.Lookup(background, key(2)); !errors.Is(err, ipam.ErrNotFound) {
		t.Errorf("half of a refused lease is there: %v", err)
	}
}

// TestGrantInUse: at no transaction between is an address in use free, whatever the hook does there.
func TestGrantInUse(t *testing.T) {
	c := newClock()
	o := c.options()
	updates := 0
	o.Hit = func(point string) {
		if point == "update" {
			updates++
		}
	}
	s := mustOpen(t, filepath.Join(t.TempDir(), "ipam.db"), o)
	t.Cleanup(func() {
		if err := errors.Join(s.Check(), s.Close()); err != nil {
			t.Error(err)
		}
	})
	p := testPool(t, func(spec *ipam.PoolSpec) { spec.IPv6 = nil })
	setPool(t, s, p)
	lease := func(id int, ino uint64, a string) ipam.Lease {
		return ipam.Lease{
			Key: key(id), Pool: p.Name, NetNS: ipam.NetNS{Path: "/run/netns/x", Dev: 4, Ino: ino, AnchorDev: 1, AnchorIno: 1},
			Addresses: []ipam.Address{{Prefix: netip.PrefixFrom(mustAddr(a), 32)}},
		}
	}
	h := slotHolding(t, p, mustAddr("10.20.0.16"))
	updates = 0
	// The second contradicts the key of the first, the third is found twice, and the last is not this node's.
	got, err := s.GrantInUse(h, []ipam.Lease{lease(1, 7, "10.20.0.17"), lease(1, 8, "10.20.0.18"), lease(2, 9, "10.20.0.17"), lease(3, 9, "10.20.0.99")})
	if err != nil || len(got) != 2 || got[1].Key != RecoveredKey(lease(1, 8, "10.20.0.18")) {
		t.Errorf("restored %+v, %v; want the first two, the second under the key of its namespace", got, err)
	}
	if updates != 1 {
		t.Errorf("%d transactions, want one", updates)
	}
	if stats, err := s.Stats(); err != nil || stats[0].Leased != 2 || stats[0].Free != 14 {
		t.Errorf("Stats: %+v, %v; want 2 leased and the other 14 free", stats, err)
	}
}

// A remembered key may be that of an attachment which is gone, and whose address another one got meanwhile. So it
// frees nothing, and gives nothing to another namespace, until a Lease for the same namespace proves it.
func TestRestoredKeyIsHearsay(t *testing.T) {
	a, b := ipam.NetNS{Path: "/run/netns/a", Ino: 1}, ipam.NetNS{Path: "/run/netns/b", Ino: 2}
	lease := func(i int, n ipam.NetNS, addr string) ipam.Lease {
		return ipam.Lease{Key: key(i), Pool: "rail0", NetNS: n, Addresses: []ipam.Address{{Prefix: netip.PrefixFrom(mustAddr(addr), 32)}}}
	}
	in := func(i int, n ipam.NetNS) ipam.Request {
		r := request(i)
		r.NetNS = n
		return r
	}
	for name, c := range map[string]struct {
		does     func(*Store) error
		wantHeld bool // by the namespace
		wantKey  bool
	}{
		"released": {func(s *Store) error { return s.Release(background, key(1)) }, true, false},
		"retained": {func(s *Store) error { _, err := s.Retain(background, "net", nil); return err }, true, false},
		"leased for another namespace": {func(s *Store) error {
			l, err := s.Lease(background, in(1, b))
			if slices.Contains(addrs(l), "10.20.0.7") {
				t.Errorf("10.20.0.7 lives in %s and is leased to %s", a.Path, b.Path)
			}
			return err
		}, true, true},
		"proven, then released": {func(s *Store) error {
			_, err := s.Lease(background, in(1, a))
			return errors.Join(err, s.Release(background, key(1)))
		}, false, false},
		"the namespace is gone":     {func(s *Store) error { return s.End(key(1), a) }, false, false},
		"another namespace is gone": {func(s *Store) error { return s.End(key(1), b) }, false, true},
		"one more address, elsewhere": {func(s *Store) error {
			if err := s.Restore(lease(1, b, "10.20.0.8")); !errors.Is(err, ipam.ErrInvalid) {
				t.Errorf("one lease in two namespaces: %v", err)
			}
			return nil
		}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			s, _, _ := standard(t, nil)
			if err := errors.Join(s.Restore(lease(1, a, "10.20.0.7")), c.does(s), s.Check()); err != nil {
				t.Fatal(err)
			}
			l, err := s.Lookup(background, RecoveredKey(lease(1, a, "10.20.0.7")))
			if (err == nil) != c.wantHeld || c.wantHeld && !slices.Equal(addrs(l), []string{"10.20.0.7"}) {
				t.Errorf("held by the namespace: %v, %v, want %v", addrs(l), err, c.wantHeld)
			}
			if _, err := s.Lookup(background, key(1)); (err == nil) != c.wantKey {
				t.Errorf("lease under the key: %v, want %v", err, c.wantKey)
			}
		})
	}
}

// Whatever order blocks and pools come and go in, leases live on, and Check reports those that nothing backs.
func TestStrangerDeletesBlock(t *testing.T) {
	s, _, p := standard(t, nil)
	leaseFirst(t, s, p)
	if err := s.Forget("rail0.10-20-0-0"); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(); err == nil {
		t.Error("a lease of a block that is gone, and Check is content")
	}
	if err := s.DropPool("rail0"); !errors.Is(err, ipam.ErrInvalid) {
		t.Errorf("dropped a pool in use: %v", err)
	}
	if l, err := s.Lease(background, request(0)); err != nil || addrs(l)[0] != "10.20.0.2" {
		t.Errorf("the lease did not survive: %v, %v", l, err)
	}
	grant(t, s, p, "10.20.0.0") // the agent made the block anew
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	leases, free, cooling, err := s.BlockLeases("rail0.10-20-0-0")
	if err != nil || len(leases) != 1 || free != 13 || cooling != 0 {
		t.Errorf("block: %v, %d free, %d cooling, %v", leases, free, cooling, err)
	}
}

func TestDirty(t *testing.T) {
	s, c, p := standard(t, nil)
	all := []string{"rail0.10-20-0-0", "rail0.10-20-0-240", "rail0.fd00-20-0-0-0-0-0-0"}
	wants := func(want ...string) {
		t.Helper()
		if d := cmp.Diff(want, s.Dirty()); d != "" {
			t.Errorf("dirty (-want +got):\n%s", d)
		}
	}
	wants(all...)
	wants()
	leaseFirst(t, s, p)
	wants(all[0], all[2])
	leaseFirst(t, s, p) // again: nothing changed
	wants()
	if err := s.Release(background, key(7)); err != nil {
		t.Fatal(err)
	}
	wants()
	if err := s.Release(background, key(0)); err != nil {
		t.Fatal(err)
	}
	wants(all[0], all[2])
	path := filepath.Join(t.TempDir(), "copy.db") // as the next process finds it
	if err := s.db.View(func(tx *bbolt.Tx) error { return tx.CopyFile(path, 0o600) }); err != nil {
		t.Fatal(err)
	}
	next := mustOpen(t, path, c.options())
	if d := cmp.Diff(all, next.Dirty()); d != "" {
		t.Errorf("dirty after opening (-want +got):\n%s", d)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
}

func TestRefusedPoolsAndHoldings(t *testing.T) {
	s, _, p := standard(t, nil)
	otherUID, otherSize, noSix, unparsed := p, p, p, ipam.Pool{Name: "x"}
	otherUID.UID = "uid-2"
	otherSize.Subnets = slices.Clone(p.Subnets)
	otherSize.Subnets[0].BlockSize = 32
	noSix.Subnets = p.Subnets[:1]
	for name, bad := range map[string]ipam.Pool{"UID": otherUID, "block size": otherSize, "family": noSix, "unparsed": unparsed} {
		if err := s.SetPool(bad); !errors.Is(err, ipam.ErrInvalid) {
			t.Errorf("pool with another %s: %v", name, err)
		}
	}
	good := slotHolding(t, p, netip.MustParseAddr("10.20.0.32"))
	for name, change := range map[string]func(*Holding){
		"name": func(h *Holding) { h.Block = "rail0.10-20-0-48" }, "pool": func(h *Holding) { h.Pool = "" },
		"slot":         func(h *Holding) { h.Slot = netip.Prefix{} },
		"huge slot":    func(h *Holding) { h.Slot = netip.MustParsePrefix("10.0.0.0/8"); h.Block = "rail0.10-0-0-0" },
		"foreign slot": func(h *Holding) { h.Slot = netip.MustParsePrefix("10.20.0.32/29"); h.Ranges = nil },
		"range":        func(h *Holding) { h.Ranges = []iprange.Range{iprange.Of(netip.MustParseAddr("10.20.0.48"))} },
		"no range":     func(h *Holding) { h.Ranges = []iprange.Range{{}} },
	} {
		bad := good
		change(&bad)
		if err := s.Grant(bad); !errors.Is(err, ipam.ErrInvalid) {
			t.Errorf("holding with a wrong %s: %v", name, err)
		}
	}
}

// A block of the largest size is granted in one transaction, and trimmed by an edit of its pool.
func TestLargeBlock(t *testing.T) {
	s := newStore(t, newClock())
	large := func(exclude ...string) ipam.Pool {
		return testPool(t, func(p *ipam.PoolSpec) {
			p.IPv4, p.IPv6 = nil, &ipam.SubnetSpec{Subnet: "fd00:20::/64", BlockSize: 4096, Exclude: exclude}
		})
	}
	setPool(t, s, large())
	grant(t, s, large(), "fd00:20::1000")
	counts := func(want int) {
		t.Helper()
		if st, err := s.Stats(); err != nil || len(st) != 1 || st[0].Free+st[0].Cooling != want {
			t.Fatalf("got %+v, %v, want %d free", st, err, want)
		}
	}
	counts(4096)
	setPool(t, s, large("fd00:20::1000/117"))
	counts(2048)
	setPool(t, s, large())
	counts(4096)
	if ok, err := s.Retire("rail0.fd00-20-0-0-0-0-0-1000", 0); ok || err != nil {
		t.Fatalf("retired what joined a moment ago: %v", err)
	}
}
