// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/ipam"
)

// standard is a store whose node holds 10.20.0.1..15 (without .1, the gateway), the reserved .241 and fd00:20::1..f.
func standard(t *testing.T, change func(*ipam.PoolSpec)) (*Store, *clock, ipam.Pool) {
	t.Helper()
	c := newClock()
	s, p := newStore(t, c), testPool(t, change)
	setPool(t, s, p)
	grant(t, s, p, "10.20.0.0", "fd00:20::")
	h := slotHolding(t, p, netip.MustParseAddr("10.20.0.241"))
	h.Ranges = ranges(t, "10.20.0.241")
	if err := s.Grant(h); err != nil {
		t.Fatal(err)
	}
	return s, c, p
}

func static(texts ...string) (out []netip.Addr) {
	for _, s := range texts {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestLease(t *testing.T) {
	s, c, _ := standard(t, func(p *ipam.PoolSpec) { p.Routes = []ipam.RouteSpec{{Dst: "10.0.0.0/8"}} })
	req := ipam.Request{Key: key(1), Pool: "rail0", NetNS: ipam.NetNS{Path: "/run/netns/a", Ino: 1}, Pod: ipam.Pod{Namespace: "ns", Name: "pod", UID: "u"}}
	got, err := s.Lease(background, req)
	if err != nil {
		t.Fatal(err)
	}
	want := ipam.Lease{
		Key: key(1), Pool: "rail0", NetNS: req.NetNS, Pod: req.Pod, Since: c.options().Wall().UTC(),
		Addresses: []ipam.Address{
			{Prefix: netip.MustParsePrefix("10.20.0.2/24"), Gateway: netip.MustParseAddr("10.20.0.1")},
			{Prefix: netip.MustParsePrefix("fd00:20::1/64")},
		},
		Routes: []ipam.Route{{Dst: netip.MustParsePrefix("10.0.0.0/8"), Via: netip.MustParseAddr("10.20.0.1")}},
	}
	same := cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}
	if d := cmp.Diff(want, got, same); d != "" {
		t.Errorf("lease (-want +got):\n%s", d)
	}
	for range 3 {
		again, err := s.Lease(background, req)
		if err != nil {
			t.Fatal(err)
		}
		looked, err := s.Lookup(background, req.Key)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]ipam.Lease{want, want}, []ipam.Lease{again, looked}, same); d != "" {
			t.Errorf("repeated (-want +got):\n%s", d)
		}
	}
	moved := req
	moved.NetNS.Ino = 2
	if got, err = s.Lease(background, moved); err != nil || got.NetNS != moved.NetNS || !slices.Equal(addrs(got), addrs(want)) {
		t.Errorf("in another namespace: %+v, %v", got, err)
	}
	for range 2 {
		if err := s.Release(background, req.Key); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Lookup(background, req.Key); !errors.Is(err, ipam.ErrNotFound) {
		t.Errorf("after release: %v", err)
	}
}

func TestLeaseRefuses(t *testing.T) {
	over, cancel := context.WithCancel(background)
	cancel()
	cases := map[string]struct {
		ctx       context.Context
		before    func(*testing.T, *Store, ipam.Pool)
		req       ipam.Request
		want      error
		wantField string
	}{
		"unknown pool":           {req: ipam.Request{Key: key(1), Pool: "other"}, want: ipam.ErrPoolUnknown},
		"context over":           {ctx: over, req: request(1), want: ipam.ErrUnavailable},
		"no key":                 {req: ipam.Request{Pool: "rail0"}, want: ipam.ErrInvalid, wantField: "network"},
		"name as path":           {req: ipam.Request{Key: key(1), Pool: "../rail0"}, want: ipam.ErrInvalid, wantField: "pool"},
		"static outside":         {req: ipam.Request{Key: key(1), Pool: "rail0", Static: static("10.21.0.1")}, want: ipam.ErrInvalid, wantField: "ips[0]"},
		"static in the queue":    {req: ipam.Request{Key: key(1), Pool: "rail0", Static: static("10.20.0.7")}, want: ipam.ErrInvalid, wantField: "ips[0]"},
		"static, second is bad":  {req: ipam.Request{Key: key(1), Pool: "rail0", Static: static("10.20.0.241", "fd00:20::7")}, want: ipam.ErrInvalid, wantField: "ips[1]"},
		"static is not ours":     {req: ipam.Request{Key: key(1), Pool: "rail0", Static: static("10.20.0.242")}, want: ipam.ErrPoolFull},
		"static is taken":        {before: leaseStatic, req: ipam.Request{Key: key(1), Pool: "rail0", Static: static("10.20.0.241")}, want: ipam.ErrTaken},
		"closed":                 {before: closePool, req: request(1), want: ipam.ErrPoolClosed},
		"key holds another pool": {before: leaseFirst, req: ipam.Request{Key: key(0), Pool: "rail1"}, want: ipam.ErrInvalid, wantField: "pool"},
		"key holds another one":  {before: leaseFirst, req: ipam.Request{Key: key(0), Pool: "rail0", Static: static("10.20.0.241")}, want: ipam.ErrInvalid, wantField: "ips[0]"},
		"key holds a static one": {before: leaseStatic, req: request(0), want: ipam.ErrInvalid, wantField: "ips"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s, _, p := standard(t, nil)
			if c.before != nil {
				c.before(t, s, p)
			}
			if c.ctx == nil {
				c.ctx = background
			}
			before, err := s.Stats()
			if err != nil {
				t.Fatal(err)
			}
			l, err := s.Lease(c.ctx, c.req)
			if !errors.Is(err, c.want) || len(l.Addresses) > 0 {
				t.Fatalf("got %+v, %v, want %v", l, err, c.want)
			}
			var field *ipam.FieldError
			if errors.As(err, &field) && field.Field != c.wantField || field == nil && c.wantField != "" {
				t.Errorf("got %v, want an error on %q", err, c.wantField)
			}
			after, err := s.Stats()
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(before, after); d != "" {
				t.Errorf("it left something behind (-before +after):\n%s", d)
			}
		})
	}
}

func leaseFirst(t *testing.T, s *Store, _ ipam.Pool) {
	if _, err := s.Lease(background, request(0)); err != nil {
		t.Fatal(err)
	}
}

func leaseStatic(t *testing.T, s *Store, _ ipam.Pool) {
	l, err := s.Lease(background, ipam.Request{Key: key(0), Pool: "rail0", Static: static("10.20.0.241")})
	if err != nil || !slices.Equal(addrs(l), []string{"10.20.0.241", "fd00:20::1"}) {
		t.Fatalf("got %v, %v", addrs(l), err)
	}
}

func closePool(t *testing.T, s *Store, p ipam.Pool) {
	leaseFirst(t, s, p)
	p.Closed = "not for this node"
	setPool(t, s, p)
	leaseFirst(t, s, p) // what is leased stays so, and is answered again
}

// NoRoom says exactly what the node lacks, for the agent to claim it.
func TestNoRoom(t *testing.T) {
	s, c, _ := standard(t, nil)
	for i := range 14 { // .2 to .15
		if _, err := s.Lease(background, request(i)); err != nil {
			t.Fatal(i, err)
		}
	}
	lacks := func(want NoRoom, static ...netip.Addr) {
		t.Helper()
		_, err := s.Lease(background, ipam.Request{Key: key(99), Pool: "rail0", Static: static})
		var got *NoRoom
		if !errors.As(err, &got) || !errors.Is(err, ipam.ErrPoolFull) {
			t.Fatalf("got %v, want %v", err, want)
		}
		if d := cmp.Diff(want, *got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Errorf("no room (-want +got):\n%s", d)
		}
	}
	four := netip.MustParseAddr("10.20.0.250")
	lacks(NoRoom{Pool: "rail0", Is4: true})
	lacks(NoRoom{Pool: "rail0", Static: static("10.20.0.250")}, four)
	if err := s.Release(background, key(3)); err != nil {
		t.Fatal(err)
	}
	lacks(NoRoom{Pool: "rail0", Is4: true, Cooling: true})
	if err := s.Ready(background, "rail0"); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("ready: %v", err)
	}
	c.advance(time.Minute - 1)
	lacks(NoRoom{Pool: "rail0", Is4: true, Cooling: true})
	c.advance(1)
	if err := s.Ready(background, "rail0"); err != nil {
		t.Errorf("ready: %v", err)
	}
	l, err := s.Lease(background, request(99))
	if want := []string{"10.20.0.5", "fd00:20::f"}; err != nil || !slices.Equal(addrs(l), want) {
		t.Errorf("after the cooldown: %v, %v, want %v", addrs(l), err, want)
	}
}

// The queue is first in, first out: what was never used comes first, then what was released longest ago.
func TestQueue(t *testing.T) {
	s, c, _ := standard(t, nil)
	lease := func(i int, do func(context.Context, ipam.Request) (ipam.Lease, error), want string) {
		t.Helper()
		l, err := do(background, request(i))
		if err != nil || addrs(l)[0] != want {
			t.Fatalf("lease %d: got %v, %v, want %s", i, addrs(l), err, want)
		}
	}
	for i := range 14 {
		lease(i, s.Lease, fmt.Sprintf("10.20.0.%d", i+2))
	}
	order := []int{7, 2, 11, 5}
	for _, i := range order {
		c.advance(time.Second)
		if err := s.Release(background, key(i)); err != nil {
			t.Fatal(err)
		}
	}
	c.advance(time.Minute - 3*time.Second) // the first has cooled, the others not
	lease(100, s.Lease, "10.20.0.9")
	lease(101, s.LeaseReusing, "10.20.0.4")
	c.advance(time.Hour)
	lease(102, s.Lease, "10.20.0.13")
	lease(103, s.Lease, "10.20.0.7")
}

func TestStaticDoesNotCool(t *testing.T) {
	s, _, p := standard(t, nil)
	for range 3 {
		leaseStatic(t, s, p)
		if err := s.Release(background, key(0)); err != nil {
			t.Fatal(err)
		}
		// its IPv6 half does cool, so take back what is due first
		s.options.Now = func() time.Duration { return 100 * time.Hour }
		if _, err := s.Withdraw("rail0.fd00-20-0-0-0-0-0-0", ranges(t, "fd00:20::1")...); err != nil {
			t.Fatal(err)
		}
		grant(t, s, p, "fd00:20::")
	}
}

func TestByNameOnly(t *testing.T) {
	s, _, _ := standard(t, nil)
	p := testPool(t, func(p *ipam.PoolSpec) {
		p.Name, p.IPv6 = "named", nil
		p.IPv4.Ranges = []string{"10.20.0.240/28"}
	})
	setPool(t, s, p)
	var field *ipam.FieldError
	if _, err := s.Lease(background, ipam.Request{Key: key(1), Pool: "named"}); !errors.As(err, &field) || field.Field != "ips" {
		t.Errorf("got %v", err)
	}
	if err := s.Ready(background, "named"); err != nil {
		t.Errorf("ready: %v", err)
	}
}
