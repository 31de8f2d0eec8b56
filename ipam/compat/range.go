// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package compat

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"go4.org/netipx"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// DefaultDomain is the domain of pools whose config has no network_name, as it is of IPPools that name none.
const DefaultDomain = "default"

// Range is one range of whereabouts.
type Range struct {
	// Network is the network_name, any text; ranges of different ones have nothing to do with each other.
	Network string
	Subnet  netip.Prefix
	// Only are the addresses from range_start to range_end; invalid means the whole subnet.
	Only iprange.Range
	// Exclude are the addresses not to be given, ascending, disjoint, in the subnet.
	Exclude []iprange.Range

	// BlockSize is a hint, and Gateway must not be given; neither makes it another range.
	BlockSize int
	Gateway   netip.Addr
}

// PoolName is the name of the IPPool of the range: a DNS label, equal for equal ranges. The digest keeps others apart.
func (r Range) PoolName() string {
	text := []string{r.Network, r.Subnet.String(), r.Only.String()}
	for _, x := range r.Exclude {
		text = append(text, x.String())
	}
	return "wb-" + words(r.Subnet) + "-" + digest(text...)
}

// Domain is the domain of the range's pool.
func (r Range) Domain() string {
	if r.Network == "" {
		return DefaultDomain
	}
	return label("wb-", r.Network)
}

// Spec is the pool of the range. The gateways, of the configs that share it, are not given.
func (r Range) Spec(gateways ...netip.Addr) ipam.PoolSpec {
	s := &ipam.SubnetSpec{Subnet: r.Subnet.String(), BlockSize: r.BlockSize}
	if r.Only.IsValid() {
		s.Ranges = []string{r.Only.String()}
	}
	for _, x := range r.Exclude {
		s.Reserved = append(s.Reserved, x.String())
	}
	for i, g := range gateways {
		if i == 0 {
			s.Gateway = g.String()
			continue
		}
		s.Exclude = append(s.Exclude, g.String())
	}
	spec := ipam.PoolSpec{Name: r.PoolName()}
	if r.Subnet.Addr().Is4() {
		spec.IPv4 = s
	} else {
		spec.IPv6 = s
	}
	return spec
}

// maxExclude is how many runs of addresses an IPPool can reserve.
const maxExclude = 64

// check refuses a range of which no pool can be made.
func (r Range) check(at string) error {
	if n := len(r.Exclude); n > maxExclude {
		return fieldErrorf(at+".exclude", "are %d separate runs of addresses: use at most %d", n, maxExclude)
	}
	if _, err := ipam.ParsePool(r.Spec()); err != nil {
		return fieldErrorf(at+".range", "makes no pool: %v", err)
	}
	return nil
}

// NVPoolName is the name of the IPPool for a pool of nv-ipam: the same, if an IPPool can have it.
func NVPoolName(name string) string {
	if !strings.Contains(name, ".") && ipam.CheckPoolName("name", name) == nil {
		return name
	}
	return label("nv-", name)
}

// label makes a DNS label of any text. Different texts have different labels.
func label(prefix, text string) string {
	const room = 63 - 17
	var b strings.Builder
	b.WriteString(prefix)
	for _, c := range strings.ToLower(text) {
		if b.Len() == room {
			break
		}
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			c = '-'
		}
		b.WriteRune(c)
	}
	return b.String() + "-" + digest(text)
}

// digest is a digest of a list of texts, of which none can be mistaken for two.
func digest(texts ...string) string {
	h := sha256.New()
	for _, t := range texts {
		_, _ = fmt.Fprintf(h, "%d:%s", len(t), t) // a hash takes everything
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// words writes a CIDR with dashes: at most 43 characters.
func words(p netip.Prefix) string {
	a := p.Addr()
	bits := "-" + strconv.Itoa(p.Bits())
	if a.Is4() {
		return strings.ReplaceAll(a.String(), ".", "-") + bits
	}
	b := a.As16()
	groups := make([]string, 8)
	for i := range groups {
		groups[i] = strconv.FormatUint(uint64(binary.BigEndian.Uint16(b[2*i:])), 16)
	}
	return strings.Join(groups, "-") + bits
}

// clip is the union of ranges inside of whole.
func clip(ranges []iprange.Range, whole iprange.Range) []iprange.Range {
	var b netipx.IPSetBuilder
	b.AddSet(iprange.Set(ranges...))
	b.Intersect(iprange.Set(whole))
	s, _ := b.IPSet() // made of sets, which are valid
	return iprange.Ranges(s)
}
