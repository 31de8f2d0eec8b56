// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package iprange is the one notion of "some addresses" that the whole of Railyard shares: an inclusive range of
// one family that cannot be wrong once it is made. Sets, unions and differences are netipx's.
package iprange

import (
	"fmt"
	"net/netip"
	"strings"

	"go4.org/netipx"
)

// Range is an inclusive run of addresses of one family. The zero Range is empty and not valid.
type Range struct{ from, to netip.Addr }

// New returns from..to inclusive. It refuses mixed families, IPv4-mapped IPv6 addresses, zones and from > to.
func New(from, to netip.Addr) (Range, error) {
	for _, a := range []netip.Addr{from, to} {
		if err := CheckAddr(a); err != nil {
			return Range{}, err
		}
	}
	if from.Is4() != to.Is4() {
		return Range{}, fmt.Errorf("%s-%s mixes IPv4 and IPv6", from, to)
	}
	if to.Less(from) {
		return Range{}, fmt.Errorf("%s-%s is upside down: write %s-%s", from, to, to, from)
	}
	return Range{from, to}, nil
}

// Of returns the range that holds exactly a.
func Of(a netip.Addr) Range { return Range{a, a} }

// FromPrefix returns every address of p, its network and broadcast address included.
func FromPrefix(p netip.Prefix) Range {
	r := netipx.RangeOfPrefix(p)
	return Range{r.From(), r.To()}
}

// Parse reads "10.0.0.1-10.0.0.9", "10.0.0.0/28" (no bits set right of the mask) or "10.0.0.1"; IPv6 alike.
func Parse(s string) (Range, error) {
	switch {
	case strings.Contains(s, "-"):
		lo, hi, _ := strings.Cut(s, "-")
		from, err := ParseAddr(strings.TrimSpace(lo))
		if err != nil {
			return Range{}, err
		}
		to, err := ParseAddr(strings.TrimSpace(hi))
		if err != nil {
			return Range{}, err
		}
		return New(from, to)
	case strings.Contains(s, "/"):
		p, err := ParsePrefix(s)
		if err != nil {
			return Range{}, err
		}
		return FromPrefix(p), nil
	}
	a, err := ParseAddr(s)
	if err != nil {
		return Range{}, err
	}
	return Of(a), nil
}

// ParseAddr reads one address and refuses what CheckAddr refuses.
func ParseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", s)
	}
	return a, CheckAddr(a)
}

// ParsePrefix reads a CIDR whose address is the first of its prefix, and refuses what CheckAddr refuses.
func ParsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR such as 10.20.0.0/16 or fd00:20::/64", s)
	}
	if err := CheckAddr(p.Addr()); err != nil {
		return netip.Prefix{}, err
	}
	if m := p.Masked(); m != p {
		return netip.Prefix{}, fmt.Errorf("%s has bits set right of its mask: write %s", p, m)
	}
	return p, nil
}

// CheckAddr refuses addresses with two spellings: IPv4-mapped IPv6, and those with a zone.
func CheckAddr(a netip.Addr) error {
	switch {
	case !a.IsValid():
		return fmt.Errorf("the address is empty")
	case a.Is4In6():
		return fmt.Errorf("%s is an IPv4 address in IPv6 clothes: write %s", a, a.Unmap())
	case a.Zone() != "":
		return fmt.Errorf("%s carries a zone: write %s", a, a.WithZone(""))
	}
	return nil
}

// From is the first address.
func (r Range) From() netip.Addr { return r.from }

// To is the last address, itself in the range.
func (r Range) To() netip.Addr { return r.to }

// IsValid is false only for the zero Range.
func (r Range) IsValid() bool { return r.from.IsValid() }

// Contains says whether a is in r; never so for another family.
func (r Range) Contains(a netip.Addr) bool { return r.netipx().Contains(a) }

// Overlaps says whether r and o share an address.
func (r Range) Overlaps(o Range) bool { return r.netipx().Overlaps(o.netipx()) }

func (r Range) netipx() netipx.IPRange { return netipx.IPRangeFrom(r.from, r.to) }

// String is the shortest form that Parse reads back to r: an address, a CIDR or from-to.
func (r Range) String() string {
	if !r.IsValid() {
		return ""
	}
	if r.from == r.to {
		return r.from.String()
	}
	if p, ok := r.netipx().Prefix(); ok {
		return p.String()
	}
	return r.from.String() + "-" + r.to.String()
}

// MarshalText is String.
func (r Range) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is Parse.
func (r *Range) UnmarshalText(b []byte) (err error) {
	*r, err = Parse(string(b))
	return err
}

// Set builds the set of all addresses in ranges; ranges may overlap.
func Set(ranges ...Range) *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, r := range ranges {
		if r.IsValid() {
			b.AddRange(r.netipx())
		}
	}
	s, _ := b.IPSet() // fails only on invalid ranges, which a Range cannot be
	return s
}

// Ranges are the runs of s, ascending and disjoint.
func Ranges(s *netipx.IPSet) []Range {
	var out []Range
	for _, r := range s.Ranges() {
		out = append(out, Range{r.From(), r.To()})
	}
	return out
}
