// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

// grant is store.Grant: a retired holding stays as it is.
func (x *xNode) grant(i int, ranges set) {
	if !x.retired[i] {
		x.held[i], x.ranges[i] = true, ranges
	}
}

// grantAround is takeOver: the addresses that live namespaces have are leased to them before any other is.
func (x *xNode) grantAround(i int, ranges set) {
	x.grant(i, ranges)
	x.leased[i] |= x.pods[i] & ranges
}

func (x *xNode) forget(i int) {
	x.held[i], x.ranges[i], x.retired[i] = false, 0, false
}

// arrive does a write if the block is still what it was decided on: all other writes to it are refused from then on.
func (w *world) arrive(s xState, wr xWrite) (xState, bool) {
	if wr.create && s.blocks[wr.block].exists {
		return s, false
	}
	s.blocks[wr.block] = wr.to
	for n := range s.nodes {
		x := &s.nodes[n]
		if w.mutant == unconditional {
			break
		}
		if x.ghost.on && x.ghost.block == wr.block && !x.ghost.create {
			x.ghost = xWrite{}
		}
		if x.call.phase == sent && x.call.write.block == wr.block && !x.call.write.create {
			x.call = xCall{}
		}
	}
	return s, true
}

// network delivers what is under way: the write of a call, or that of a former life or of a call that was given up.
func (w *world) network(s xState, n int) {
	x := &s.nodes[n]
	if c := x.call; c.phase == sent {
		t := s
		t.nodes[n].call = xCall{phase: stored, kind: c.kind, given: c.given, mine: c.write.to.owned(n), write: xWrite{block: c.write.block}}
		if u, ok := w.arrive(t, c.write); ok {
			w.add(u, "%d: %s in %d is stored", n, c.kind, c.write.block)
		} else {
			t.nodes[n].call = xCall{}
			w.add(t, "%d: %s in %d is refused", n, c.kind, c.write.block)
		}
	}
	if g := x.ghost; g.on {
		t := s
		t.nodes[n].ghost = xWrite{}
		w.add(t, "%d: a late write to %d is lost", n, g.block)
		if u, ok := w.arrive(t, g); ok {
			w.add(u, "%d: a late write to %d is stored", n, g.block)
		}
	}
}

// answers are what the agent does when its call ends.
func (w *world) answers(s xState, n int) {
	c := s.nodes[n].call
	i := int(c.write.block)
	t := s
	x := &t.nodes[n]
	x.call = xCall{}
	if c.phase == sent {
		return
	}
	mine := c.mine
	switch c.kind {
	case claims, takes:
		x.grant(i, mine)
	case offers:
		if w.mutant == cedeFirst {
			x.ranges[i] &^= c.given & 3
		}
	case releases, forgets:
		x.forget(i)
	case adopts:
		if w.mutant == adoptBlindly {
			x.grant(i, mine)
		} else {
			x.grantAround(i, mine)
		}
	case resizes:
		x.grant(i, mine)
	}
	w.add(t, "%d: %s in %d is answered", n, c.kind, i)
}

// abandon leaves the call of a node: a write that has not arrived still may. Of two such the network keeps either.
func (w *world) abandon(s xState, n int, format string, args ...any) {
	c := s.nodes[n].call
	s.nodes[n].call = xCall{}
	if c.phase == sent {
		t := s
		t.nodes[n].ghost = c.write
		w.add(t, format+", its write is late", args...)
	}
	w.add(s, format, args...)
}

// faults are what goes wrong, as often as the state allows.
func (w *world) faults(s xState, n int) {
	x := &s.nodes[n]
	if x.down {
		t := s
		t.nodes[n].down = false
		w.add(t, "%d: the agent starts", n)
		return
	}
	if w.mutant == answerFirst {
		for i := range clusterBlocks {
			if late := x.pods[i] &^ x.leased[i]; late != 0 {
				t := s
				t.nodes[n].leased[i] |= late
				w.add(t, "%d: the lease of %b in %d is stored", n, late, i)
			}
		}
	}
	if s.faults == 0 {
		return
	}
	t := s
	t.faults--
	for i, b := range s.blocks {
		for m, want := range b.wants {
			if want.from == uint8(n+1) {
				u, forged := t, xWrite{block: uint8(i), to: b}
				forged.to.wants[m].offered = w.size.addresses[i]
				u, _ = w.arrive(u, forged)
				w.add(u, "%d: offers all of %d, whoever owns it", n, i)
			}
		}
	}
	if p := x.call.phase; p == sent || p == stored {
		u := t
		if w.mutant == takeBack && x.call.kind == offers {
			u.nodes[n].ranges[x.call.write.block] |= x.call.given & 3
		}
		w.abandon(u, n, "%d: no answer to %s", n, x.call.kind)
	}
	dead := t
	dead.nodes[n].down = true
	w.abandon(dead, n, "%d: the agent dies", n)
	for _, pods := range []bool{false, true} {
		u := dead
		y := &u.nodes[n]
		y.sess, y.fresh = y.sess+1, true
		for i := range clusterBlocks {
			y.forget(i)
			if y.leased[i] = 0; !pods {
				y.pods[i] = 0
			}
		}
		what := "reboots"
		if pods {
			what = "loses its store under live pods"
		}
		w.abandon(u, n, "%d: the node %s", n, what)
	}
}
