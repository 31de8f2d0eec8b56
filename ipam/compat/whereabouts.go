// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package compat

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// section is the ipam section of whereabouts, as far as it means something here.
type section struct {
	Range         string         `json:"range"`
	Start         string         `json:"range_start"`
	End           string         `json:"range_end"`
	Exclude       []string       `json:"exclude"`
	IPRanges      []rangeKeys    `json:"ipRanges"`
	Gateway       string         `json:"gateway"`
	Routes        []*types.Route `json:"routes"`
	DNS           types.DNS      `json:"dns"`
	Addresses     []address      `json:"addresses"`
	NodeSliceSize string         `json:"node_slice_size"`
	NetworkName   string         `json:"network_name"`
	Overlapping   *bool          `json:"enable_overlapping_ranges"`
}

type rangeKeys struct {
	Range   string   `json:"range"`
	Start   string   `json:"range_start"`
	End     string   `json:"range_end"`
	Exclude []string `json:"exclude"`
}

type address struct {
	Address string `json:"address"`
	Gateway string `json:"gateway"`
}

// meaningless are whereabouts' keys that nothing here depends on.
func meaningless() map[string]string {
	const lock, log, api, etcd = "there is no cluster lock", "the agent logs", "the plugin does not talk to the API server", "there is no etcd to talk to"
	return map[string]string{
		"leader_lease_duration": lock, "leader_renew_deadline": lock, "leader_retry_period": lock, "sleep_for_race": lock,
		"log_file": log, "log_level": log,
		"kubernetes": api, "datastore": api,
		"reconciler_cron_expression": "leases end with their network namespace",
		"etcd_host":                  etcd, "etcd_username": etcd, "etcd_password": etcd, "etcd_key_file": etcd, "etcd_cert_file": etcd, "etcd_ca_cert_file": etcd,
	}
}

func (c config) whereabouts(in Input) (Call, error) {
	all, err := merge(c.IPAM, in.Defaults)
	if err != nil {
		return Call{}, err
	}
	s, err := readSection(all)
	if err != nil {
		return Call{}, err
	}
	call := Call{Own: true, Routes: s.Routes, DNS: s.DNS, Ignored: ignored(c.IPAM, meaningless())}
	if s.Overlapping != nil && !*s.Overlapping {
		call.Ignored = append(call.Ignored, "ipam.enable_overlapping_ranges (no address is given twice under one network_name)")
	}
	ranges, err := s.ranges()
	if err != nil {
		return Call{}, err
	}
	gateway, err := s.gateway()
	errs := []error{err}
	for i := range ranges {
		ranges[i].Gateway = within(gateway, ranges[i].Subnet)
		call.Pools = append(call.Pools, Pool{Name: ranges[i].PoolName(), Range: &ranges[i], Gateway: gatewayFor(gateway, ranges, i)})
	}
	static, err := c.static(in.ArgsIP)
	errs = append(errs, err)
	for i, a := range s.Addresses {
		at := fmt.Sprintf("ipam.addresses[%d]", i)
		addr, err := parseAddr(at+".address", a.Address)
		if errs = append(errs, err); err == nil {
			static = append(static, addr)
		}
	}
	errs = append(errs, call.place(static))
	for i, r := range s.Routes {
		if r == nil || r.Dst.IP == nil {
			errs = append(errs, fieldErrorf(fmt.Sprintf("ipam.routes[%d].dst", i), "is missing: write a CIDR"))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Call{}, err
	}
	return call, nil
}

func readSection(all map[string]json.RawMessage) (section, error) {
	data, err := json.Marshal(all)
	if err != nil {
		return section{}, fieldErrorf("ipam", "cannot be read: %v", err)
	}
	var s section
	return s, into("ipam", data, &s)
}

// ranges are those of the section, one a pool.
func (s section) ranges() ([]Range, error) {
	list := s.IPRanges
	at := func(i int) string { return fmt.Sprintf("ipam.ipRanges[%d]", i) }
	if s.Range != "" { // the older way to write the first one
		list = append([]rangeKeys{{s.Range, s.Start, s.End, s.Exclude}}, list...)
		at = func(i int) string {
			if i == 0 {
				return "ipam"
			}
			return fmt.Sprintf("ipam.ipRanges[%d]", i-1)
		}
	}
	switch {
	case len(list) == 0:
		return nil, fieldErrorf("ipam.range", "is missing: write a CIDR, or ipRanges")
	case len(list) > MaxPools:
		return nil, fieldErrorf("ipam.ipRanges", "has %d ranges: use at most %d", len(list), MaxPools)
	}
	out := make([]Range, 0, len(list))
	var errs []error
	names := map[string]bool{}
	for i, keys := range list {
		r, err := parseRange(at(i), s.NetworkName, keys)
		if err == nil {
			r.BlockSize, err = blockSize(s.NodeSliceSize, r.Subnet)
		}
		if err == nil && names[r.PoolName()] {
			err = fieldErrorf(at(i)+".range", "%s is there twice: leave one out", r.Subnet)
		}
		names[r.PoolName()] = true
		errs, out = append(errs, err), append(out, r)
	}
	return out, errors.Join(errs...)
}

func parseRange(at, network string, keys rangeKeys) (Range, error) {
	start, end, text := keys.Start, keys.End, keys.Range
	if first, rest, ok := strings.Cut(text, "-"); ok { // from-to/bits
		last, _, _ := strings.Cut(rest, "/")
		start, end, text = first, last, rest
	}
	prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
	if err != nil || prefix.Addr().Is4In6() {
		return Range{}, fieldErrorf(at+".range", "%.80q is no CIDR such as 10.20.0.0/16, nor from-to such as 10.20.0.10-10.20.0.99/16", keys.Range)
	}
	r := Range{Network: network, Subnet: prefix.Masked()}
	whole := iprange.FromPrefix(r.Subnet)
	from, to := whole.From(), whole.To()
	var errs []error
	bound := func(field, text string, b *netip.Addr) {
		if text == "" {
			return
		}
		a, err := parseAddr(at+field, text)
		if err == nil && !r.Subnet.Contains(a) {
			err = fieldErrorf(at+field, "%s is outside of %s", a, r.Subnet)
		}
		if errs = append(errs, err); err == nil {
			*b = a
		}
	}
	bound(".range_start", start, &from)
	bound(".range_end", end, &to)
	if to.Less(from) {
		errs = append(errs, fieldErrorf(at+".range_end", "%s is before the first address %s", to, from))
	}
	var exclude []iprange.Range
	for i, text := range keys.Exclude {
		x, err := parseExclude(fmt.Sprintf("%s.exclude[%d]", at, i), text)
		errs, exclude = append(errs, err), append(exclude, x)
	}
	if err := errors.Join(errs...); err != nil {
		return Range{}, err
	}
	if all, err := iprange.New(from, to); err == nil && all != whole {
		r.Only = all
	}
	r.Exclude = clip(exclude, whole)
	return r, r.check(at)
}

// parseExclude reads a CIDR, whose bits right of the mask whereabouts does not look at, an address, or from-to.
func parseExclude(at, text string) (iprange.Range, error) {
	if p, err := netip.ParsePrefix(strings.TrimSpace(text)); err == nil {
		text = p.Masked().String()
	}
	r, err := iprange.Parse(text)
	if err != nil {
		return iprange.Range{}, fieldErrorf(at, "%.80q is no CIDR, address or from-to", text)
	}
	return r, nil
}

// blockSize is what a node takes at once if each is to have a slice of that size; 0 is the default.
func blockSize(slice string, subnet netip.Prefix) (int, error) {
	if slice == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(strings.TrimPrefix(slice, "/"))
	if err != nil || n < 0 || n > 128 {
		return 0, fieldErrorf("ipam.node_slice_size", "is %.40q: write a prefix length such as /26", slice)
	}
	free := min(max(subnet.Addr().BitLen()-n, 0), subnet.Addr().BitLen()-subnet.Bits(), bits.Len(ipam.MaxBlockSize)-1)
	return 1 << free, nil
}

func (s section) gateway() (netip.Addr, error) {
	if s.Gateway == "" {
		return netip.Addr{}, nil
	}
	return parseAddr("ipam.gateway", s.Gateway)
}

// gatewayFor is the gateway of an address of range i: that of the config, if it is of the same family and, where
// several ranges are, in the same subnet.
func gatewayFor(gateway netip.Addr, ranges []Range, i int) netip.Addr {
	if !gateway.IsValid() || gateway.Is4() != ranges[i].Subnet.Addr().Is4() {
		return netip.Addr{}
	}
	if slices.ContainsFunc(ranges, func(r Range) bool { return r.Subnet.Contains(gateway) }) {
		return within(gateway, ranges[i].Subnet)
	}
	return gateway
}

func within(a netip.Addr, p netip.Prefix) netip.Addr {
	if !p.Contains(a) {
		return netip.Addr{}
	}
	return a
}

// place gives each address asked for by name to the pool that has it.
func (c *Call) place(static []netip.Addr) error {
	var errs []error
	for _, a := range static {
		i := slices.IndexFunc(c.Pools, func(p Pool) bool { return p.Range.Subnet.Contains(a) })
		switch {
		case i < 0:
			errs = append(errs, fieldErrorf("ips", "%s is in none of the config's ranges: ask for an address that one of them has", a))
		case slices.Contains(c.Pools[i].Static, a):
		case len(c.Pools[i].Static) > 0:
			errs = append(errs, fieldErrorf("ips", "%s is the second address of %s: each range gives one", a, c.Pools[i].Range.Subnet))
		default:
			c.Pools[i].Static = append(c.Pools[i].Static, a)
		}
	}
	return errors.Join(errs...)
}
