// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing/fstest"

	"github.com/railyard-net/railyard/rdma"
)

// machine is a sysfs with one RoCE card; os.DirFS("/sys") is the real one.
func machine() fstest.MapFS {
	const card = "devices/pci0000:3a/0000:3b:00.0/"
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s + "\n")} }
	link := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s), Mode: os.ModeSymlink} }
	return fstest.MapFS{
		"bus/pci/devices/0000:3b:00.0":                       link("../../../" + card[:len(card)-1]),
		"class/net/ens1":                                     link("../../" + card + "net/ens1"),
		card + "net/ens1/device":                             link("../.."),
		card + "numa_node":                                   file("1"),
		"class/infiniband/mlx5_0":                            link("../../" + card + "infiniband/mlx5_0"),
		card + "infiniband/mlx5_0/device":                    link("../../../0000:3b:00.0"),
		card + "infiniband/mlx5_0/node_guid":                 file("b83f:d203:00aa:bb00"),
		card + "infiniband/mlx5_0/ports/1/link_layer":        file("Ethernet"),
		card + "infiniband/mlx5_0/ports/1/state":             file("4: ACTIVE"),
		card + "infiniband/mlx5_0/ports/1/gids/0":            file("0000:0000:0000:0000:0000:ffff:0a00:0001"),
		card + "infiniband/mlx5_0/ports/1/gid_attrs/types/0": file("RoCE v2"),
		card + "infiniband/mlx5_0/ports/1/gid_attrs/ndevs/0": file("ens1"),
		"class/infiniband_verbs/uverbs0/ibdev":               file("mlx5_0"),
		"class/misc/rdma_cm/dev":                             file("10:122"),
	}
}

func ExampleDiscoverAt() {
	bus, err := rdma.ParseBusAddr("0000:3B:00.0")
	if err != nil {
		fmt.Println(err)
		return
	}
	devices, err := rdma.DiscoverAt(machine(), bus)
	switch {
	case err != nil:
		fmt.Println(err)
		return
	case len(devices) != 1:
		fmt.Printf("%s has %d RDMA devices\n", bus, len(devices))
		return
	}
	d := devices[0]
	fmt.Println(d.Name, d.NodeGUID, d.CharDevs.Verbs, d.CharDevs.CM)
	for _, p := range d.Ports {
		fmt.Println(p.Number, p.LinkLayer, p.State, p.NetDevs)
	}
	// Output:
	// mlx5_0 b83f:d203:00aa:bb00 /dev/infiniband/uverbs0 /dev/infiniband/rdma_cm
	// 1 Ethernet ACTIVE [ens1]
}

func ExampleFindGID() {
	g, err := rdma.FindGID(machine(), "mlx5_0", 1, netip.MustParseAddr("10.0.0.1"))
	fmt.Println(g.Index, g.Type, err)
	_, err = rdma.FindGID(machine(), "mlx5_0", 1, netip.MustParseAddr("10.0.0.2"))
	fmt.Println(errors.Is(err, rdma.ErrNotFound))
	// Output:
	// 0 RoCE v2 <nil>
	// true
}

func ExampleOfNetDev() {
	sys := machine()
	devices, err := rdma.Discover(sys)
	if err != nil {
		fmt.Println(err)
		return
	}
	under, err := rdma.OfNetDev(sys, devices, "ens1")
	for _, d := range under {
		fmt.Println(d.Name, d.Bus)
	}
	fmt.Println(err)
	// Output:
	// mlx5_0 0000:3b:00.0
	// <nil>
}
