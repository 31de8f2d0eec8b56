// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import "slices"

func check() Section {
	e := func(names ...string) []string { return rows("TestConformance_E", names...) }
	return Section{"E", "CHECK fails on what has changed", []Case{
		{"E01", "nothing has, or only something was added: success", e("untouched", "more_is_fine")},
		{"E02", "the interface is removed, renamed, replaced or down", e("link_removed", "link_renamed", "link_replaced", "down")},
		{"E03", "its MTU", e("mtu")},
		{"E04", "its MAC", e("mac")},
		{"E05", "its mode", e("mode")},
		{"E06", "an address", e("address", "address_v6")},
		{"E07", "a route", e("route")},
		{"E08", "a routing rule, or any part of one of several rails", rows("TestRails", "drift")},
		{"E09", "a setting", e("sysctl", "sysctl_all")},
		{"E10", "the RDMA device left the pod", vm("TestPluginRDMAExclusive", "TestPluginInfiniBandDrift")},
		{"E11", "another master is below it", e("other_master")},
		{"E12", "the lease is gone, or holds other addresses", e("lease_gone", "lease_other")},
		{"E13", "the namespace is another", e("namespace")},
		{"E14", "its ADD died midway", e("died_midway")},
		{"E15", "what a plugin after ours has changed, and says so, is no drift", in("test/netns", "TestConformance_E_Chained")},
		{"E16", "a device of the host that the pod changed", rows("TestHostDevice", "drift")},
		{"E17", "what the physical function was to set for a virtual one, also where it was so before", vm("TestPluginVFDrift", "TestPluginSRIOV")},
	}}
}

func statusAndGC() Section {
	status := func(names ...string) []string { return rows("TestConformance_F_STATUS", names...) }
	return Section{"F", "STATUS and GC", []Case{
		{"F01", "ready, also while the agent is away", status("ready", "ready_agent_down", "layer_2_only")},
		{"F02", "the master is absent: code 50", status("master_absent", "no_default_route")},
		{"F03", "the node's RDMA mode is not the network's: code 50", vm("TestPluginRDMAExclusiveMacvlan", "TestPluginRDMANone")},
		{"F04", "no address is left: code 51", status("pool_full")},
		{"F05", "the pool is unknown, the store is lost, the MTU is too large: code 50", status("pool_unknown", "store_lost", "mtu_above_master")},
		{"F06", "another IPAM plugin's answer is passed on, its absence is code 50", status("other_ipam", "other_ipam_error", "other_ipam_absent")},
		{"F07", "a wrong config: code 7", status("config_wrong")},
		{"F08", "STATUS and GC before version 1.1.0: code 1", rows("TestConformance_A", "status_before_1.1.0", "gc_before_1.1.0")},
		{"F09", "GC keeps what is listed, undoes the rest, leaves other networks alone, and may be repeated", in("test/netns", "TestConformance_F_GC")},
		{"F10", "GC without a list undoes nothing: code 7", rows("TestConformance_A", "gc_without_list", "gc_with_text")},
	}}
}

func rdma() Section {
	return Section{"G", "RDMA", []Case{
		{"G01", "the node's RDMA mode is shared", vm("TestPluginRDMAShared", "TestPluginRDMAChained", "TestPluginMacvlanGID")},
		{"G02", "the node's RDMA mode is exclusive: the device moves into the pod and back", vm("TestPluginRDMAExclusive")},
		{"G03", "the order of moves that Ethernet and InfiniBand need", vm("TestPluginInfiniBand", "TestPluginInfiniBandKilled", "TestPluginRoCE", "TestPluginRoCEKilled")},
		{"G04", "no RDMA device, one among others, or two of one function", vm("TestPluginRDMANone", "TestPluginRDMAExclusive", "TestPluginTwoDevices")},
		{"G05", "the device is busy, a queue pair is open: it moves all the same, whoever had it open loses it, and nothing is left of that", vm("TestPluginBusy")},
		{"G06", "an RDMA device without a network interface: code 104", vm("TestPluginWithoutInterface")},
		{"G07", "subfunctions and other devices of the auxiliary bus", vm("TestPluginSubfunction")},
		{"G08", "a reboot under a pod (the driver is bound anew, journals and namespaces are gone)", vm("TestPluginRebooted")},
		{"G09", "the driver is bound anew under a pod", vm("TestPluginDriverReloaded", "TestPluginDriverReload")},
		{"G10", "the RDMA device has another name at DEL than it had at ADD", vm("TestPluginRDMAExclusive")},
		{"G11", "the type of service of RoCE: set, checked, shared by pods, restored by the last of them", slices.Concat(in("plugins/cni", "TestInheritToS"), vm("TestPluginToSShared", "TestPluginToSExclusive", "TestPluginToSWithoutConfigFS"))},
		{"G12", "an iWARP device: used by the pod whose interface it is on, refused to those on its master, no GID is waited for", vm("TestPluginIWARPShared", "TestPluginIWARPChained", "TestPluginIWARPExclusive")},
		{"G13", "a software device ends when its interface moves: refused before", vm("TestPluginSoftwareDeviceMoves")},
	}}
}

func concurrency() Section {
	return Section{"H", "Many at once", []Case{
		{"H01", "64 ADD and DEL at once on one master", rows("TestConformance_H", "64_on_one_master_direct", "64_on_one_master_socket")},
		{"H02", "all virtual functions that the machine has at once (14; 64 need other hardware)", vm("TestPluginAllFunctionsAtOnce")},
		{"H03", "one attachment many times at once: one wins", rows("TestConformance_H", "one_attachment_one_winner")},
		{"H04", "two pods want one device: one wins", rows("TestHostDevice", "one_of_two_wins")},
		{"H05", "ADD and DEL of one attachment at once", rows("TestConformance_H", "add_and_del_of_one_attachment")},
		{"H06", "many processes on one node never get one address twice", in("ipam/store", "TestProcesses", "TestKilled")},
		{"H07", "nodes of one cluster never get one address twice, over failing and lying connections, deaths and outages",
			slices.Concat(in("ipam/claim", "TestRaceUntilFull", "TestClaimAgainstRelease", "TestLostAnswers"),
				in("ipam/agent", "TestNodesOnABadLine", "TestDeathAtEveryWrite", "TestOutage", "TestKilledAtAnyPoint"))},
	}}
}

func multus() Section {
	return Section{"I", "Behind Multus", []Case{
		{"I01", "a pod asks by a string", in("test/multus", "TestString")},
		{"I02", "a pod asks by JSON, with addresses, a MAC, an interface, a default route and cni-args of its choice", in("test/multus", "TestJSON")},
		{"I03", "each mention of a network gets one of the devices that the kubelet gave the pod, in the order in which Multus has them", in("test/multus", "TestDevices")},
		{"I04", "the pod's network-status has every interface with MTU and device information", in("test/multus", "TestNetworkStatus")},
		{"I05", "DEL with what Multus has cached, whatever became of pod, network, API server and cache", in("test/multus", "TestDel")},
		{"I06", "tuning and sbr behind railyard", in("test/multus", "TestChained", "TestChained_CHECK")},
		{"I07", "the plugins are replaced by the agent while pods come and go (the rest of a DaemonSet's upgrade: no test yet)", in("test/multus", "TestUpgrade")},
		{"I08", "the token that Multus has is no good any more: ADD says so, DEL needs none", in("test/multus", "TestToken")},
		{"I09", "the node boots anew: leases of its pods end", in("ipam/agent", "TestReboot")},
		{"I10", "the agent is down during DEL", rows("TestConformance_D", "agent_down")},
	}}
}

func peers() Section {
	return Section{"J", "Suites of the peers, with what test/peers/expected.txt says of them", []Case{
		{"J01", "the suite of the reference macvlan plugin", in("test/peers", "TestMacvlan")},
		{"J02", "the suite of the reference host-device plugin", in("test/peers", "TestHostDevice")},
	}}
}
