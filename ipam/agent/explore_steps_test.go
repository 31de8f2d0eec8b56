// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"time"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/claim"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/test/explore"
)

// mutant is one thing done wrong; the empty one is nothing.
type mutant string

const (
	answerFirst    mutant = "answer before the store write"
	cedeFirst      mutant = "cede before the local mark"
	takeBack       mutant = "take back what was withdrawn when its offer is not answered"
	ignoreSession  mutant = "ignore the session: lease from a former life's share without a write"
	assumeStored   mutant = "grant before the answer"
	grantOnRead    mutant = "grant what a read shows"
	unconditional  mutant = "write without a version"
	releaseFirst   mutant = "release before the block is retired"
	takeUnwritten  mutant = "lease what is offered without a write"
	takeBlindly    mutant = "take what is offered without looking who owns it"
	adoptBlindly   mutant = "adopt without looking who uses it"
	claimUnsettled mutant = "claim from a fresh store before its shares are settled"
	forgetFirst    mutant = "forget a retired block before the API has answered"
	neverRelease   mutant = "keep a retired block"
)

// world makes the steps. It remembers what the real decisions said.
type world struct {
	mutant mutant
	size   size
	plans  map[planKey]xBlock
	does   map[doKey]action
	out    []explore.Step[xState]
	named  bool
}

func newWorld(m mutant, z size) *world {
	return &world{mutant: m, size: z, plans: map[planKey]xBlock{}, does: map[doKey]action{}}
}

func (w *world) add(s xState, format string, args ...any) {
	step := explore.Step[xState]{To: s.canonical(w.size.nodes)}
	if w.named {
		step.Name = fmt.Sprintf(format, args...)
	}
	w.out = append(w.out, step)
}

// steps are all that can happen next.
func (w *world) steps(s xState, named bool) []explore.Step[xState] {
	w.out, w.named = nil, named
	if s.bad != fine {
		return nil
	}
	busy := 0
	for _, x := range s.nodes {
		if x.call.phase != idle {
			busy++
		}
	}
	for n := range w.size.nodes {
		w.network(s, n)
		w.faults(s, n)
		if s.nodes[n].down {
			continue
		}
		w.pods(s, n)
		if s.nodes[n].call.phase == idle && busy < w.size.calls {
			w.settling(s, n)
			if !s.nodes[n].fresh || w.mutant == claimUnsettled {
				w.trading(s, n)
			}
		} else if s.nodes[n].call.phase != idle {
			w.answers(s, n)
		}
	}
	return w.out
}

// pods lease and release, at any time: the store asks nobody.
func (w *world) pods(s xState, n int) {
	x := &s.nodes[n]
	for i := range clusterBlocks {
		for a := range 2 {
			if bit := set(1 << a); x.leased[i]&bit != 0 && x.pods[i]&bit != 0 {
				t := s
				t.nodes[n].leased[i] &^= bit
				t.nodes[n].pods[i] &^= bit
				w.add(t, "%d: release %d.%d", n, i, a)
			}
		}
		free := x.ranges[i] &^ x.leased[i]
		if x.fresh && w.mutant != claimUnsettled || !x.held[i] || x.retired[i] || free == 0 {
			continue
		}
		t, bit := s, free.lowest()
		if x.pods[i]&bit != 0 {
			t.bad = leasedTwice
		}
		t.nodes[n].pods[i] |= bit
		if w.mutant != answerFirst {
			t.nodes[n].leased[i] |= bit
		}
		w.add(t, "%d: lease %b of %d", n, bit, i)
	}
}

// settling is sync: what decide says about a block, after a live read.
func (w *world) settling(s xState, n int) {
	x, done := &s.nodes[n], true
	for i := range clusterBlocks {
		do := w.decide(s, n, i)
		done = done && do == keep
		mine := s.blocks[i].owned(n)
		switch do {
		case keep:
		case cede:
			if w.mutant != neverRelease {
				w.call(s, n, i, releases, mine)
			}
		case forget:
			t := s
			t.nodes[n].call = xCall{phase: read, kind: forgets, write: xWrite{block: uint8(i)}}
			w.add(t, "%d: read that %d is not its own", n, i)
		case shed:
			if w.mutant == grantOnRead {
				t := s
				t.nodes[n].ranges[i] = mine
				w.add(t, "%d: grant what a read shows of %d", n, i)
			} else {
				w.call(s, n, i, sheds, mine&^x.ranges[i]&^x.leased[i])
			}
		case fence, adopt:
			if w.mutant == ignoreSession {
				t := s
				t.nodes[n].grantAround(i, mine)
				w.add(t, "%d: lease from the share of a former life in %d", n, i)
			} else {
				w.call(s, n, i, adopts, 0)
			}
		case resize:
			w.call(s, n, i, resizes, 0)
		default:
			t := s
			t.bad = addressLost
			w.add(t, "%d: %s %d", n, do, i)
		}
	}
	if x.fresh && done {
		t := s
		t.nodes[n].fresh = false
		w.add(t, "%d: the store leases", n)
	}
}

// trading are claims, the requests to others and their answers, and the return of blocks.
func (w *world) trading(s xState, n int) {
	x := &s.nodes[n]
	starves, asked, full := true, false, true
	for i, b := range s.blocks {
		starves = starves && (x.retired[i] || x.ranges[i]&^x.leased[i] == 0)
		asked = asked || b.wants[n] != xWant{}
		free := w.size.addresses[i]
		for m := range clusterNodes {
			free &^= b.owned(m)
			if m != n {
				free &^= b.wants[m].offered
			}
		}
		full = full && free == 0
	}
	for i, b := range s.blocks {
		if w.size.addresses[i] == 0 {
			continue
		}
		mine := b.owned(n)
		known := mine == 0 && !x.held[i] || x.held[i] && !x.retired[i] && (mine == 0 || b.sess[n] == x.sess) || w.mutant == claimUnsettled
		switch want := b.wants[n]; {
		case !known:
		case want != xWant{} && (want.offered != 0 || want.sess != x.sess || !starves):
			w.call(s, n, i, takes, 0)
		case starves && !asked:
			w.call(s, n, i, claims, 0)
		}
		for m := range clusterNodes {
			if m != n && starves && full && !asked && b.owned(m) != 0 {
				w.call(s, n, i, asksFor, set(m+1))
			}
			spare := mine &^ x.ranges[i] &^ x.leased[i] // withdrawn for an offer that was refused
			if free := x.ranges[i]&^x.leased[i] | spare; b.wants[m].from == uint8(n+1) && b.wants[m].offered == 0 && x.held[i] && !x.retired[i] && free != 0 && b.sess[n] == x.sess {
				t, bit := s, free.lowest()
				if spare != 0 && w.mutant != cedeFirst {
					bit = spare
				}
				if w.mutant != cedeFirst {
					t.nodes[n].ranges[i] &^= bit
				}
				w.offer(t, n, i, m, bit)
			}
		}
		if x.held[i] && !x.retired[i] && x.leased[i] == 0 {
			t := s
			t.nodes[n].retired[i] = w.mutant != releaseFirst
			switch w.mutant {
			case forgetFirst:
				t.nodes[n].forget(i)
			case neverRelease:
				w.add(t, "%d: retire %d", n, i)
				continue
			}
			w.call(t, n, i, releases, mine)
		}
	}
	if w.mutant == takeUnwritten {
		for i, b := range s.blocks {
			if b.wants[n].sess == x.sess && b.wants[n].offered != 0 {
				t := s
				t.nodes[n].held[i] = true
				t.nodes[n].ranges[i] |= b.wants[n].offered
				w.add(t, "%d: lease what is offered in %d", n, i)
			}
		}
	}
}

// offer gives bit, which is withdrawn, up to node m.
func (w *world) offer(s xState, n, i, m int, bit set) { w.call(s, n, i, offers, bit|set(m+1)<<4) }

// call decides on the block as it is, and sends the write. Two clocks look at the wants: one for which they stand, and
// one for which they have expired.
func (w *world) call(s xState, n, i int, k kind, given set) {
	if w.size.begun > 0 {
		if s.begun == w.size.begun {
			return
		}
		s.begun++
	}
	x := &s.nodes[n]
	var first xBlock
	for j, now := range []time.Time{early, late} {
		if k == asksFor && j > 0 {
			return
		}
		to, sound := w.plan(planKey{k, n, i, given, x.sess, now == late, s.blocks[i]})
		if j > 0 && to == first {
			return
		}
		first = to
		t := s
		c := &t.nodes[n].call
		*c = xCall{kind: k, given: given, phase: sent, write: xWrite{on: true, create: !s.blocks[i].exists, block: uint8(i), to: to}}
		if to == s.blocks[i] {
			if k < releases { // nothing to be had
				continue
			}
			*c = xCall{kind: k, given: given, phase: read, mine: to.owned(n), write: xWrite{block: uint8(i)}}
		}
		if !sound {
			t.bad = ownedTwice
		}
		if w.mutant == assumeStored && (k == claims || k == takes) {
			t.nodes[n].grant(i, to.owned(n))
		}
		w.add(t, "%d: %s in %d, clock %d", n, k, i, j)
	}
}

type planKey struct {
	kind  kind
	node  int
	block int
	given set
	sess  uint8
	late  bool
	cur   xBlock
}

// plan is what the call makes of the block: the real decision's word.
func (w *world) plan(k planKey) (xBlock, bool) {
	if b, ok := w.plans[k]; ok {
		return b, true
	}
	o, b, now := xOwner(k.node, k.sess), k.cur.value(k.block), early
	if k.late {
		now = late
	}
	var out ipam.Block
	switch k.kind {
	case claims, takes:
		if k.kind == takes && !k.cur.exists {
			break
		}
		free := b.Free(o, w.size.addresses[k.block].rangesIn(k.block), now)
		if w.mutant == takeBlindly && k.cur.wants[k.node].offered != 0 {
			free = k.cur.wants[k.node].offered.rangesIn(k.block)
		}
		out = claim.WithTaken(b, o, free, now)
	case asksFor:
		out, _ = claim.WithWant(b, ipam.Want{
			Node: o.Node, NodeUID: o.NodeUID, Session: o.Session, From: xName(int(k.given) - 1), Count: 1, Cooling: true, Expires: expiry,
		}, now)
	case offers:
		m := int(k.given>>4) - 1
		to := xOwner(m, k.cur.wants[m].sess)
		out = claim.WithOffer(b, o, ipam.Want{Node: to.Node, NodeUID: to.NodeUID, Session: to.Session, From: o.Node, Expires: expiry},
			(k.given & 3).rangesIn(k.block), now)
	case releases, sheds:
		out = claim.WithOffer(b, o, ipam.Want{}, k.given.rangesIn(k.block), now)
	case adopts, resizes:
		out = claim.WithSession(b, o)
	}
	to, sound := blockOf(k.block, out)
	if to != k.cur && k.late { // as every write does
		to.wants = [clusterNodes]xWant{}
	}
	if !to.exists && len(out.Shares) > 0 || !sound {
		return to, false
	}
	w.plans[k] = to
	return to, true
}

type doKey struct {
	node           int
	block          int
	sess           uint8
	held, retired  bool
	ranges, leased set
	cur            xBlock
}

// decide is the agent's own.
func (w *world) decide(s xState, n, i int) action {
	x := s.nodes[n]
	k := doKey{n, i, x.sess, x.held[i], x.retired[i], x.ranges[i], x.leased[i], s.blocks[i]}
	if do, ok := w.does[k]; ok {
		return do
	}
	v := view{me: xOwner(n, x.sess), pool: clusterPool}
	if x.held[i] {
		v.held = &store.Holding{
			Block: ipam.BlockName("p", slots[i]), Pool: "p", Slot: slots[i], Ranges: x.ranges[i].rangesIn(i), Retired: x.retired[i],
		}
		for a := range 2 {
			if x.leased[i].has(a) {
				v.leased = append(v.leased, xAddr(i, a))
			}
		}
	}
	if s.blocks[i].exists {
		b := s.blocks[i].value(i)
		v.block = &b
	}
	w.does[k] = decide(v)
	return w.does[k]
}
