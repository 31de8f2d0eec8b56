// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Command macvlan is what the suite of the peers' macvlan plugin expects beside it: the verbs, and of the insides those
// that the suite reaches into. Only its tests are of use.
package main

import (
	"encoding/json"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/railyard-net/railyard/test/peers/suite/shim"
)

func main() {}

func plugin() shim.Plugin {
	return shim.Plugin{Kind: "macvlan", Wording: []shim.Wording{shim.NoCheck()}}
}

func cmdAdd(args *skel.CmdArgs) error    { return plugin().Call("ADD", args, "") }
func cmdDel(args *skel.CmdArgs) error    { return plugin().Call("DEL", args, "") }
func cmdCheck(args *skel.CmdArgs) error  { return plugin().Call("CHECK", args, "") }
func cmdStatus(args *skel.CmdArgs) error { return plugin().Call("STATUS", args, "") }

// NetConf has the fields that the suite sets.
type NetConf struct {
	types.NetConf
	Master     string
	Mode       string
	MTU        int
	LinkContNs bool
}

// createMacvlan is an ADD without addresses, for the cases that call the peers' function of that name. Its result goes
// to the caller's stdout like any ADD's, and the suite does not look at the interface that is returned.
func createMacvlan(conf *NetConf, ifName string, netns ns.NetNS) (*current.Interface, error) {
	stdin, err := json.Marshal(map[string]any{
		"cniVersion": conf.CNIVersion, "name": conf.Name, "type": conf.Type, "master": conf.Master, "mode": conf.Mode,
		"mtu": conf.MTU, "linkInContainer": conf.LinkContNs,
	})
	if err != nil {
		return nil, err
	}
	args := &skel.CmdArgs{ContainerID: "createMacvlan", Netns: netns.Path(), IfName: ifName, StdinData: stdin}
	if err := cmdAdd(args); err != nil {
		return nil, err
	}
	return &current.Interface{Name: ifName, Sandbox: netns.Path()}, nil
}
