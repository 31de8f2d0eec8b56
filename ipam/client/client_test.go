// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/client"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/ipam/wire"
)

// node is a state folder with what an agent keeps there. The agent is what start starts.
type node struct {
	dir      string
	cooldown time.Duration
	stop     context.CancelFunc
	done     chan error
	store    *store.Store
}

func newNode(t *testing.T) *node { return &node{dir: t.TempDir(), cooldown: time.Minute} }

// open takes the store as an agent does, with room for 13 leases.
func (n *node) open(t *testing.T) *store.Store {
	t.Helper()
	o, err := store.SystemOptions()
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), client.StorePath(n.dir), o)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ipam.ParsePool(ipam.PoolSpec{Name: "rail0", Cooldown: &n.cooldown, IPv4: &ipam.SubnetSpec{Subnet: "10.20.0.0/24", Gateway: "10.20.0.1", BlockSize: 16}})
	if err != nil {
		t.Fatal(err)
	}
	sub := p.Subnets[0]
	slot := sub.SlotAt(0)
	if err := errors.Join(s.SetPool(p), s.Grant(store.Holding{Block: ipam.BlockName("rail0", slot), Pool: "rail0", Slot: slot, Ranges: sub.LeasableIn(slot)})); err != nil {
		t.Fatal(err)
	}
	return s
}

func (n *node) start(t *testing.T) {
	t.Helper()
	n.store = n.open(t)
	if err := n.store.Recovered(); err != nil {
		t.Fatal(err)
	}
	l, err := wire.Listen(client.SocketPath(n.dir))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	n.stop, n.done = stop, make(chan error, 1)
	go func() { n.done <- wire.Serve(ctx, l, n.store, slog.New(slog.DiscardHandler)) }()
}

func (n *node) end(t *testing.T) {
	t.Helper()
	n.stop()
	if err := errors.Join(<-n.done, n.store.Check(), n.store.Close()); err != nil {
		t.Fatal(err)
	}
}

func (n *node) client() *client.Client {
	return client.New(client.SocketPath(n.dir), client.StorePath(n.dir))
}

func request(i int) ipam.Request {
	return ipam.Request{Key: ipam.Key{Network: "net", ContainerID: fmt.Sprintf("c%d", i), IfName: "net1"}, Pool: "rail0"}
}

func addr(l ipam.Lease) string {
	if len(l.Addresses) == 0 {
		return ""
	}
	return l.Addresses[0].Prefix.Addr().String()
}

// every goes through all that a Leaser does, with or without an agent.
func every(t *testing.T, c ipam.Leaser) {
	t.Helper()
	ctx := t.Context()
	for i := range 3 {
		l, err := c.Lease(ctx, request(i))
		if err != nil {
			t.Fatal(err)
		}
		again, err := c.Lease(ctx, request(i))
		looked, err2 := c.Lookup(ctx, request(i).Key)
		if err := errors.Join(err, err2); err != nil || addr(l) == "" || addr(again) != addr(l) || addr(looked) != addr(l) {
			t.Errorf("%s, then %s, then %s: %v", addr(l), addr(again), addr(looked), err)
		}
	}
	if err := c.Ready(ctx, "rail0"); err != nil {
		t.Error(err)
	}
	bad := request(9)
	bad.Static = l4("10.20.0.9")
	_, err := c.Lease(ctx, bad)
	var field *ipam.FieldError
	if !errors.As(err, &field) || field.Field != "ips[0]" {
		t.Errorf("a bad request: %v", err)
	}
	if _, err := c.Lease(ctx, ipam.Request{}); !errors.As(err, &field) {
		t.Errorf("an empty request: %v", err)
	}
	if err := c.Ready(ctx, "other"); !errors.Is(err, ipam.ErrPoolUnknown) {
		t.Errorf("unknown pool: %v", err)
	}
	if err := errors.Join(c.Release(ctx, request(0).Key), c.Release(ctx, request(0).Key)); err != nil {
		t.Error(err)
	}
	if err := c.Decline(ctx, request(0).Key, ipam.Conflict{Address: netip.MustParseAddr("10.20.0.7")}); !errors.Is(err, ipam.ErrNotFound) {
		t.Errorf("declined what is gone: %v", err)
	}
	if err := c.Decline(ctx, request(0).Key, ipam.Conflict{}); !errors.As(err, &field) {
		t.Errorf("declined nothing: %v", err)
	}
	if n, err := c.Retain(ctx, "net", []ipam.Key{request(1).Key}); n != 1 || err != nil {
		t.Errorf("retain ended %d: %v", n, err)
	}
	if _, err := c.Lookup(ctx, request(2).Key); !errors.Is(err, ipam.ErrNotFound) {
		t.Errorf("after retain: %v", err)
	}
	if err := c.Release(ctx, request(1).Key); err != nil {
		t.Error(err)
	}
}

func TestAgent(t *testing.T) {
	n := newNode(t)
	n.start(t)
	defer n.end(t)
	every(t, n.client())
}

func TestDirect(t *testing.T) {
	n := newNode(t)
	n.start(t)
	n.end(t)
	every(t, n.client())
	if _, err := os.Stat(client.SocketPath(n.dir)); err != nil {
		t.Errorf("the dead socket should be what was dialed: %v", err)
	}
	if err := os.Remove(client.SocketPath(n.dir)); err != nil {
		t.Fatal(err)
	}
	every(t, n.client())
}

// Without an agent, what cools is taken where nothing else is free.
func TestDirectReuses(t *testing.T) {
	n, ctx := newNode(t), t.Context()
	n.start(t)
	n.end(t)
	c := n.client()
	for i := range 14 {
		if _, err := c.Lease(ctx, request(i)); err != nil {
			t.Fatal(i, err)
		}
	}
	if _, err := c.Lease(ctx, request(14)); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("full: %v", err)
	}
	if err := c.Ready(ctx, "rail0"); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("full: %v", err)
	}
	if err := c.Release(ctx, request(4).Key); err != nil {
		t.Fatal(err)
	}
	if err := c.Ready(ctx, "rail0"); err != nil {
		t.Errorf("one cools: %v", err)
	}
	if l, err := c.Lease(ctx, request(14)); err != nil || addr(l) != "10.20.0.6" {
		t.Errorf("got %s, %v", addr(l), err)
	}
}

// A node whose agent never ran, or lost its store, gives nothing; but DEL is not held up by it.
func TestNoStore(t *testing.T) {
	n, ctx := newNode(t), t.Context()
	c := n.client()
	if _, err := c.Lease(ctx, request(0)); !errors.Is(err, store.ErrNoStore) || !errors.Is(err, ipam.ErrUnavailable) {
		t.Errorf("lease: %v", err)
	}
	if err := c.Release(ctx, request(0).Key); err != nil {
		t.Errorf("release: %v", err)
	}
	if k, err := c.Retain(ctx, "net", nil); k != 0 || err != nil {
		t.Errorf("retain: %v", err)
	}
	if _, err := os.Stat(client.StorePath(n.dir)); err == nil {
		t.Error("the client made a store")
	}
	s := n.open(t) // an agent that died before it knew what lives on the node
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Lease(ctx, request(0)); !errors.Is(err, ipam.ErrUnavailable) {
		t.Errorf("from a store that is not rebuilt: %v", err)
	}
	if err := c.Ready(ctx, "rail0"); !errors.Is(err, ipam.ErrUnavailable) {
		t.Errorf("ready: %v", err)
	}
}

// An agent that holds the lock but does not listen yet is waited for, as long as the context says.
func TestWaitsForAgent(t *testing.T) {
	n := newNode(t)
	s := n.open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := n.client().Lease(ctx, request(0)); !errors.Is(err, ipam.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := n.client().Lease(t.Context(), request(0))
		got <- err
	}()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	n.start(t)
	defer n.end(t)
	if err := <-got; err != nil {
		// Between Close and start the store was free, and fresh; anything else must not be an error.
		if !errors.Is(err, ipam.ErrUnavailable) {
			t.Error(err)
		}
	}
}

// A server that hangs up without a reply is asked again; what it did the first time is not done twice.
func TestLostReply(t *testing.T) {
	n := newNode(t)
	n.start(t)
	defer n.end(t)
	proxy := filepath.Join(n.dir, "lossy.sock")
	l, err := wire.Listen(proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for lost := 0; ; lost++ {
			in, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer in.Close()
				forward(in, client.SocketPath(n.dir), lost >= 3)
			})
		}
	})
	defer l.Close()
	c := client.New(proxy, "")
	lease, err := c.Lease(t.Context(), request(0))
	if err != nil || addr(lease) != "10.20.0.2" {
		t.Fatalf("got %s, %v", addr(lease), err)
	}
	if st, err := n.store.Stats(); err != nil || st[0].Leased != 1 {
		t.Errorf("got %+v, %v", st, err)
	}
}

// forward passes one line on, and the reply back if told to.
func forward(in net.Conn, to string, reply bool) {
	out, err := net.Dial("unix", to)
	if err != nil {
		return
	}
	defer out.Close()
	buf := make([]byte, 1<<16)
	k, _ := in.Read(buf)
	if _, err := out.Write(buf[:k]); err != nil {
		return
	}
	k, _ = out.Read(buf)
	if reply {
		_, _ = in.Write(buf[:k])
	}
}

func TestEmptyStorePath(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := client.New(filepath.Join(t.TempDir(), "none"), "").Ready(ctx, "p"); !errors.Is(err, ipam.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

// The agent comes and goes while many lease: nobody notices, and no address is given twice.
func TestHandover(t *testing.T) {
	n := newNode(t)
	n.cooldown = 0
	n.start(t)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			c := n.client()
			for range 15 {
				first, err := c.Lease(t.Context(), request(g))
				second, err2 := c.Lease(t.Context(), request(g))
				err3 := c.Release(t.Context(), request(g).Key)
				if err := errors.Join(err, err2, err3); err != nil || addr(first) != addr(second) {
					t.Errorf("%s, then %s: %v", addr(first), addr(second), err)
				}
			}
			if _, err := c.Lease(t.Context(), request(g)); err != nil {
				t.Error(err)
			}
		})
	}
	finished := make(chan struct{})
	go func() { wg.Wait(); close(finished) }()
	for up := true; ; up = !up {
		if up {
			n.end(t)
		} else {
			n.start(t)
		}
		select {
		case <-finished:
		case <-time.After(time.Millisecond): // some turns of each kind; how many does not matter
			continue
		}
		if up {
			n.start(t)
		}
		break
	}
	defer n.end(t)
	ls, err := n.store.Leases()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, l := range ls {
		all = append(all, addr(l))
	}
	slices.Sort(all)
	if len(all) != 8 || len(slices.Compact(slices.Clone(all))) != 8 {
		t.Errorf("leased %v", all)
	}
}

func l4(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }
