// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package ipamplugin is railyard-ipam, the CNI IPAM plugin that gives addresses of an IPPool to any main plugin:
//
//	{"cniVersion":"1.0.0","name":"rail0","type":"macvlan","master":"ens1f0np0",
//	 "ipam":{"type":"railyard-ipam","pool":"rail0"}}
//
// It is a thin layer over package client: a lease under (network name, container ID, interface name). ADD repeated
// gives the same answer, DEL repeated is fine, GC is strictly for the network that is named. Static addresses come
// from runtimeConfig.ips, else args.cni.ips, else IP= in CNI_ARGS (several with commas between).
//
// The configs of whereabouts and nv-ipam are served too, as ipam/compat reads them. The ipam.type of the config says
// which it is, and a main plugin executes its IPAM plugin by that very type. So the same program, linked under these names,
// is both of them.
package ipamplugin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/client"
	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// New gives the plugin's verbs. The state folder is for configs that name none, as a DEL that Multus stripped;
// empty means conf.DefaultStateDir. What a person may want to know of a config goes to notes, a line each.
func New(stateDir string, notes io.Writer) dispatch.Plugin {
	p := plugin{stateDir, notes}
	return dispatch.Plugin{Add: p.add, Del: p.del, Check: p.check, GC: p.gc, Status: p.status}
}

type plugin struct {
	stateDir string
	notes    io.Writer
}

func (p plugin) warn(format string, args ...any) {
	fmt.Fprintf(p.notes, format+"\n", args...)
}

func leaser(p conf.Paths) ipam.Leaser { return client.New(p.AgentSocket, p.Store()) }

func key(a dispatch.Args) ipam.Key {
	return ipam.Key{Network: a.Name, ContainerID: a.ContainerID, IfName: a.IfName}
}

func (p plugin) add(ctx context.Context, a dispatch.Args) (*current.Result, error) {
	if q, ok := p.as(a); ok {
		return q.add(ctx, a)
	}
	c, err := conf.ParseIPAM(a.Stdin, p.stateDir)
	if err != nil {
		return nil, err
	}
	static := c.Static
	if text := a.Extra.Get("IP"); len(static) == 0 && text != "" {
		if static, err = conf.ParseIPs("CNI_ARGS.IP", strings.Split(text, ",")); err != nil {
			return nil, err
		}
	}
	l, err := leaser(c.Paths).Lease(ctx, ipam.Request{Key: key(a), Pool: c.Pool, NetNS: a.NS, Static: static, Pod: a.Extra.Pod()})
	if err != nil {
		return nil, err
	}
	return Result(l), nil
}

// Result is a lease as an IPAM plugin prints it.
func Result(l ipam.Lease) *current.Result {
	r := &current.Result{CNIVersion: current.ImplementedSpecVersion}
	for _, a := range l.Addresses {
		r.IPs = append(r.IPs, &current.IPConfig{Address: ipNet(a.Prefix), Gateway: a.Gateway.AsSlice()})
	}
	for _, x := range l.Routes {
		r.Routes = append(r.Routes, &types.Route{Dst: ipNet(x.Dst), GW: x.Via.AsSlice()})
	}
	return r
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (p plugin) del(ctx context.Context, a dispatch.Args) error {
	if q, ok := p.as(a); ok {
		return q.del(ctx, a)
	}
	c, err := conf.ParseKnown(a.Stdin, p.stateDir)
	if err != nil {
		return err
	}
	return leaser(c.Paths).Release(ctx, key(a))
}

func (p plugin) check(ctx context.Context, a dispatch.Args) error {
	if q, ok := p.as(a); ok {
		return q.check(ctx, a)
	}
	c, err := conf.ParseIPAM(a.Stdin, p.stateDir)
	if err != nil {
		return err
	}
	l, err := leaser(c.Paths).Lookup(ctx, key(a))
	if err != nil {
		return err
	}
	if l.Pool != c.Pool {
		return dispatch.Errorf(dispatch.CodeDrift, "the lease is of pool %s, but the config says %s", l.Pool, c.Pool)
	}
	return checkResult(l, a)
}

// checkResult finds every leased address in the result of the ADD, if the runtime passed it on.
func checkResult(l ipam.Lease, a dispatch.Args) error {
	var c struct {
		PrevResult json.RawMessage `json:"prevResult"`
	}
	if err := json.Unmarshal(a.Stdin, &c); err != nil || len(c.PrevResult) == 0 || string(c.PrevResult) == "null" {
		return err
	}
	prev, err := dispatch.DecodeResult(c.PrevResult, a.CNIVersion)
	if err != nil {
		return dispatch.Errorf(dispatch.CodeConfig, "prevResult: %w", err)
	}
	for _, have := range l.Addresses {
		if !slices.ContainsFunc(prev.IPs, func(ip *current.IPConfig) bool {
			got, ok := netip.AddrFromSlice(ip.Address.IP)
			return ok && got.Unmap() == have.Prefix.Addr()
		}) {
			return dispatch.Errorf(dispatch.CodeDrift, "%s is leased to this attachment, but prevResult does not have it", have.Prefix.Addr())
		}
	}
	return nil
}

func (p plugin) gc(ctx context.Context, a dispatch.Args) error {
	if q, ok := p.as(a); ok {
		return q.gc(ctx, a)
	}
	c, err := conf.ParseKnown(a.Stdin, p.stateDir)
	if err != nil {
		return err
	}
	valid, err := conf.ParseValidAttachments(a.Stdin)
	if err != nil {
		return err
	}
	keep := make([]ipam.Key, 0, len(valid))
	for _, v := range valid {
		keep = append(keep, ipam.Key{Network: a.Name, ContainerID: v.ContainerID, IfName: v.IfName})
	}
	_, err = leaser(c.Paths).Retain(ctx, a.Name, keep)
	return err
}

func (p plugin) status(ctx context.Context, a dispatch.Args) error {
	if q, ok := p.as(a); ok {
		return q.status(ctx, a)
	}
	c, err := conf.ParseIPAM(a.Stdin, p.stateDir)
	if err != nil {
		return err
	}
	return dispatch.StatusError(leaser(c.Paths).Ready(ctx, c.Pool))
}
