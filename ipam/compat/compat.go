// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package compat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/railyard-net/railyard/ipam"
)

// The values of ipam.type that this package reads.
const (
	TypeWhereabouts = "whereabouts"
	TypeNVIPAM      = "nv-ipam"
)

// MaxPools is how many pools one attachment leases from at most.
const MaxPools = 8

// Types are the values of ipam.type that this package reads.
func Types() []string { return []string{TypeNVIPAM, TypeWhereabouts} }

// Is says that this package reads a config with that ipam.type.
func Is(ipamType string) bool { return slices.Contains(Types(), ipamType) }

// Input is one call of the plugin.
type Input struct {
	// Config is the whole CNI config.
	Config []byte
	// Defaults is the content of the file that [DefaultsFile] names; nil if there is none.
	Defaults []byte
	// ArgsIP is IP in CNI_ARGS.
	ArgsIP string
}

// Call is what a config asks for. It is checked: only a pool can still refuse it.
type Call struct {
	Type string
	// Pools give one address of each of their families; at least one, at most MaxPools.
	Pools []Pool
	// Own says that gateways, routes and DNS are those below, and not the pools'.
	Own    bool
	Routes []*types.Route
	DNS    types.DNS
	// Ignored are the keys that the config has and that mean nothing here, each with the reason.
	Ignored []string
}

// Pool is one pool of a call.
type Pool struct {
	Name string
	// Range is what the pool is made of; nil where the config names a pool that somebody else makes.
	Range *Range
	// Static are the addresses asked for by name.
	Static []netip.Addr
	// Gateway is that of the result, if Call.Own; it may be invalid.
	Gateway netip.Addr
}

// Parse reads the ipam section of a config. The error joins one ipam.FieldError for everything that is wrong.
func Parse(in Input) (Call, error) {
	c, err := decode(in.Config)
	if err != nil {
		return Call{}, err
	}
	var kind struct {
		Type string `json:"type"`
	}
	if err := into("ipam", c.IPAM, &kind); err != nil {
		return Call{}, err
	}
	var out Call
	switch kind.Type {
	case TypeWhereabouts:
		out, err = c.whereabouts(in)
	case TypeNVIPAM:
		out, err = c.nvIPAM(in)
	default:
		return Call{}, fieldErrorf("ipam.type", "is %.80q: write one of %s", kind.Type, strings.Join(Types(), ", "))
	}
	out.Type = kind.Type
	return out, err
}

// DefaultsFile is the file with defaults for the ipam section that the config means. Must says that the config names
// it, so that it has to be there.
func DefaultsFile(config []byte) (path string, must bool) {
	var c struct {
		IPAM struct {
			Type    string `json:"type"`
			Path    string `json:"configuration_path"`
			ConfDir string `json:"confDir"`
		} `json:"ipam"`
	}
	if json.Unmarshal(config, &c) != nil {
		return "", false // Parse says it better
	}
	switch {
	case c.IPAM.Type == TypeWhereabouts && c.IPAM.Path != "":
		return c.IPAM.Path, true
	case c.IPAM.Type == TypeWhereabouts:
		return "/etc/cni/net.d/whereabouts.d/whereabouts.conf", false
	case c.IPAM.ConfDir != "":
		return strings.TrimSuffix(c.IPAM.ConfDir, "/") + "/nv-ipam.conf", false
	}
	return "/etc/cni/net.d/nv-ipam.d/nv-ipam.conf", false
}

// config is what of a CNI config is looked at.
type config struct {
	Name          string          `json:"name"`
	IPAM          json.RawMessage `json:"ipam"`
	RuntimeConfig struct {
		IPs []string `json:"ips"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI struct {
			IPs                    []string `json:"ips"`
			PoolNames              []string `json:"poolNames"`
			PoolType               string   `json:"poolType"`
			AllocateDefaultGateway bool     `json:"allocateDefaultGateway"`
			AllocateIPWithIndex    *int     `json:"allocateIPWithIndex"`
		} `json:"cni"`
	} `json:"args"`
}

func decode(data []byte) (config, error) {
	var c config
	if err := into("", data, &c); err != nil {
		return config{}, err
	}
	if len(c.IPAM) == 0 || bytes.Equal(c.IPAM, []byte("null")) {
		return config{}, fieldErrorf("ipam", "is missing: write the section with its type")
	}
	return c, nil
}

// static are the addresses asked for by name, by the most particular wish.
func (c config) static(argsIP string) ([]netip.Addr, error) {
	field, list := "runtimeConfig.ips", c.RuntimeConfig.IPs
	if len(list) == 0 {
		field, list = "args.cni.ips", c.Args.CNI.IPs
	}
	if len(list) == 0 && argsIP != "" {
		field, list = "CNI_ARGS.IP", strings.Split(argsIP, ",")
	}
	return parseAddrs(field, list)
}

func parseAddrs(field string, list []string) ([]netip.Addr, error) {
	var out []netip.Addr
	var errs []error
	for i, text := range list {
		a, err := parseAddr(fmt.Sprintf("%s[%d]", field, i), text)
		if err == nil {
			out = append(out, a)
		}
		errs = append(errs, err)
	}
	return out, errors.Join(errs...)
}

// parseAddr reads an address with or without a prefix length, which is the pool's to say.
func parseAddr(field, text string) (netip.Addr, error) {
	bare, _, _ := strings.Cut(strings.TrimSpace(text), "/")
	a, err := netip.ParseAddr(bare)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fieldErrorf(field, "%.80q is no address: write one like 10.20.0.7 or fd00:20::7", text)
	}
	return a.Unmap(), nil
}

// into decodes data, which is at field in the config.
func into(field string, data []byte, to any) error {
	err := json.Unmarshal(data, to)
	if err == nil {
		return nil
	}
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) && wrong.Field != "" {
		return fieldErrorf(strings.TrimPrefix(field+"."+wrong.Field, "."), "is a %s, which it cannot be", wrong.Value)
	}
	if field == "" {
		field = "config"
	}
	return fieldErrorf(field, "cannot be read: %v", err)
}

// ignored are those of the keys that the section has, by the reason why they mean nothing. Those of the file of defaults
// do not count: every node has some of them, put there by an installer.
func ignored(section json.RawMessage, why map[string]string) []string {
	var has map[string]json.RawMessage
	if json.Unmarshal(section, &has) != nil {
		return nil
	}
	var out []string
	for key, reason := range why {
		if _, ok := has[key]; ok {
			out = append(out, "ipam."+key+" ("+reason+")")
		}
	}
	slices.Sort(out)
	return out
}

// merge adds to section the keys of defaults that it does not have.
func merge(section, defaults json.RawMessage) (map[string]json.RawMessage, error) {
	var all, more map[string]json.RawMessage
	if err := into("ipam", section, &all); err != nil {
		return nil, err
	}
	if all == nil {
		return nil, fieldErrorf("ipam", "is no object: write the section with its type")
	}
	if defaults == nil {
		return all, nil
	}
	if err := into("the file of defaults", defaults, &more); err != nil {
		return nil, err
	}
	for key, value := range more {
		if have, ok := all[key]; !ok || empty(have) {
			all[key] = value
		}
	}
	return all, nil
}

func empty(raw json.RawMessage) bool {
	return slices.Contains([]string{`""`, `null`, `0`, `[]`, `{}`, `false`}, string(raw))
}

func fieldErrorf(field, format string, args ...any) error {
	return &ipam.FieldError{Field: field, Detail: fmt.Sprintf(format, args...)}
}
