// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/railyard-net/railyard/test/cluster"
)

// Where things are inside of a node: on its own /run.
const (
	cniBinDir   = "/run/cni/bin" // where the agent installs our plugins
	defaultLink = "eth0"
)

// host is a node with what a container runtime on it knows.
type host struct {
	*cluster.Node
	multus *cluster.Multus

	agentKubeconfig string
}

// newHost prepares a node for Multus and for the agent.
func newHost(ctx context.Context, n *cluster.Node, index int) (*host, error) {
	agentKubeconfig, err := n.Kubeconfig(ctx)
	if err != nil {
		return nil, err
	}
	if err := n.Do(func() error { return os.MkdirAll(cniBinDir, 0o755) }); err != nil {
		return nil, err
	}
	multus, err := cluster.NewMultus(ctx, n, cniBinDir, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(index), 0}), 24))
	return &host{Node: n, multus: multus, agentKubeconfig: agentKubeconfig}, err
}

// sandbox is a running pod's place: a network namespace that Multus has filled.
type sandbox struct {
	host      *host
	uid       types.UID
	namespace string
	name      string
	netns     string // name under /run/netns
	container string // the container ID that Multus and the plugins see
	podIP     string
	complete  bool // setUp was successful
}

func (s *sandbox) path() string { return cluster.PodNetNSPath(s.netns) }

// newSandbox names the parts of a pod's sandbox; nothing is made yet.
func newSandbox(h *host, pod *corev1.Pod) *sandbox {
	id := make([]byte, 32)
	_, _ = rand.Read(id) // never fails
	return &sandbox{
		host: h, uid: pod.UID, namespace: pod.Namespace, name: pod.Name,
		netns: pod.Namespace + "." + pod.Name, container: hex.EncodeToString(id),
	}
}

// setUp makes the pod's network namespace and has Multus fill it. After a failure tearDown must be called.
func (s *sandbox) setUp(ctx context.Context) error {
	if _, err := s.host.NewPodNetNS(s.netns); err != nil {
		return err
	}
	out, err := s.multus(ctx, "ADD")
	if err != nil {
		return err
	}
	var result struct {
		IPs []struct {
			Address netip.Prefix `json:"address"`
		} `json:"ips"`
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return fmt.Errorf("multus ADD answered %q: %w", out, err)
	}
	if len(result.IPs) == 0 {
		return fmt.Errorf("multus ADD answered without an address: %s", out)
	}
	s.podIP = result.IPs[0].Address.Addr().String()
	s.complete = true
	return nil
}

// tearDown has Multus empty the pod's network namespace, and removes it. It may be called again.
func (s *sandbox) tearDown(ctx context.Context) error {
	if _, err := s.multus(ctx, "DEL"); err != nil {
		return err
	}
	return s.host.RemovePodNetNS(s.netns)
}

// multus calls the Multus binary as a container runtime does.
func (s *sandbox) multus(ctx context.Context, verb string) ([]byte, error) {
	return s.host.multus.Call(ctx, verb, defaultLink, cluster.PodSandbox{
		Namespace: s.namespace, Name: s.name, UID: string(s.uid), Container: s.container, NetNS: s.path(),
	})
}
