// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package multus tests the railyard plugin where it runs in a cluster: executed by the real Multus, for pods and networks of a real
// kube-apiserver, with the devices that a kubelet's PodResources socket says the pod was given. It is section I of the conformance
// list.
//
// The kubelet is test/podresources, on a tmpfs over /var/lib that only the node's mount namespace has. There is no agent: the plugin
// leases from the node's store, as it does when the agent is being upgraded. Devices are links that a folder in place of /sys gives
// PCI addresses, as no machine can be asked to have three network functions to spare.
package multus
