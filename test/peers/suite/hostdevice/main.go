// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Command hostdevice is what the suite of the peers' host-device plugin expects beside it: the verbs, and the variables
// by which the suite turns the plugin to a /sys of its own. Only its tests are of use.
package main

import (
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/railyard-net/railyard/test/peers/suite/shim"
)

func main() {}

// The suite points both below one folder, and leaves them there when the folder is gone.
var sysBusPCI, sysBusAuxiliary string

func sys() string {
	dir, _ := strings.CutSuffix(sysBusPCI, "/bus/pci/devices")
	if sysBusAuxiliary != "" && sysBusAuxiliary != dir+"/bus/auxiliary/devices" {
		panic("the suite has two /sys: " + sysBusPCI + " and " + sysBusAuxiliary)
	}
	return dir
}

func plugin() shim.Plugin {
	return shim.Plugin{Kind: "host-device", Wording: []shim.Wording{shim.NoCheck(), {
		Verb: "ADD", Code: types.ErrInvalidNetworkConfig, Ours: "device: is empty",
		Theirs: `specify either "device", "hwaddr", "kernelpath" or "pciBusID"`,
	}}}
}

func cmdAdd(args *skel.CmdArgs) error    { return plugin().Call("ADD", args, sys()) }
func cmdDel(args *skel.CmdArgs) error    { return plugin().Call("DEL", args, sys()) }
func cmdCheck(args *skel.CmdArgs) error  { return plugin().Call("CHECK", args, sys()) }
func cmdStatus(args *skel.CmdArgs) error { return plugin().Call("STATUS", args, sys()) }
