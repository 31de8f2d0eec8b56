// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// previous is the result of the plugins before this one, or an empty one.
func previous(s conf.Spec, cniVersion string) (*current.Result, error) {
	if s.PrevResult == nil {
		return &current.Result{CNIVersion: current.ImplementedSpecVersion}, nil
	}
	r, err := dispatch.DecodeResult(s.PrevResult, cniVersion)
	if err != nil {
		return nil, dispatch.Errorf(dispatch.CodeConfig, "prevResult: %w", err)
	}
	for i, c := range r.IPs {
		if n := c.Interface; n != nil && (*n < 0 || *n >= len(r.Interfaces)) {
			return nil, &conf.FieldError{Field: fmt.Sprintf("prevResult.ips[%d].interface", i), Detail: fmt.Sprintf("is %d, and there are %d interfaces: pass the result of the plugin before unchanged", *n, len(r.Interfaces))}
		}
	}
	return r, nil
}

// inSandbox says that an interface of a previous result is in the pod. A sandbox that is no namespace here may be the pod's by another
// name; one that is another namespace is not.
func inSandbox(i *current.Interface, ns ipam.NetNS) bool {
	if i.Sandbox == "" {
		return false
	}
	is, err := ipam.StatNetNS(i.Sandbox)
	return err != nil || is.Dev == ns.Dev && is.Ino == ns.Ino
}

// appendTo adds the interface and its addresses to the result of the plugins before. A chained one is there already, and
// only its addresses are added.
func (a addresses) appendTo(r *current.Result, iface *current.Interface, s conf.Spec) *current.Result {
	at := inPod(r, iface.Name)
	if s.Kind != conf.KindChained || at < 0 {
		at = len(r.Interfaces)
		r.Interfaces = append(r.Interfaces, iface)
	}
	for _, c := range a.ips {
		c = c.Copy()
		c.Interface = current.Int(at)
		r.IPs = append(r.IPs, c)
	}
	for _, n := range a.routes {
		same := func(o *types.Route) bool { return o.Dst.String() == n.Dst.String() && o.GW.Equal(n.GW) }
		if !slices.ContainsFunc(r.Routes, same) { // two rails of one pool
			r.Routes = append(r.Routes, n)
		}
	}
	switch {
	case !s.DNS.IsEmpty():
		r.DNS = s.DNS
	case !a.dns.IsEmpty():
		r.DNS = a.dns
	}
	return r
}

// inPod is the place in the result of the pod's interface of that name, or -1.
func inPod(r *current.Result, name string) int {
	return slices.IndexFunc(r.Interfaces, func(i *current.Interface) bool { return i.Name == name && i.Sandbox != "" })
}

func encodeResult(r *current.Result) (json.RawMessage, error) {
	b, err := dispatch.Encode(r, current.ImplementedSpecVersion)
	return json.RawMessage(b), err
}
