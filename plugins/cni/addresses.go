// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// addresses are what the address management gave an attachment.
type addresses struct {
	ips []*current.IPConfig
	// routes as the result shows them; install has every next hop filled in.
	routes, install []*types.Route
	dns             types.DNS
	// probe: the neighbours are asked for them first.
	probe bool
}

// has6 says that an address is IPv6.
func (a addresses) has6() bool {
	for _, ip := range a.ips {
		if ip.Address.IP.To4() == nil {
			return true
		}
	}
	return false
}

// fit refuses an MTU with which the kernel has no IPv6 on the link (IPV6_MIN_MTU).
func (a addresses) fit(mtu int) error {
	const least = 1280
	if mtu < least && a.has6() {
		return &conf.FieldError{Field: "mtu", Detail: fmt.Sprintf("is %d, and the attachment has an IPv6 address: that needs %d or more", mtu, least)}
	}
	return nil
}

// planAddresses decides where the addresses come from, and refuses what could never be had. Nil: from nowhere, the
// attachment is on layer 2 only.
func planAddresses(a dispatch.Args, s *conf.Spec) (*journal.Step, error) {
	switch s.IPAMType {
	case "":
		return nil, nil //nolint:nilnil // none is an answer
	case conf.IPAMType:
		if len(s.Static) == 0 && a.Extra.Get("IP") != "" {
			static, err := conf.ParseIPs("CNI_ARGS IP", strings.Split(a.Extra.Get("IP"), ","))
			if err != nil {
				return nil, err
			}
			s.Static = static
		}
		if err := leaseRequest(a, *s).Validate(); err != nil {
			return nil, err
		}
		return &journal.Step{Lease: &journal.Lease{Pool: s.Pool, StateDir: s.StateDir, AgentSocket: s.AgentSocket}}, nil
	default:
		if _, err := find(s.IPAMType, a.Path); err != nil {
			return nil, dispatch.Errorf(dispatch.CodeDelegate, "ipam.type: %w", err)
		}
		return &journal.Step{Delegate: &journal.Delegate{
			Type: s.IPAMType, Path: a.Path, Args: a.Extra.Raw, Config: a.Stdin,
		}}, nil
	}
}

func leaseKey(network string, id journal.ID) ipam.Key {
	return ipam.Key{Network: network, ContainerID: id.ContainerID, IfName: id.IfName}
}

// railID is the attachment's ID, or that of its rail with a name of its own.
func railID(id journal.ID, ifName string) journal.ID {
	id.IfName = cmp.Or(ifName, id.IfName)
	return id
}

func leaseRequest(a dispatch.Args, s conf.Spec) ipam.Request {
	return ipam.Request{Key: leaseKey(a.Name, idOf(a)), Pool: s.Pool, NetNS: a.NS, Static: s.Static, Pod: a.Extra.Pod(), Attachment: s.Attachment}
}

// obtain does the step that planAddresses planned.
func (p *plugin) obtain(ctx context.Context, a dispatch.Args, s conf.Spec) (addresses, error) {
	switch s.IPAMType {
	case "":
		return addresses{}, nil
	case conf.IPAMType:
		l, err := p.Leaser(s.Paths).Lease(ctx, leaseRequest(a, s))
		if err != nil {
			return addresses{}, err
		}
		return fromLease(l), nil
	}
	out, err := p.foreignCall(a, s.IPAMType).run(ctx)
	if err != nil {
		return addresses{}, err
	}
	r, err := dispatch.DecodeResult(out, a.CNIVersion)
	if err != nil {
		return addresses{}, dispatch.Errorf(dispatch.CodeDelegate, "%s gave a result that cannot be read: %w", s.IPAMType, err)
	}
	if len(r.IPs) == 0 {
		return addresses{}, dispatch.Errorf(dispatch.CodeDelegate, "%s gave no address", s.IPAMType)
	}
	return fromResult(r), nil
}

func fromLease(l ipam.Lease) addresses {
	out := addresses{probe: l.Probe}
	for _, a := range l.Addresses {
		out.ips = append(out.ips, &current.IPConfig{Address: ipNet(a.Prefix), Gateway: ip(a.Gateway)})
	}
	for _, r := range l.Routes {
		out.routes = append(out.routes, &types.Route{Dst: ipNet(r.Dst.Masked()), GW: ip(r.Via)})
	}
	out.install = out.routes
	return out
}

// fromResult reads another plugin's result. A route without a next hop means the first gateway of its family, as it
// does for the reference plugins.
func fromResult(r *current.Result) addresses {
	out := addresses{ips: r.IPs, routes: r.Routes, dns: r.DNS}
	for _, r := range r.Routes {
		r = r.Copy()
		for _, c := range out.ips {
			if r.GW == nil && c.Gateway != nil && (c.Address.IP.To4() == nil) == (r.Dst.IP.To4() == nil) {
				r.GW = c.Gateway
			}
		}
		out.install = append(out.install, r)
	}
	return out
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func ip(a netip.Addr) net.IP {
	if !a.IsValid() {
		return nil
	}
	return a.AsSlice()
}
