// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package cluster runs the real parts that tests and the demo need, on one machine and without touching it: a kube-apiserver on
// an etcd ([StartAPI]), and nodes with network and mount namespaces of their own ([Fabric], [Node]). For a cluster with kubelets there
// are whole machines ([Machine]) on a [LAN] with a [ControlPlane]; the command test/e2e/cluster brings these together.
//
// In a test, [NewAPI] and [NewNodes] do everything, and undo it when the test ends:
//
//	api := cluster.NewAPI(t, "manifests/crd")
//	nodes := cluster.NewNodes(t, api, "a", "b", "c")
//	cfg, err := api.NodeConfig(t.Context(), "a") // what the agent of node a may use
//
// # What is left behind
//
// Nothing, also after SIGKILL. Every process started here has its parent's death signal, namespaces are held by file descriptors
// of this process alone, and what is big or stateful lies on tmpfs mounts inside of those namespaces. What may survive a SIGKILL is
// one temporary folder with logs and certificates, and the empty cgroups of machines. The folder is locked while in use; the next
// start removes the ones that nobody holds, and the cgroups that they name.
//
// The programs come from the tools folder ([FindTools]); a missing one is an error that says to run "make tools", never a skip.
package cluster
