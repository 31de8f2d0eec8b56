// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/railyard-net/railyard/test/cluster"
)

// Where things are inside of a node. All of it is on the node's own /run.
const (
	cniBinDir    = "/run/cni/bin" // where the agent installs our plugins
	cniCacheDir  = "/run/cni/multus"
	hostLocalDir = "/run/cni/host-local"
	defaultLink  = "eth0"
)

// host is a node with what a container runtime on it knows.
type host struct {
	*cluster.Node
	multus  string // path of the program
	config  []byte // of Multus, as in /etc/cni/net.d
	cniPath string
	cidr    netip.Prefix // of the default network on this node

	agentKubeconfig string
}

// newHost prepares a node for Multus: its configuration, its own kubeconfig, and a default network of upstream plugins.
func newHost(ctx context.Context, n *cluster.Node, api *cluster.API, index int) (*host, error) {
	multus, err := api.Tools().Path("multus")
	if err != nil {
		return nil, err
	}
	agentKubeconfig, err := n.Kubeconfig(ctx)
	if err != nil {
		return nil, err
	}
	ptp, err := api.Tools().Path("cni/ptp")
	if err != nil {
		return nil, err
	}
	if err := n.Do(func() error { return os.MkdirAll(cniBinDir, 0o755) }); err != nil {
		return nil, err
	}
	kubeconfig, err := api.ServiceAccountKubeconfig(ctx, "kube-system", "multus", n.APIURL())
	if err != nil {
		return nil, err
	}
	h := &host{
		Node: n, multus: multus, agentKubeconfig: agentKubeconfig,
		cniPath: cniBinDir + ":" + filepath.Dir(ptp),
		cidr:    netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(index), 0}), 24),
	}
	// One plugin and no list: Multus 4.2 strips the plugins of a default network's list before DEL.
	network := filepath.Join(n.Dir(), "10-default.conf")
	if err := writeJSON(network, map[string]any{
		"cniVersion": "1.0.0", "name": "default", "type": "ptp", "ipMasq": false,
		"ipam": map[string]any{
			"type": "host-local", "dataDir": hostLocalDir,
			"ranges": [][]any{{map[string]any{"subnet": h.cidr.String()}}},
			"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
		},
	}); err != nil {
		return nil, err
	}
	h.config, err = json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "multus", "type": "multus",
		"kubeconfig": kubeconfig, "clusterNetwork": network,
		"confDir": n.Dir(), "binDir": cniBinDir, "cniDir": cniCacheDir,
		"logToStderr": false, "logLevel": "verbose", "logFile": filepath.Join(n.Dir(), "multus.log"),
	})
	return h, err
}

func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
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
	cmd := s.host.Command(ctx, s.host.multus)
	cmd.Env = []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		"CNI_COMMAND=" + verb,
		"CNI_CONTAINERID=" + s.container,
		"CNI_NETNS=" + s.path(),
		"CNI_IFNAME=" + defaultLink,
		"CNI_PATH=" + s.host.cniPath,
		"CNI_ARGS=" + strings.Join([]string{
			"IgnoreUnknown=1", "K8S_POD_NAMESPACE=" + s.namespace, "K8S_POD_NAME=" + s.name,
			"K8S_POD_INFRA_CONTAINER_ID=" + s.container, "K8S_POD_UID=" + string(s.uid),
		}, ";"),
	}
	cmd.Stdin = bytes.NewReader(s.host.config)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("multus %s for pod %s/%s on node %s: %w: %s%s", verb, s.namespace, s.name, s.host.Name(), err,
			cniMessage(stdout.Bytes()), stderr.String())
	}
	return stdout.Bytes(), nil
}

// cniMessage is what a CNI error says, or the bytes themselves if they are none.
func cniMessage(out []byte) string {
	var e struct {
		Code    int    `json:"code"`
		Msg     string `json:"msg"`
		Details string `json:"details"`
	}
	if err := json.Unmarshal(out, &e); err != nil || e.Code == 0 {
		return string(out)
	}
	return fmt.Sprintf("code %d: %s %s", e.Code, e.Msg, e.Details)
}
