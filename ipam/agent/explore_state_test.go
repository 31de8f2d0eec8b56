// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// The largest cluster of the explorer: three nodes and a pool of two blocks, each of two addresses at most.
const (
	clusterNodes  = 3
	clusterBlocks = 2
)

// size is how much of it there is, and how often something may go wrong.
type size struct {
	nodes     int
	calls     int   // at once
	begun     uint8 // calls in all, and the pool is owned as a whole to begin with; 0: any number, and it is not
	addresses [clusterBlocks]set
	faults    uint8
}

// set is a set of addresses of one block, by bits.
type set uint8

func (s set) has(a int) bool { return s&(1<<a) != 0 }

// lowest is the first address of s, alone.
func (s set) lowest() set { return s & -s }

// xBlock is a block object. Node i is named by i+1, 0 is nobody.
type xBlock struct {
	exists bool
	owner  [2]uint8            // by address
	sess   [clusterNodes]uint8 // of the node's share
	wants  [clusterNodes]xWant
}

type xWant struct {
	from, sess uint8
	offered    set
}

func (b xBlock) owned(n int) (s set) {
	for a, o := range b.owner {
		if int(o) == n+1 {
			s |= 1 << a
		}
	}
	return s
}

// xWrite is a write to a block that was decided on what the block was: it arrives if that has not changed. One that
// creates the block arrives if there is none, whatever has been in between.
type xWrite struct {
	on, create bool
	block      uint8
	to         xBlock
}

// phase is how far a call has come.
type phase uint8

const (
	idle   phase = iota
	sent         // the write is under way; if it is refused, the call is over
	stored       // the write was done, the answer is under way
	read         // nothing had to be written, the answer is a read
)

// xCall is what a node's agent is doing about a block: one thing at a time, as the lock of the pool has it.
type xCall struct {
	phase phase
	kind  kind
	given set // what an offer, or a shed, gives up
	write xWrite
	mine  set // what the answer will say that the node owns
}

type kind uint8

const (
	claims kind = iota
	asksFor
	offers
	takes
	releases
	sheds
	adopts
	resizes
	forgets
)

func (k kind) String() string {
	return [...]string{"claim", "ask", "offer", "take", "release", "shed", "adopt", "resize", "forget"}[k]
}

// xNode is a node: its store, its agent, its pods, and what a former life of the agent still has under way.
type xNode struct {
	down, fresh bool
	sess        uint8
	held        [clusterBlocks]bool
	ranges      [clusterBlocks]set // of the holding
	retired     [clusterBlocks]bool
	leased      [clusterBlocks]set // as the store knows
	pods        [clusterBlocks]set // as those know who were answered
	call        xCall
	ghost       xWrite
}

// xState is all of it. Faults counts what may still go wrong; bad is what has happened that must not.
type xState struct {
	blocks [clusterBlocks]xBlock
	nodes  [clusterNodes]xNode
	faults uint8
	begun  uint8 // calls, where they are counted
	bad    bad
}

type bad uint8

const (
	fine bad = iota
	leasedTwice
	ownedTwice
	addressLost
)

var errBad = map[bad]error{
	leasedTwice: errors.New("a node leases an address that one of its pods has"),
	ownedTwice:  errors.New("a block contradicts itself"),
	addressLost: errors.New("an address in use has left the node's share"),
}

// order is s with node i in the place of node p[i].
func (s xState) order(p [clusterNodes]uint8) xState {
	t := s
	for i := range s.blocks {
		t.blocks[i] = s.blocks[i].order(p)
	}
	for n, x := range s.nodes {
		x.call.write.to, x.ghost.to = x.call.write.to.order(p), x.ghost.to.order(p)
		if m := x.call.given >> 4; x.call.kind == offers && m > 0 {
			x.call.given = x.call.given&3 | set(p[m-1]+1)<<4
		}
		if x.call.kind == asksFor && x.call.given > 0 {
			x.call.given = set(p[x.call.given-1] + 1)
		}
		t.nodes[p[n]] = x
	}
	return t
}

func (b xBlock) order(p [clusterNodes]uint8) xBlock {
	c := b
	for a, o := range b.owner {
		if o > 0 {
			c.owner[a] = p[o-1] + 1
		}
	}
	for n, w := range b.wants {
		if w.from > 0 {
			w.from = p[w.from-1] + 1
		}
		c.sess[p[n]], c.wants[p[n]] = b.sess[n], w
	}
	return c
}

// bytes are all of s: it is made of single bytes.
func (s *xState) bytes() []byte { return unsafe.Slice((*byte)(unsafe.Pointer(s)), unsafe.Sizeof(*s)) }

// canonical is the first of the states that are s but for the nodes' names: what can become of one can become of all.
func (s xState) canonical(nodes int) xState {
	best := s
	orders := [][clusterNodes]uint8{{0, 1, 2}, {1, 0, 2}, {0, 2, 1}, {2, 1, 0}, {1, 2, 0}, {2, 0, 1}}
	for _, p := range orders[1:map[int]int{1: 1, 2: 2, 3: 6}[nodes]] {
		if t := s.order(p); bytes.Compare(t.bytes(), best.bytes()) < 0 {
			best = t
		}
	}
	return best
}

// start is the first state: of a pool that nobody uses, or that the first two nodes own.
func (z size) start() xState {
	s := xState{faults: z.faults}
	if z.begun == 0 {
		return s
	}
	for i, all := range z.addresses {
		s.blocks[i].exists = true
		for a := range 2 {
			if all.has(a) {
				s.blocks[i].owner[a] = uint8(i + 1)
			}
		}
		s.nodes[i].grant(i, all)
	}
	return s
}

// wrong checks the invariants of the design.
func (s xState) wrong() error {
	if s.bad != fine {
		return errBad[s.bad]
	}
	for i := range clusterBlocks {
		var inUse set
		for n, x := range s.nodes {
			owned := s.blocks[i].owned(n)
			switch {
			case x.pods[i]&^owned != 0:
				return fmt.Errorf("pods of node %d have %b of block %d, which is not the node's", n, x.pods[i]&^owned, i)
			case x.pods[i]&inUse != 0:
				return fmt.Errorf("%b of block %d is in use twice", x.pods[i]&inUse, i)
			case !x.fresh && x.pods[i] != x.leased[i]:
				return fmt.Errorf("pods of node %d have %b of block %d, its store has %b leased", n, x.pods[i], i, x.leased[i])
			case x.retired[i] && x.leased[i] != 0:
				return fmt.Errorf("node %d leases %b of the retired block %d", n, x.leased[i], i)
			case x.held[i] && !x.retired[i] && x.ranges[i]&^owned != 0:
				return fmt.Errorf("node %d may lease %b of block %d, of which %b is its own", n, x.ranges[i], i, owned)
			}
			inUse |= x.pods[i]
		}
	}
	return nil
}

// whole says that every address of the pool can be leased: by its owner, or after a claim.
func (s xState) whole() bool {
	for _, x := range s.nodes {
		if x.down || x.fresh {
			return false
		}
	}
	for i, b := range s.blocks {
		for n, x := range s.nodes {
			owned := b.owned(n)
			if owned != 0 && (!x.held[i] || x.retired[i] || x.ranges[i] != owned || b.sess[n] != x.sess) || b.wants[n] != (xWant{}) {
				return false
			}
		}
	}
	return true
}

// The values that the real decisions are made on.

var (
	clusterPool, _ = ipam.ParsePool(ipam.PoolSpec{Name: "p", UID: "p1", IPv4: &ipam.SubnetSpec{
		Subnet: "10.0.0.0/29", Ranges: []string{"10.0.0.2-10.0.0.5"}, BlockSize: 2,
	}})
	slots  = [clusterBlocks]netip.Prefix{netip.MustParsePrefix("10.0.0.2/31"), netip.MustParsePrefix("10.0.0.4/31")}
	early  = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	expiry = early.Add(time.Hour)
	late   = expiry.Add(time.Hour)
)

func xAddr(i, a int) netip.Addr {
	out := slots[i].Addr()
	for range a {
		out = out.Next()
	}
	return out
}

func (s set) rangesIn(i int) []iprange.Range {
	var out []iprange.Range
	for a := range 2 {
		if s.has(a) {
			out = append(out, iprange.Of(xAddr(i, a)))
		}
	}
	return iprange.Ranges(iprange.Set(out...))
}

func setOf(i int, ranges []iprange.Range) (s set) {
	for a := range 2 {
		for _, r := range ranges {
			if r.Contains(xAddr(i, a)) {
				s |= 1 << a
			}
		}
	}
	return s
}

func xName(n int) string { return string(rune('a' + n)) }

func xOwner(n int, sess uint8) ipam.Owner {
	return ipam.Owner{Node: xName(n), NodeUID: xName(n), Session: string(rune('0' + sess))}
}

// value is block i as the decisions see it; without shares where there is none.
func (b xBlock) value(i int) ipam.Block {
	out := ipam.Block{Name: ipam.BlockName("p", slots[i]), Pool: "p", PoolUID: "p1", Slot: slots[i]}
	for n := range clusterNodes {
		if o, s := xOwner(n, b.sess[n]), b.owned(n); s != 0 {
			out.Shares = append(out.Shares, ipam.Share{Node: o.Node, NodeUID: o.NodeUID, Session: o.Session, Ranges: s.rangesIn(i)})
		}
		if w := b.wants[n]; w.from > 0 {
			o := xOwner(n, w.sess)
			out.Wants = append(out.Wants, ipam.Want{
				Node: o.Node, NodeUID: o.NodeUID, Session: o.Session, From: xName(int(w.from) - 1), Count: 1, Cooling: true,
				Expires: expiry, Offered: w.offered.rangesIn(i),
			})
		}
	}
	return out
}

// blockOf is what value was made of, and whether the block is sound.
func blockOf(i int, v ipam.Block) (b xBlock, sound bool) {
	if v.Name == "" {
		return xBlock{}, true
	}
	b.exists = true
	for _, s := range v.Shares {
		n := int(s.Node[0] - 'a')
		b.sess[n] = s.Session[0] - '0'
		for a := range 2 {
			if setOf(i, s.Ranges).has(a) {
				b.owner[a] = uint8(n + 1)
			}
		}
	}
	for _, w := range v.Wants {
		b.wants[w.Node[0]-'a'] = xWant{w.From[0] - 'a' + 1, w.Session[0] - '0', setOf(i, w.Offered)}
	}
	return b, v.Check() == nil
}
