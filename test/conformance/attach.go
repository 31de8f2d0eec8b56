// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import "slices"

func protocol() Section {
	a := func(names ...string) []string { return rows("TestConformance_A", names...) }
	versions := in("test/netns", "TestConformance_A_Versions")
	return Section{"A", "Protocol", []Case{
		{"A01", "VERSION lists the versions of the specification that are spoken: 0.3.0 to 1.1.0", in("test/netns", "TestConformance_A_VERSION")},
		{"A02", "each of them gets a result in its own shape, which CHECK and DEL take back", versions},
		{"A03", "a version that is not spoken, or none: code 1", a("version_9.9.9", "version_0.2.0", "version_missing", "version_number")},
		{"A04", "stdin that is no JSON object: code 6", a("bad_json", "json_list", "json_null", "no_stdin")},
		{"A05", "a config without name or type, or with a name that is none: code 7", a("name_missing", "type_missing", "name_with_slash", "name_too_long")},
		{"A06", "a variable that the verb needs is missing: code 4", a("verb_missing", "container_missing", "ifname_missing", "netns_missing", "del_without_container", "check_without_netns")},
		{"A07", "an interface name that the kernel would not take (16 bytes, a slash and more): code 4", a("ifname_of_16", "ifname_with_slash", "ifname_not_utf8", "ifname_is_a_template", "ifname_of_all", "ifname_of_the_default")},
		{"A08", "a container ID that is none: code 4", a("container_with_slash", "container_too_long")},
		{"A09", "an unknown verb, or CNI_ARGS that are no pairs: code 4", a("verb_unknown", "args_malformed")},
		{"A10", "a call without CNI_PATH is fine", versions},
		{"A11", "CNI_NETNS that is no network namespace, or the host's own: code 8", a("netns_no_such_path", "netns_regular_file", "netns_of_another_kind", "netns_proc_file", "netns_is_the_host's")},
		{"A12", "every foreseeable error is an object on stdout with a code of its own, never 999", slices.Concat(in("test/netns", "TestConformance_A"), in("plugins/dispatch", "TestCodes"))},
		{"A13", "a fault in the program itself is an error object too", in("plugins/dispatch", "TestPanic")},
		{"A14", "logs go to stderr only, and a call that goes well logs nothing", versions},
		{"A15", "keys of the config that are unknown are tolerated", versions},
		{"A16", "a key with a wrong value: code 7, and the message names the key", a("kind_unknown", "mode_unknown", "mtu_negative", "mtu_is_text", "mac_malformed", "master_with_slash", "pool_missing", "ips_no_address", "sysctl_escapes", "statedir_relative", "prevresult_is_text")},
	}}
}

func add() Section {
	b := func(names ...string) []string { return rows("TestConformance_B", names...) }
	return Section{"B", "ADD", []Case{
		{"B01", "the result has the interface with name, MAC, namespace and MTU", b("result")},
		{"B02", "and the PCI address of the NIC below it", b("master_by_pci")},
		{"B03", "addresses of the result point to their interface; its routes have next hops", b("result")},
		{"B04", "the result of the plugins before is kept, in its order", b("chained")},
		{"B05", "an address of the pod's choice, by runtimeConfig, cni-args or CNI_ARGS", b("static")},
		{"B06", "a MAC of the pod's choice, by runtimeConfig, cni-args, the config or CNI_ARGS, the first of these that has one", b("mac")},
		{"B07", "the device that the kubelet gave the pod leads to the master", b("master_by_pci")},
		{"B08", "an InfiniBand GUID of the pod's choice: the decisions and what is read of it; refused for what is no InfiniBand function",
			slices.Concat(in("plugins/cni", "TestWithGUID", "TestMissingGUIDs", "TestParseGUIDs"), vm("TestPluginGUIDRefused"))},
		{"B09", "device information is written where runtimeConfig says", b("device_info")},
		{"B10", "the master by its name, an alternative name, a PCI address, or the default route", b("result", "master_by_altname", "master_by_pci", "master_by_default_route")},
		{"B11", "a master that is down is brought up", b("master_down")},
		{"B12", "a master that is no Ethernet link is refused", b("master_no_ethernet")},
		{"B13", "an MTU is kept, one above the master's is refused with code 7", b("mtu", "mtu_above_master")},
		{"B14", "the pod has an interface of that name: an error, and nothing has changed", b("interface_exists")},
		{"B15", "the host has a link of that name: no matter", b("host_has_the_name")},
		{"B16", "the same attachment a second time: an error, and no second lease", b("twice")},
		{"B17", "what a dead namespace left of the same attachment is replaced", b("other_namespace_by_now")},
		{"B18", "one network twice in one pod", b("same_network_twice")},
		{"B19", "IPv4, IPv6, or both", b("one_family", "result")},
		{"B20", "no address is tentative when ADD answers", b("addresses_are_not_tentative")},
		{"B21", "a peer sees a gratuitous ARP and an unsolicited neighbour advertisement", b("announced")},
		{"B22", "a peer answers", b("peer_answers")},
		{"B23", "no default route unless one was asked for; that of another interface stays", b("no_default_route", "default_route_of_another")},
		{"B24", "rp_filter, arp_ignore and other settings as configured, those of all interfaces included", b("sysctls", "sysctl_only_read")},
		{"B25", "every macvlan mode", b("modes")},
		{"B26", "a MAC that is in use on the master is refused", b("mac_in_use")},
		{"B27", "without address management: an interface that is up", b("layer_2_only")},
		{"B28", "addresses of another IPAM plugin, also of one that leaves a process behind", b("foreign_ipam", "ipam_leaves_a_process")},
		{"B29", "addresses from the agent's socket, or from the store where no agent listens", b("socket", "result")},
		{"B30", "DNS settings are handed on", b("dns")},
		{"B31", "a pod without IPv6", b("ipv6_disabled_in_the_pod")},
		{"B32", "a device of the host, found by name, alternative name, MAC or PCI address, moves into the pod and back as it was", rows("TestHostDevice", "moved_and_back", "by_altname", "by_hwaddr", "by_pci")},
		{"B33", "several rails in one call and one result", rows("TestRails", "one_result", "named", "other_ipam")},
		{"B34", "ipvlan in each of its modes, and a rail on a VLAN", vm("TestPluginIPvlan", "TestPluginMacvlanOnVLAN")},
		{"B35", "a virtual function with VLAN, priority and protocol, rates, trust, spoof check, link state and MAC, as it was again after DEL", vm("TestPluginSRIOV", "TestPluginSRIOVMAC", "TestPluginInfiniBandVirtual", "TestPluginVF")},
		{"B36", "two rails on one subnet or on two: what leaves from an address and what comes back to it keep to its rail", in("test/netns", "TestRails_Paths")},
		{"B37", "the pod's programs can read RDMA device, addresses, PCI address and NUMA node in a file, for as long as the attachment lasts", slices.Concat(in("test/netns", "TestPodFile", "TestPodFile_Killed"), vm("TestPluginPodFile"))},
		{"B38", "a rail is chosen by label, or the first NIC that is fit is taken", in("test/netns", "TestChoice")},
		{"B39", "an interface of an InfiniBand partition, datagram or connected; refused where the port's RDMA device is one pod's", vm("TestPluginIPoIB", "TestPluginIPoIBModes", "TestPluginIPoIBExclusive")},
		{"B40", "the RDMA device of a virtual function is found by the PCI address, and named in the device information", vm("TestPluginRoCE")},
		{"B41", "a device on another bus than PCI's, and one of several interfaces on one piece of hardware", vm("TestPluginNetdevsim", "TestPluginNetdevsimPorts")},
		{"B42", "what only a virtual function has is asked for what is none: code 104", vm("TestPluginNetdevsimRefused", "TestPluginSRIOV")},
	}}
}

func rollback() Section {
	c := func(names ...string) []string { return rows("TestConformance_C", names...) }
	return Section{"C", "Rollback: after a failure all is as it was before", []Case{
		{"C01", "the IPAM plugin is missing", c("ipam_missing")},
		{"C02", "the IPAM plugin fails, dies, or answers with nothing or nonsense", c("ipam_error", "ipam_dies", "ipam_gives_nothing", "ipam_gives_garbage")},
		{"C03", "a route's next hop cannot be reached", c("gateway_unreachable")},
		{"C04", "the RDMA device cannot be moved", vm("TestPluginRDMAUnmovable")},
		{"C05", "the device information cannot be written", c("device_info_unwritable")},
		{"C06", "no address is left, the pool is unknown, the store is lost", c("pool_full", "pool_unknown", "store_lost")},
		{"C07", "the kernel refuses a setting", c("sysctl_value_refused")},
		{"C08", "killed at any point of ADD or DEL: the next call restores links, lease and settings", in("test/netns", "TestConformance_C_Killed")},
		{"C09", "killed at any point while a device of the host is moved: name, MTU, MAC, alternative names and admin state come back", in("test/netns", "TestHostDevice_Killed")},
		{"C10", "killed while another IPAM plugin runs", in("test/netns", "TestConformance_C_KilledWithIPAM")},
		{"C11", "killed at any point while several rails are made", in("test/netns", "TestRails_Killed")},
		{"C12", "killed at any point while an RDMA device is moved: it comes back to its namespace", vm("TestPluginRDMAKilled", "TestPluginRoCEKilled", "TestPluginInfiniBandKilled")},
		{"C13", "a journal of another version is understood, or refused and kept", in("test/netns", "TestConformance_C_OldJournal")},
		{"C14", "killed at any point while a virtual function is set up and moved", vm("TestPluginSRIOVKilled", "TestPluginVFKilled")},
		{"C15", "killed at any point while a type of service is set", vm("TestPluginToSKilled")},
		{"C16", "killed at any point while an InfiniBand partition's interface is made", vm("TestPluginIPoIBKilled")},
	}}
}

func del() Section {
	d := func(names ...string) []string { return rows("TestConformance_D", names...) }
	return Section{"D", "DEL", []Case{
		{"D01", "twice, a hundred times", d("twice", "hundred_times")},
		{"D02", "without prevResult and what else a runtime strips", d("stripped")},
		{"D03", "CNI_NETNS is empty", d("netns_empty")},
		{"D04", "the path of CNI_NETNS is missing, its namespace is dead or another one", d("netns_missing", "netns_dead", "netns_another")},
		{"D05", "the path is a regular file or a pipe, and no file is ever made there", d("netns_is_file", "netns_is_pipe")},
		{"D06", "the device is back on the host already", vm("TestPluginHostDevice")},
		{"D07", "the device is gone from the bus", vm("TestPluginUnplugged", "TestPluginSubfunctionGone", "TestPluginNetdevsimGone")},
		{"D08", "the config has no deviceID any more, nor its kind", rows("TestHostDevice", "conf_lost_its_kind")},
		{"D09", "the agent is away or hangs: the local part is undone, the lease is left to the agent", d("agent_down", "agent_hangs")},
		{"D10", "the lease ends by the agent's socket", d("by_the_socket")},
		{"D11", "another IPAM plugin fails: so does DEL, after the rest is undone", d("other_ipam")},
		{"D12", "the pod renamed the interface", d("link_renamed")},
		{"D13", "the interface is gone, or another has its name", d("link_gone", "link_replaced")},
		{"D14", "the host has a link with the name that the device had", rows("TestHostDevice", "name_taken_on_host")},
		{"D15", "the master is gone", d("master_gone")},
		{"D16", "the config changed since ADD, or is wrong by now", d("config_changed", "config_wrong")},
		{"D17", "the journal is lost", d("no_journal")},
		{"D18", "an attachment that never was: success", d("unknown")},
		{"D19", "DEL never comes: the agent undoes what was there, once the namespace is gone for good", in("test/netns", "TestReconciler", "TestReconciler_Doubt", "TestReconciler_Device")},
		{"D20", "DEL never comes and the namespace stays: the agent undoes what was there, once no process is in it and the kubelet knows nothing of it",
			slices.Concat(in("test/netns", "TestReconciler_Abandoned", "TestReconciler_AbandonedDoubt", "TestReconciler_AbandonedDevice", "TestReconciler_AbandonedUnknownPod",
				"TestReconciler_AbandonedNobodyToAsk", "TestReconciler_AbandonedProcess", "TestReconciler_AbandonedRaces", "TestReconciler_AbandonedLease"), in("plugins/kubelet", "TestHidden"))},
		{"D21", "two attachments of a pod have set one lasting setting: the last DEL restores it", in("test/netns", "TestSharedSysctl", "TestSharedSysctl_Killed")},
		{"D22", "a device gets its addresses with all their attributes and its own settings back", in("test/netns", "TestHostLink")},
		{"D23", "the physical function is away: what it had set for a virtual one is restored later", vm("TestPluginSRIOVAway")},
		{"D24", "the device was made anew, failed to be, or went into another namespace, by devlink", vm("TestPluginNetdevsimReload", "TestPluginNetdevsimNamespace")},
	}}
}
