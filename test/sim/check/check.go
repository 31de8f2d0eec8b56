// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package check judges a cluster by the invariants of docs/design/0002-ipam.md, from what can be seen from outside: the
// block objects, what each node's store says, and what the pods were answered. It uses nothing of the allocator: it reads
// ranges and counts addresses by itself, so that an error of theirs is not made twice.
package check

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Range is a run of addresses, both ends included.
type Range struct{ From, To netip.Addr }

// Contains says whether a is in r.
func (r Range) Contains(a netip.Addr) bool {
	return a.BitLen() == r.From.BitLen() && r.From.Compare(a) <= 0 && a.Compare(r.To) <= 0
}

func (r Range) each(do func(netip.Addr)) {
	for a := r.From; r.Contains(a); a = a.Next() {
		do(a)
	}
}

// Block is a block object.
type Block struct {
	Name, Pool, Slot string
	Shares           []Share
}

// Share is a node's part of it; ranges are as the object has them.
type Share struct {
	Node, UID, Session string
	Ranges             []string
}

// Reservation says which node may lease addresses that blocks hold for it.
type Reservation struct{ Name, Node, Session string }

// Node is what a node's store says.
type Node struct {
	Name, Session string
	// Fresh: the store has not been filled yet with what lives on the node.
	Fresh    bool
	Holdings []Holding
	Leases   []Lease
}

// Holding is what the node leases from in one block, and how the store counts it.
type Holding struct {
	Block                 string
	Ranges                []Range
	Retired               bool
	Leasable              []Range // of the whole pool, as the node knows it
	Leased, Free, Cooling int
}

// Lease is a lease in a store.
type Lease struct {
	Key   string
	NetNS uint64
	Addrs []netip.Addr
	// Reservation is whose the addresses are, if they are not the node's; Pending: nobody has been answered with them.
	Reservation string
	Pending     bool
}

// Pod is an attachment that was answered, and has not been asked to end.
type Pod struct {
	Key, Node string
	NetNS     uint64
	Addrs     []netip.Addr
	// Found: the node has lost its store since, so that only the addresses and the namespace are known to it, not the key.
	Found bool
}

// Cluster is all of it at one moment between two steps.
type Cluster struct {
	Blocks       []Block
	Reservations []Reservation
	Nodes        []Node
	Pods         []Pod
	// Excused says that somebody took the address from its owner by hand: then the owner cannot know yet.
	Excused func(netip.Addr) bool
}

// Violation is one breach of one invariant.
type Violation struct {
	Invariant int
	Text      string
}

func (v *Violation) Error() string { return fmt.Sprintf("invariant %d: %s", v.Invariant, v.Text) }

// Check gives every violation in c, joined.
func Check(c Cluster) error {
	k := &checker{Cluster: c, owner: map[netip.Addr]Share{}}
	k.blocks()
	for _, n := range c.Nodes {
		k.node(n)
	}
	k.leases()
	k.pods()
	return errors.Join(k.found...)
}

type checker struct {
	Cluster
	owner map[netip.Addr]Share
	found []error
}

func (k *checker) failf(invariant int, format string, args ...any) {
	k.found = append(k.found, &Violation{invariant, fmt.Sprintf(format, args...)})
}

func (k *checker) excused(a netip.Addr) bool { return k.Excused != nil && k.Excused(a) }

// blocks: an address is owned by at most one node.
func (k *checker) blocks() {
	in := map[netip.Addr]string{}
	for _, b := range k.Blocks {
		slot, err := netip.ParsePrefix(b.Slot)
		if err != nil || slot != slot.Masked() {
			k.failf(1, "block %s has the slot %q", b.Name, b.Slot)
			continue
		}
		if want := b.Pool + "." + dashed(slot.Addr()); b.Name != want {
			k.failf(1, "block %s of slot %s is not named %s", b.Name, slot, want)
		}
		for _, s := range b.Shares {
			for _, text := range s.Ranges {
				r, err := parse(text)
				if err != nil || !slot.Contains(r.From) || !slot.Contains(r.To) {
					k.failf(1, "%q of node %s is no range of block %s", text, s.Node, b.Name)
					continue
				}
				r.each(func(a netip.Addr) {
					if was, ok := k.owner[a]; ok {
						k.failf(1, "%s is owned by %s (block %s) and by %s (block %s)", a, was.Node, in[a], s.Node, b.Name)
					}
					k.owner[a], in[a] = s, b.Name
				})
			}
		}
	}
}

func dashed(a netip.Addr) string {
	if a.Is4() {
		return strings.ReplaceAll(a.String(), ".", "-")
	}
	var groups []string
	for b := a.As16(); len(groups) < 8; {
		i := 2 * len(groups)
		groups = append(groups, fmt.Sprintf("%x", int(b[i])<<8|int(b[i+1])))
	}
	return strings.Join(groups, "-")
}

func parse(text string) (Range, error) {
	if from, to, ok := strings.Cut(text, "-"); ok {
		a, err := netip.ParseAddr(from)
		b, err2 := netip.ParseAddr(to)
		return Range{a, b}, errors.Join(err, err2)
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		last := p.Masked().Addr()
		for next := last.Next(); p.Contains(next); next = next.Next() {
			last = next
		}
		return Range{p.Masked().Addr(), last}, nil
	}
	a, err := netip.ParseAddr(text)
	return Range{a, a}, err
}

func (n Node) holds(a netip.Addr) bool {
	return slices.ContainsFunc(n.Holdings, func(h Holding) bool { return !h.Retired && contains(h.Ranges, a) })
}

// node: it leases only what the API says is its own, in its session; and its numbers add up.
func (k *checker) node(n Node) {
	leased := map[netip.Addr]bool{}
	for _, l := range n.Leases {
		for _, a := range l.Addrs {
			if leased[a] {
				k.failf(3, "node %s has two leases of %s", n.Name, a)
			}
			leased[a] = true
			if l.Reservation != "" {
				k.reserved(n, l, a)
				continue
			}
			if !n.holds(a) && !k.excused(a) {
				k.failf(2, "node %s has leased %s to %s, and does not hold it", n.Name, a, l.Key)
			}
		}
	}
	for _, h := range n.Holdings {
		want, used := 0, 0
		for _, r := range h.Ranges {
			r.each(func(a netip.Addr) {
				if s, ok := k.owner[a]; !h.Retired && (!ok || s.Node != n.Name || s.Session != n.Session) && !k.excused(a) {
					k.failf(2, "node %s (session %.6s) leases from %s, which the API gives to %q (session %.6s)", n.Name, n.Session, a, s.Node, s.Session)
				}
				switch {
				case leased[a]:
					used++
				case contains(h.Leasable, a) && !h.Retired:
					want++
				}
			})
		}
		if got := h.Free + h.Cooling; got != want || h.Leased < used {
			k.failf(6, "block %s on node %s: %d free and %d cooling, want %d; %d leased, want %d", h.Block, n.Name, h.Free, h.Cooling, want, h.Leased, used)
		}
	}
}

// reserved: what a node leases of a reservation the API says is held for that one, which says that the node may.
func (k *checker) reserved(n Node, l Lease, a netip.Addr) {
	if n.holds(a) {
		k.failf(2, "node %s has leased %s to %s for %s, and could lease it to others", n.Name, a, l.Key, l.Reservation)
	}
	if l.Pending || k.excused(a) {
		return
	}
	if s := k.owner[a]; s.Node != "held:" || !strings.HasSuffix(l.Reservation, "."+s.UID) {
		k.failf(2, "node %s has leased %s to %s for %s, but it is %s's (%s)", n.Name, a, l.Key, l.Reservation, s.Node, s.UID)
	}
	if !slices.Contains(k.Reservations, Reservation{l.Reservation, n.Name, n.Session}) {
		k.failf(2, "node %s (session %.6s) has leased %s to %s for %s, which does not say that it may", n.Name, n.Session, a, l.Key, l.Reservation)
	}
}

func contains(ranges []Range, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(r Range) bool { return r.Contains(a) })
}

// leases: no two nodes lease one address.
func (k *checker) leases() {
	by := map[netip.Addr]string{}
	for _, n := range k.Nodes {
		for _, l := range n.Leases {
			if l.Pending {
				continue
			}
			for _, a := range l.Addrs {
				if was, ok := by[a]; ok && was != n.Name && !k.excused(a) {
					k.failf(3, "%s is leased on node %s and on node %s", a, was, n.Name)
				}
				by[a] = n.Name
			}
		}
	}
}

// pods: what was answered is in the store, and no two pods were answered the same.
func (k *checker) pods() {
	has := map[netip.Addr]string{}
	for _, p := range k.Pods {
		for _, a := range p.Addrs {
			if was, ok := has[a]; ok && !k.excused(a) {
				k.failf(3, "%s was given to %s, and %s has it still", a, p.Key, was)
			}
			has[a] = p.Key
		}
		i := slices.IndexFunc(k.Nodes, func(n Node) bool { return n.Name == p.Node })
		if i < 0 || k.Nodes[i].Fresh {
			continue // who knows
		}
		for _, a := range p.Addrs {
			ok := slices.ContainsFunc(k.Nodes[i].Leases, func(l Lease) bool {
				return slices.Contains(l.Addrs, a) && (l.Key == p.Key || p.Found && l.NetNS == p.NetNS)
			})
			if s, owned := k.owner[a]; p.Found && owned && s.Node == p.Node && !k.Nodes[i].holds(a) {
				ok = true // the node has yet to take its share over, or cannot: until then nobody leases from it
			}
			if !ok && !k.excused(a) {
				k.failf(4, "%s was answered to %s, and the store of node %s has no such lease", a, p.Key, p.Node)
			}
		}
	}
}
