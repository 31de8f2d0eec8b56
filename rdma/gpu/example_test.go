// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package gpu_test

import (
	"fmt"

	"github.com/railyard-net/railyard/rdma/gpu"
	"github.com/railyard-net/railyard/rdma/topology"
)

// The GPUs of a node, ready to be paired with its NICs.
func ExampleList() {
	inventory, err := gpu.List("/var/empty") // "/" on a node
	if err != nil {
		fmt.Println("not all GPUs can be used:", err)
	}
	var gpus []topology.GPU
	for i, g := range inventory.GPUs {
		if !g.MIG {
			gpus = append(gpus, topology.GPU{Addr: g.Addr, Name: g.UUID, Rail: i, C2C: g.C2C})
		}
	}
	fmt.Println(inventory.State, len(gpus))
	// Output: no library 0
}
