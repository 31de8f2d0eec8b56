// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"go4.org/netipx"

	"github.com/railyard-net/railyard/ipam/iprange"
)

const (
	// DefaultBlockSize is how many addresses a node claims at once where the pool does not say.
	DefaultBlockSize = 64
	// MaxBlockSize bounds a block, and so the size of its object.
	MaxBlockSize = 4096
	// DefaultCooldown is how long a released address rests where the pool does not say: longer than the
	// neighbour caches and RDMA connection timers of those who still know it.
	DefaultCooldown = time.Minute
	// MaxPoolName is the longest name of a pool: it is a label value and starts the names of its blocks.
	MaxPoolName = 63
)

// PoolSpec is a pool as its user writes it. Strings are addresses, CIDRs and ranges as iprange.Parse reads them.
type PoolSpec struct {
	Name, UID    string
	IPv4, IPv6   *SubnetSpec // one may be nil
	Routes       []RouteSpec
	DefaultRoute bool
	Cooldown     *time.Duration
	Watermarks   Watermarks
	// DetectConflicts: see Lease.Probe.
	DetectConflicts bool
	Sticky          Sticky
	// Namespaces: see Pool.Namespaces.
	Namespaces *[]string
}

// Sticky says whom addresses follow from pod to pod. Who that is only the API can say, so that a pool with any of it is leased from
// through the agent.
type Sticky struct {
	IPAMClaims   bool `json:"ipamClaims,omitempty"`
	StatefulSets bool `json:"statefulSets,omitempty"`
}

// Any says whether addresses may follow anybody.
func (s Sticky) Any() bool { return s.IPAMClaims || s.StatefulSets }

// Watermarks say how much of each family of a pool a node keeps at hand. What is nil follows from the pool's size and
// the number of nodes that use it.
type Watermarks struct {
	// Low is how many free addresses there are at least before the next block is claimed ahead of need; 0 is never.
	Low *int `json:"low,omitempty"`
	// High is how many free addresses stay when an empty block goes back.
	High *int `json:"high,omitempty"`
	// KeepLast: the last block stays though nothing is leased from it.
	KeepLast *bool `json:"keepLast,omitempty"`
}

// SubnetSpec is one family of a PoolSpec.
type SubnetSpec struct {
	Subnet                    string
	Ranges, Exclude, Reserved []string
	Gateway                   string
	BlockSize                 int // 0: DefaultBlockSize
}

// RouteSpec is one route of a PoolSpec. Via "" is the gateway of the family.
type RouteSpec struct{ Dst, Via string }

// Pool is a pool that has been checked; it cannot be wrong. It is a value: copies share nothing that is written.
type Pool struct {
	Name     string        `json:"name"`
	UID      string        `json:"uid"`
	Subnets  []Subnet      `json:"subnets"` // IPv4 first
	Routes   []Route       `json:"routes,omitempty"`
	Cooldown time.Duration `json:"cooldown"`
	// Watermarks are for the node's agent.
	Watermarks Watermarks `json:"watermarks,omitzero"`
	// DetectConflicts makes Lease.Probe.
	DetectConflicts bool `json:"detectConflicts,omitempty"`
	// Sticky says whom addresses follow.
	Sticky Sticky `json:"sticky,omitzero"`
	// Namespaces are those whose pods may lease from the pool; nil is all. Whoever has no namespace is in none.
	Namespaces *[]string `json:"namespaces,omitempty"`
	// Closed says why the pool gives nothing new on this node; empty means it is open. Leases that exist stay.
	Closed string `json:"closed,omitempty"`
}

// Subnet is one family of a Pool.
type Subnet struct {
	Prefix    netip.Prefix `json:"prefix"`
	Gateway   netip.Addr   `json:"gateway,omitzero"`
	BlockSize int          `json:"blockSize"` // a power of two, never more than the subnet
	// Leasable are the addresses that blocks are made of: ascending, disjoint, without the excluded, the
	// reserved, the gateway, and the addresses that mean the subnet or everybody in it.
	Leasable []iprange.Range `json:"leasable"`
	// Reserved are the addresses to be had by name only.
	Reserved []iprange.Range `json:"reserved,omitempty"`
}

// ParsePool checks spec and makes it a Pool. The error joins one FieldError for everything that is wrong.
func ParsePool(spec PoolSpec) (Pool, error) {
	var errs []error
	if err := CheckPoolName("metadata.name", spec.Name); err != nil {
		errs = append(errs, err)
	}
	p := Pool{Name: spec.Name, UID: spec.UID, Cooldown: DefaultCooldown, Watermarks: spec.Watermarks, DetectConflicts: spec.DetectConflicts, Sticky: spec.Sticky}
	if spec.Namespaces != nil {
		only := append([]string{}, *spec.Namespaces...) // never null in JSON, which would be all
		p.Namespaces = &only
	}
	if spec.Cooldown != nil {
		p.Cooldown = *spec.Cooldown
	}
	if p.Cooldown < 0 {
		errs = append(errs, fieldErrorf("spec.cooldownSeconds", "%v is negative: use 0 to reuse addresses at once", p.Cooldown))
	}
	errs = append(errs, spec.Watermarks.check())
	if spec.IPv4 == nil && spec.IPv6 == nil {
		errs = append(errs, fieldErrorf("spec", "names neither ipv4 nor ipv6: give at least one of them a subnet"))
	}
	for _, f := range []struct {
		field string
		is4   bool
		spec  *SubnetSpec
	}{{"spec.ipv4", true, spec.IPv4}, {"spec.ipv6", false, spec.IPv6}} {
		if f.spec == nil {
			continue
		}
		s, err := parseSubnet(f.field, f.is4, *f.spec)
		errs = append(errs, err)
		p.Subnets = append(p.Subnets, s)
	}
	if err := errors.Join(errs...); err != nil {
		return Pool{}, err
	}
	for i, r := range spec.Routes {
		field := fmt.Sprintf("spec.routes[%d]", i)
		route, err := p.parseRoute(field, r)
		if err == nil && p.hasRoute(route.Dst) {
			err = fieldErrorf(field+".dst", "%s has a route already: keep one of them", route.Dst)
		}
		errs = append(errs, err)
		p.Routes = append(p.Routes, route)
	}
	if spec.DefaultRoute {
		for _, s := range p.Subnets {
			if !s.Gateway.IsValid() {
				errs = append(errs, fieldErrorf("spec.defaultRoute", "needs a gateway in the subnet %s", s.Prefix))
			}
			all := netip.PrefixFrom(unspecified(s.Is4()), 0)
			if p.hasRoute(all) {
				errs = append(errs, fieldErrorf("spec.defaultRoute", "and spec.routes both give %s a route: keep one of them", all))
			}
			p.Routes = append(p.Routes, Route{Dst: all, Via: s.Gateway})
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Pool{}, err
	}
	return p, nil
}

func (w Watermarks) check() error {
	for _, f := range []struct {
		field string
		n     *int
	}{{"low", w.Low}, {"high", w.High}} {
		if f.n != nil && *f.n < 0 {
			return fieldErrorf("spec.watermarks."+f.field, "%d is negative", *f.n)
		}
	}
	if w.Low != nil && w.High != nil && *w.Low > *w.High {
		return fieldErrorf("spec.watermarks.high", "%d is less than low, %d: what goes back would be claimed again at once", *w.High, *w.Low)
	}
	return nil
}

func (p Pool) hasRoute(dst netip.Prefix) bool {
	return slices.ContainsFunc(p.Routes, func(r Route) bool { return r.Dst == dst })
}

func parseSubnet(field string, is4 bool, spec SubnetSpec) (Subnet, error) {
	prefix, err := iprange.ParsePrefix(spec.Subnet)
	if err != nil {
		return Subnet{}, fieldErrorf(field+".subnet", "%v", err)
	}
	if err := checkSubnet(field+".subnet", is4, prefix); err != nil {
		return Subnet{}, err
	}
	s := Subnet{Prefix: prefix}
	var errs []error
	if spec.Gateway != "" {
		if s.Gateway, err = iprange.ParseAddr(spec.Gateway); err != nil {
			errs = append(errs, fieldErrorf(field+".gateway", "%v", err))
		} else if !prefix.Contains(s.Gateway) {
			errs = append(errs, fieldErrorf(field+".gateway", "%s is outside of the subnet %s", s.Gateway, prefix))
		}
	}
	set := func(name string, texts []string) *netipx.IPSet {
		var ranges []iprange.Range
		for i, t := range texts {
			at := fmt.Sprintf("%s.%s[%d]", field, name, i)
			r, err := iprange.Parse(t)
			switch {
			case err != nil:
				errs = append(errs, fieldErrorf(at, "%v", err))
			case !prefix.Contains(r.From()) || !prefix.Contains(r.To()):
				errs = append(errs, fieldErrorf(at, "%s is not inside of the subnet %s", r, prefix))
			default:
				ranges = append(ranges, r)
			}
		}
		return iprange.Set(ranges...)
	}
	ranges, exclude, reserved := set("ranges", spec.Ranges), set("exclude", spec.Exclude), set("reserved", spec.Reserved)
	if s.BlockSize, err = blockSize(prefix, spec.BlockSize); err != nil {
		errs = append(errs, fieldErrorf(field+".blockSize", "%v", err))
	}
	if err := errors.Join(errs...); err != nil {
		return Subnet{}, err
	}
	if len(spec.Ranges) == 0 {
		ranges = iprange.Set(iprange.FromPrefix(prefix))
	}
	never := iprange.Set(s.special()...)
	s.Leasable = iprange.Ranges(minus(ranges, exclude, reserved, never))
	s.Reserved = iprange.Ranges(minus(reserved, exclude, never))
	if len(s.Leasable)+len(s.Reserved) == 0 {
		return Subnet{}, fieldErrorf(field+".ranges", "leave no address in %s: widen ranges or shorten exclude", prefix)
	}
	return s, nil
}

// checkSubnet refuses what hosts could not own. One address alone is a subnet, of a host that is reached by routes.
func checkSubnet(field string, is4 bool, p netip.Prefix) error {
	a := p.Addr()
	switch {
	case a.Is4() != is4 && is4:
		return fieldErrorf(field, "%s is IPv6: move it to spec.ipv6", p)
	case a.Is4() != is4:
		return fieldErrorf(field, "%s is IPv4: move it to spec.ipv4", p)
	case p.Bits() < 8:
		return fieldErrorf(field, "a /%d is no subnet: use /8 or longer", p.Bits())
	case a.IsMulticast(), a.IsLoopback(), !is4 && a.IsLinkLocalUnicast():
		return fieldErrorf(field, "%s is multicast, loopback or link-local: use addresses that hosts may own", p)
	}
	return nil
}

func blockSize(p netip.Prefix, n int) (int, error) {
	switch {
	case n == 0:
		n = DefaultBlockSize
	case n < 0 || n > MaxBlockSize || bits.OnesCount(uint(n)) != 1:
		return 0, fmt.Errorf("%d is not a power of two from 1 to %d", n, MaxBlockSize)
	}
	if host := p.Addr().BitLen() - p.Bits(); host < 13 {
		n = min(n, 1<<host)
	}
	return n, nil
}

func (p Pool) parseRoute(field string, spec RouteSpec) (Route, error) {
	dst, err := iprange.ParsePrefix(spec.Dst)
	if err != nil {
		return Route{}, fieldErrorf(field+".dst", "%v", err)
	}
	i := -1
	for j, s := range p.Subnets {
		if s.Is4() == dst.Addr().Is4() {
			i = j
		}
	}
	if i < 0 {
		return Route{}, fieldErrorf(field+".dst", "%s is of a family that the pool does not have", dst)
	}
	s := p.Subnets[i]
	if spec.Via == "" {
		if !s.Gateway.IsValid() {
			return Route{}, fieldErrorf(field+".via", "is empty and the subnet %s has no gateway", s.Prefix)
		}
		return Route{Dst: dst, Via: s.Gateway}, nil
	}
	via, err := iprange.ParseAddr(spec.Via)
	if err != nil {
		return Route{}, fieldErrorf(field+".via", "%v", err)
	}
	if !s.Prefix.Contains(via) {
		return Route{}, fieldErrorf(field+".via", "%s is not a neighbour: it is outside of the subnet %s", via, s.Prefix)
	}
	return Route{Dst: dst, Via: via}, nil
}

// Subnet gives the subnet of a's family that contains a.
func (p Pool) Subnet(a netip.Addr) (Subnet, bool) {
	for _, s := range p.Subnets {
		if s.Prefix.Contains(a) {
			return s, true
		}
	}
	return Subnet{}, false
}

// Is4 says which family the subnet is of.
func (s Subnet) Is4() bool { return s.Prefix.Addr().Is4() }

// special are the addresses no host may own: the network and broadcast address of IPv4 (RFC 3021 spares /31), the
// subnet-router anycast address of IPv6 (RFC 4291 2.6.1; RFC 6164 spares /127), and the gateway.
func (s Subnet) special() []iprange.Range {
	var out []iprange.Range
	all := iprange.FromPrefix(s.Prefix)
	if s.Prefix.Bits() < s.Prefix.Addr().BitLen()-1 {
		out = append(out, iprange.Of(all.From()))
		if s.Is4() {
			out = append(out, iprange.Of(all.To()))
		}
	}
	if s.Gateway.IsValid() {
		out = append(out, iprange.Of(s.Gateway))
	}
	return out
}
