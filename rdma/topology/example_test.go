// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package topology_test

import (
	"fmt"
	"os"
	"path"
	"strings"
	"testing/fstest"

	"github.com/railyard-net/railyard/rdma/topology"
)

// machine is a sysfs with two switches, each with a GPU and a NIC; os.DirFS("/sys") is the real one.
func machine() fstest.MapFS {
	sys := fstest.MapFS{}
	function := func(place, class, numa string) {
		sys["bus/pci/devices/"+path.Base(place)] = &fstest.MapFile{Data: []byte("../../../devices/" + place), Mode: os.ModeSymlink}
		for name, text := range map[string]string{"class": class, "numa_node": numa, "local_cpulist": numa} {
			sys["devices/"+place+"/"+name] = &fstest.MapFile{Data: []byte(text + "\n")}
		}
	}
	for numa, bus := range []string{"3", "b"} {
		at := "pci0000:" + bus + "0"
		for _, bridge := range []string{"0:00.0", "1:00.0", "2:00.0"} { // root port, and the switch
			at += "/0000:" + bus + bridge
			function(at, "0x060400", fmt.Sprint(numa))
		}
		other := strings.TrimSuffix(at, "00.0") + "01.0"
		function(other, "0x060400", fmt.Sprint(numa))
		function(at+"/0000:"+bus+"3:00.0", "0x030200", fmt.Sprint(numa))
		function(other+"/0000:"+bus+"4:00.0", "0x020000", fmt.Sprint(numa))
	}
	return sys
}

func Example() {
	tree, err := topology.Read(machine())
	if err != nil {
		fmt.Println("not all could be read:", err)
	}
	// Their drivers know best which functions are GPUs and NICs, and how fast a port is; here all are alike.
	var gpus []topology.GPU
	var nics []topology.NIC
	for _, f := range tree.Functions() {
		switch {
		case f.IsGPU():
			gpus = append(gpus, topology.GPU{Addr: f.Addr, Rail: len(gpus)})
		case f.IsNIC():
			nics = append(nics, topology.NIC{Addr: f.Addr, Rail: len(nics), Speed: 400000})
		}
	}
	pairs, err := tree.Pair(gpus, nics, topology.Limits{Worst: topology.PXB})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range pairs {
		fmt.Println(p.GPU.Addr, p.NIC.Addr, p.Path.Class)
	}
	if err := tree.WriteMatrix(os.Stdout, gpus, nics); err != nil {
		fmt.Println(err)
	}
	// Output:
	// 0000:33:00.0 0000:34:00.0 PIX
	// 0000:b3:00.0 0000:b4:00.0 PIX
	//       GPU0  GPU1  NIC0  NIC1  CPU Affinity  NUMA Affinity
	// GPU0  X     SYS   PIX   SYS   0             0
	// GPU1  SYS   X     SYS   PIX   1             1
	// NIC0  PIX   SYS   X     SYS   0             0
	// NIC1  SYS   PIX   SYS   X     1             1
	//
	// GPU0  0000:33:00.0
	// GPU1  0000:b3:00.0
	// NIC0  0000:34:00.0
	// NIC1  0000:b4:00.0
}
