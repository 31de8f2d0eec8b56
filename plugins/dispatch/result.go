// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package dispatch

import (
	"encoding/json"
	"errors"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types020 "github.com/containernetworking/cni/pkg/types/020"
	types040 "github.com/containernetworking/cni/pkg/types/040"
	current "github.com/containernetworking/cni/pkg/types/100"
)

// Encode gives a result as it is printed at that version of the specification.
func Encode(r *current.Result, cniVersion string) ([]byte, error) {
	at, err := r.GetAsVersion(cniVersion)
	if err != nil {
		return nil, Errorf(CodeVersion, "print the result at version %s: %w", cniVersion, err)
	}
	var printed any = at
	if c, ok := at.(*current.Result); ok {
		printed = plain(c)
	}
	b, err := json.MarshalIndent(printed, "", "    ")
	if err != nil {
		return nil, Errorf(CodeBug, "print the result: %w", err)
	}
	return b, nil
}

// plain is what the library prints of a result, which it does by printing it, reading that as a map and printing the map, to be rid of an
// empty dns.
func plain(r *current.Result) any {
	out := struct {
		CNIVersion string               `json:"cniVersion,omitempty"`
		DNS        any                  `json:"dns,omitempty"`
		Interfaces []*current.Interface `json:"interfaces,omitempty"`
		IPs        []*current.IPConfig  `json:"ips,omitempty"`
		Routes     []*types.Route       `json:"routes,omitempty"`
	}{CNIVersion: r.CNIVersion, Interfaces: r.Interfaces, IPs: r.IPs, Routes: r.Routes}
	if !r.DNS.IsEmpty() {
		out.DNS = r.DNS
	}
	return out
}

var errEmptyEntry = errors.New("the result has a null in a list, an address without a value, or a route without a destination")

// checkResult refuses what no program may stumble over later.
func checkResult(r *current.Result) error {
	bad := slices.ContainsFunc(r.IPs, func(c *current.IPConfig) bool { return c.Address.IP == nil || c.Address.Mask == nil }) ||
		slices.ContainsFunc(r.Routes, func(x *types.Route) bool { return x.Dst.IP == nil || x.Dst.Mask == nil })
	if bad {
		return errEmptyEntry
	}
	return nil
}

func checked(r *current.Result, err error) (*current.Result, error) {
	if err != nil {
		return nil, err
	}
	return r, checkResult(r)
}

// DecodeResult reads a result of any version of the specification, or of the one given where it names none. What it
// gives without an error has no nil in its lists, and every address and route has its values.
func DecodeResult(data []byte, cniVersion string) (*current.Result, error) {
	var head struct {
		CNIVersion              string `json:"cniVersion"`
		Interfaces, IPs, Routes []any
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, err
	}
	for _, list := range [][]any{head.Interfaces, head.IPs, head.Routes} {
		if slices.Contains(list, nil) { // the reference library's conversions stumble over it
			return nil, errEmptyEntry
		}
	}
	if head.CNIVersion != "" {
		cniVersion = head.CNIVersion
	}
	switch cniVersion {
	case "1.0.0", "1.1.0":
		var r current.Result
		if err := json.Unmarshal(data, &r); err != nil {
			return nil, err
		}
		r.CNIVersion = current.ImplementedSpecVersion
		return &r, checkResult(&r)
	case "0.3.0", "0.3.1", "0.4.0":
		var r types040.Result
		if err := json.Unmarshal(data, &r); err != nil {
			return nil, err
		}
		r.CNIVersion = cniVersion
		return checked(current.NewResultFromResult(&r))
	case "", "0.1.0", "0.2.0":
		var r types020.Result
		if err := json.Unmarshal(data, &r); err != nil {
			return nil, err
		}
		r.CNIVersion = "0.2.0"
		return checked(current.NewResultFromResult(&r))
	default:
		return nil, Errorf(CodeVersion, "the result has the unknown version %.40q", cniVersion)
	}
}
