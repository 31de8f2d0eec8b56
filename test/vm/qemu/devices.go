// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import "strings"

// devices is a server in small: two NUMA nodes with a processor each, and on each node a PCIe switch under which a NIC that can do
// SR-IOV sits beside a GPU, for which an NVMe controller stands in. Node 0 has a second GPU under a root port of its own. Devices on
// the machine's first bus would be of no node, so each node has a host bridge (pxb-pcie).
//
//	node 0: pxb0 ─┬─ rp0 ── switch ─┬─ igb 52:54:00:00:00:01
//	              │                 └─ nvme gpu0
//	              └─ rp2 ── nvme gpu1
//	node 1: pxb1 ─── rp1 ── switch ─┬─ igb 52:54:00:00:00:02
//	                                └─ nvme gpu2
//
// Both NICs are plugged into one hub.
func devices() []string {
	const text = `
-object memory-backend-ram,id=m0,size=512M -object memory-backend-ram,id=m1,size=512M
-numa node,nodeid=0,cpus=0,memdev=m0 -numa node,nodeid=1,cpus=1,memdev=m1
-device pxb-pcie,id=pxb0,bus=pcie.0,bus_nr=64,numa_node=0
-device pxb-pcie,id=pxb1,bus=pcie.0,bus_nr=128,numa_node=1
-device pcie-root-port,id=rp0,bus=pxb0,chassis=1,slot=1
-device x3130-upstream,id=up0,bus=rp0
-device xio3130-downstream,id=dn0,bus=up0,chassis=2,slot=1
-device xio3130-downstream,id=dn1,bus=up0,chassis=2,slot=2
-netdev hubport,id=n0,hubid=0
-device igb,bus=dn0,netdev=n0,mac=52:54:00:00:00:01,romfile=
-device nvme,serial=gpu0,bus=dn1
-device pcie-root-port,id=rp2,bus=pxb0,chassis=3,slot=3
-device nvme,serial=gpu1,bus=rp2
-device pcie-root-port,id=rp1,bus=pxb1,chassis=4,slot=1
-device x3130-upstream,id=up1,bus=rp1
-device xio3130-downstream,id=dn2,bus=up1,chassis=5,slot=1
-device xio3130-downstream,id=dn3,bus=up1,chassis=5,slot=2
-netdev hubport,id=n1,hubid=0
-device igb,bus=dn2,netdev=n1,mac=52:54:00:00:00:02,romfile=
-device nvme,serial=gpu2,bus=dn3
-device intel-iommu`
	return strings.Fields(text)
}
