// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package compat

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
)

// maxNVPools is how many pools a config of nv-ipam can name.
const maxNVPools = 2

// nvSection is the ipam section of nv-ipam, as far as it means something here.
type nvSection struct {
	PoolName      string `json:"poolName"`
	PoolType      string `json:"poolType"`
	ForcePoolName bool   `json:"forcePoolName"`
}

func (c config) nvIPAM(in Input) (Call, error) {
	all, err := merge(c.IPAM, in.Defaults)
	if err != nil {
		return Call{}, err
	}
	data, err := json.Marshal(all)
	if err != nil {
		return Call{}, fieldErrorf("ipam", "cannot be read: %v", err)
	}
	var s nvSection
	if err := into("ipam", data, &s); err != nil {
		return Call{}, err
	}
	const log, daemon = "the agent logs", "the agent's socket is agentSocket's, in stateDir"
	call := Call{Ignored: ignored(c.IPAM, map[string]string{
		"daemonSocket": daemon, "daemonCallTimeoutSeconds": daemon, "logFile": log, "logLevel": log,
	})}
	errs := []error{c.nvUnsupported(s)}
	names, err := c.nvPools(s)
	errs = append(errs, err)
	static, err := c.static(in.ArgsIP)
	errs = append(errs, err)
	for i, name := range names {
		p := Pool{Name: NVPoolName(name)}
		for _, a := range static {
			if len(names) == 1 || (i == 0) == a.Is4() { // of two, the first is the one for IPv4
				p.Static = append(p.Static, a)
			}
		}
		errs = append(errs, onePerFamily(p.Static))
		call.Pools = append(call.Pools, p)
	}
	if len(names) == maxNVPools && call.Pools[0].Name == call.Pools[1].Name {
		errs = append(errs, fieldErrorf("ipam.poolName", "names %s twice: leave one out", names[0]))
	}
	if err := errors.Join(errs...); err != nil {
		return Call{}, err
	}
	return call, nil
}

// nvUnsupported refuses what a pool here cannot do, by the key that asks for it.
func (c config) nvUnsupported(s nvSection) error {
	var errs []error
	field, kind := "ipam.poolType", s.PoolType
	if c.Args.CNI.PoolType != "" {
		field, kind = "args.cni.poolType", c.Args.CNI.PoolType
	}
	switch strings.ToLower(kind) {
	case "", "ippool":
	case "cidrpool":
		errs = append(errs, fieldErrorf(field, "cidrpool is not supported, an IPPool is one subnet for all nodes: use a pool of type ippool"))
	default:
		errs = append(errs, fieldErrorf(field, "is %.40q: write ippool", kind))
	}
	if c.Args.CNI.AllocateDefaultGateway {
		errs = append(errs, fieldErrorf("args.cni.allocateDefaultGateway", "is not supported, a gateway's address is nobody's: leave it out"))
	}
	if c.Args.CNI.AllocateIPWithIndex != nil {
		errs = append(errs, fieldErrorf("args.cni.allocateIPWithIndex", "is not supported, a node's addresses change: ask for an address by name with ips"))
	}
	return errors.Join(errs...)
}

// nvPools are the names of the pools as nv-ipam knows them.
func (c config) nvPools(s nvSection) ([]string, error) {
	field, names := "args.cni.poolNames", c.Args.CNI.PoolNames
	if len(names) == 0 {
		field = "ipam.poolName"
		if s.PoolName == "" && !s.ForcePoolName {
			s.PoolName = c.Name
		}
		names = strings.Split(s.PoolName, ",")
	}
	if len(names) > maxNVPools {
		return nil, fieldErrorf(field, "names %d pools: use one or two", len(names))
	}
	for _, n := range names {
		if n == "" {
			return nil, fieldErrorf(field, "names no pool: write the name of one, or of two with a comma between")
		}
	}
	return names, nil
}

func onePerFamily(static []netip.Addr) error {
	var has4, has6 bool
	for _, a := range static {
		if a.Is4() && has4 || a.Is6() && has6 {
			return fieldErrorf("ips", "%s is the second address of its family: ask for at most one of each", a)
		}
		has4, has6 = has4 || a.Is4(), has6 || a.Is6()
	}
	return nil
}
