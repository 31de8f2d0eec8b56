// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"

	current "github.com/containernetworking/cni/pkg/types/100"

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
	return r, nil
}

// appendTo adds the interface and its addresses to the result of the plugins before.
func (a addresses) appendTo(r *current.Result, iface *current.Interface, s conf.Spec) *current.Result {
	at := len(r.Interfaces)
	r.Interfaces = append(r.Interfaces, iface)
	for _, c := range a.ips {
		c = c.Copy()
		c.Interface = current.Int(at)
		r.IPs = append(r.IPs, c)
	}
	r.Routes = append(r.Routes, a.routes...)
	switch {
	case !s.DNS.IsEmpty():
		r.DNS = s.DNS
	case !a.dns.IsEmpty():
		r.DNS = a.dns
	}
	return r
}

func encodeResult(r *current.Result) (json.RawMessage, error) {
	b, err := dispatch.Encode(r, current.ImplementedSpecVersion)
	return json.RawMessage(b), err
}
