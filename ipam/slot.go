// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"

	"go4.org/netipx"

	"github.com/railyard-net/railyard/ipam/iprange"
)

// Slot is the aligned run of BlockSize addresses around a: what one block object arbitrates.
func (s Subnet) Slot(a netip.Addr) netip.Prefix {
	return netip.PrefixFrom(a, a.BitLen()-bits.TrailingZeros(uint(s.BlockSize))).Masked()
}

// LeasableIn are the addresses of slot that a block may be made of; ReservedIn those to be had by name.
func (s Subnet) LeasableIn(slot netip.Prefix) []iprange.Range { return within(s.Leasable, slot) }

// ReservedIn are the addresses of slot to be had by name only.
func (s Subnet) ReservedIn(slot netip.Prefix) []iprange.Range { return within(s.Reserved, slot) }

// maxSlots bounds the slots counted in one run of leasable addresses: more blocks than any cluster has objects.
const maxSlots = 1 << 32

type slotRun struct {
	first netip.Addr
	n     uint64
}

// runs are the slots that hold a leasable address, ascending.
func (s Subnet) runs() []slotRun {
	var out []slotRun
	for _, r := range s.Leasable {
		first, last := s.Slot(r.From()).Addr(), s.Slot(r.To()).Addr()
		if n := len(out); n > 0 {
			if prev := out[n-1]; !prev.last(s.BlockSize).Less(first) { // one slot over a gap between two ranges
				if first == last {
					continue
				}
				first = addOffset(first, uint64(s.BlockSize))
			}
		}
		n := uint64(maxSlots)
		if d, ok := distance(first, last); ok {
			n = min(n-1, d/uint64(s.BlockSize)) + 1 // in this order: d+1 may not fit
		}
		out = append(out, slotRun{first, n})
	}
	return out
}

func (r slotRun) last(size int) netip.Addr { return addOffset(r.first, (r.n-1)*uint64(size)) }

// SlotCount is how many slots hold a leasable address, counting at most 2^32 in each run of addresses.
func (s Subnet) SlotCount() uint64 {
	var n uint64
	for _, r := range s.runs() {
		n += r.n
	}
	return n
}

// SlotAt is the slot with index i < SlotCount, ascending by address.
func (s Subnet) SlotAt(i uint64) netip.Prefix {
	for _, r := range s.runs() {
		if i < r.n {
			return s.Slot(addOffset(r.first, i*uint64(s.BlockSize)))
		}
		i -= r.n
	}
	panic("ipam: slot index out of range")
}

// BlockName is the name of the block object of a slot: the pool, a dot, and the slot's first address with dashes
// for its separators. Equal slots have equal names, which is what makes CREATE the mutual exclusion.
func BlockName(pool string, slot netip.Prefix) string {
	a := slot.Addr()
	if a.Is4() {
		return pool + "." + strings.ReplaceAll(a.String(), ".", "-")
	}
	b := a.As16()
	groups := make([]string, 8)
	for i := range groups {
		groups[i] = strconv.FormatUint(uint64(binary.BigEndian.Uint16(b[2*i:])), 16)
	}
	return pool + "." + strings.Join(groups, "-")
}

func within(ranges []iprange.Range, slot netip.Prefix) []iprange.Range {
	var b netipx.IPSetBuilder
	b.AddSet(iprange.Set(ranges...))
	b.Intersect(iprange.Set(iprange.FromPrefix(slot)))
	s, _ := b.IPSet()
	return iprange.Ranges(s)
}

func minus(from *netipx.IPSet, without ...*netipx.IPSet) *netipx.IPSet {
	var b netipx.IPSetBuilder
	b.AddSet(from)
	for _, w := range without {
		b.RemoveSet(w)
	}
	s, _ := b.IPSet()
	return s
}

func unspecified(is4 bool) netip.Addr {
	if is4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// addOffset is a + n. It does not wrap for addresses of one subnet.
func addOffset(a netip.Addr, n uint64) netip.Addr {
	b := a.As16()
	hi, lo := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	lo, carry := bits.Add64(lo, n, 0)
	binary.BigEndian.PutUint64(b[:8], hi+carry)
	binary.BigEndian.PutUint64(b[8:], lo)
	out := netip.AddrFrom16(b)
	if a.Is4() {
		return out.Unmap()
	}
	return out
}

// distance is to - from; false if it does not fit 64 bits.
func distance(from, to netip.Addr) (uint64, bool) {
	f, t := from.As16(), to.As16()
	lo, borrow := bits.Sub64(binary.BigEndian.Uint64(t[8:]), binary.BigEndian.Uint64(f[8:]), 0)
	hi, _ := bits.Sub64(binary.BigEndian.Uint64(t[:8]), binary.BigEndian.Uint64(f[:8]), borrow)
	return lo, hi == 0
}
