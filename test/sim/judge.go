// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/test/sim/check"
	"github.com/railyard-net/railyard/test/sim/see"
)

// seen is what was last read of a node's store.
type seen struct{ check.Node }

// excuses are the addresses that somebody took from their owners by hand, and when.
type excuses map[netip.Addr]time.Duration

// excused is how long at least they are not held against anybody: by then every request that was under way has ended.
const excused = time.Minute

// check judges the cluster after a step that changed something. Of a large cluster not every step is judged, but none of its
// changes is ever undone without a later one to be judged.
func (w *world) check() {
	for _, n := range w.nodes {
		w.dirty = w.dirty || n.touched.Load()
	}
	if !w.dirty || w.failed() != nil {
		return
	}
	if w.skipped++; w.skipped < len(w.nodes)*len(w.nodes)/64 {
		return
	}
	w.dirty, w.skipped = false, 0
	w.judge()
}

func (w *world) judge() {
	for _, n := range w.nodes {
		w.look(n)
	}
	c := w.cluster()
	w.Checks++
	if len(w.excuses) > 0 && check.Check(c) == nil {
		for a, since := range w.excuses {
			if w.now()-since > excused {
				delete(w.excuses, a)
			}
		}
	}
	c.Excused = func(a netip.Addr) bool { _, ok := w.excuses[a]; return ok }
	if err := check.Check(c); err != nil {
		w.fail(err)
	}
}

// cluster is all that can be seen from outside.
func (w *world) cluster() check.Cluster {
	var c check.Cluster
	for _, b := range w.api.blocks() {
		c.Blocks = append(c.Blocks, see.Block(b))
	}
	for _, r := range w.api.reservations() {
		x := check.Reservation{Name: r.Name}
		if u := r.Spec.User; u != nil {
			x.Node, x.Session = u.Node, u.Session
		}
		c.Reservations = append(c.Reservations, x)
	}
	for _, n := range w.nodes {
		c.Nodes = append(c.Nodes, n.seen.Node)
		for _, p := range n.pods {
			if p != nil && len(p.has) > 0 {
				c.Pods = append(c.Pods, check.Pod{Key: fmt.Sprint(p.req.Key), Node: n.name, NetNS: p.req.NetNS.Ino, Addrs: p.has, Found: p.found})
			}
		}
	}
	return c
}

// look reads a node's store, if it may have changed and can be read now. While a process works on the file, its content is not
// looked at: what is in it then can be had by nobody else.
func (w *world) look(n *node) {
	switch {
	case !n.touched.Load():
	case n.store != nil:
		n.touched.Store(false)
		n.seen = w.read(n, n.store)
	case n.idle():
		n.touched.Store(false)
		o := n.options(0)
		o.Hit, o.MustExist = nil, true
		s, err := store.Open(context.Background(), n.storePath(), o)
		if errors.Is(err, store.ErrNoStore) || errors.Is(err, fs.ErrNotExist) {
			n.seen = seen{check.Node{Name: n.name, Fresh: true}}
			return
		}
		if err != nil {
			w.fail(err)
			return
		}
		n.seen = w.read(n, s)
		w.failIf(s.Close())
	default:
		n.seen.Fresh = true // as far as anybody can tell
	}
}

func (w *world) failIf(err error) {
	if err != nil {
		w.fail(err)
	}
}

func (w *world) read(n *node, s *store.Store) seen {
	out, err := see.Node(n.name, s)
	w.failIf(err)
	return seen{out}
}

// owners are the owners of all addresses, by what the API says.
func (w *world) owners() map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for _, b := range w.api.blocks() {
		x, err := b.Block()
		w.failIf(err)
		for _, s := range x.Shares {
			for _, r := range see.Ranges(s.Ranges) {
				see.Each(r, func(a netip.Addr) { out[a] = s.Node + s.Session })
			}
		}
	}
	return out
}

func asBlock(o any) (*v1alpha1.IPBlock, bool) {
	b, ok := o.(*v1alpha1.IPBlock)
	return b, ok
}
