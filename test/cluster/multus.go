// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Where Multus and its default network keep what they must remember, inside of a node: all of it is on the node's own /run.
const (
	MultusCacheDir = "/run/cni/multus"
	HostLocalDir   = "/run/cni/host-local"
)

// MultusCRD is what a cluster has from its Multus installation, beside access rights.
const MultusCRD = "manifests/install/multus-crd"

// InstallMultus applies what Multus brings: its CRD and its RBAC.
func (a *API) InstallMultus(ctx context.Context) error {
	return a.Apply(ctx, MultusCRD, "manifests/install/multus/rbac.yaml")
}

// Multus is the real Multus of a node, which is called as a container runtime calls it: it has a configuration, a kubeconfig of its
// own, and a default network of upstream plugins.
type Multus struct {
	// Path is CNI_PATH.
	Path string
	// Kubeconfig is the file with its access, a token; it may be written anew at any time.
	Kubeconfig string

	node    *Node
	program string
	config  []byte // as in /etc/cni/net.d
}

// PodSandbox is what a container runtime knows of a pod.
type PodSandbox struct {
	Namespace, Name, UID string
	Container            string // its ID
	NetNS                string // path of its network namespace
}

// NewMultus makes the Multus of a node. Its plugins come from binDir, a folder inside of the node, and then from the tools; the
// default network gives addresses of subnet.
func NewMultus(ctx context.Context, n *Node, binDir string, subnet netip.Prefix) (*Multus, error) {
	program, err := n.api.Tools().Path("multus")
	if err != nil {
		return nil, err
	}
	ptp, err := n.api.Tools().Path("cni/ptp")
	if err != nil {
		return nil, err
	}
	m := &Multus{Path: binDir + ":" + filepath.Dir(ptp), node: n, program: program}
	if m.Kubeconfig, err = n.api.ServiceAccountKubeconfig(ctx, "kube-system", "multus", n.APIURL()); err != nil {
		return nil, err
	}
	// One plugin and no list: Multus 4.2 strips the plugins of a default network's list before DEL.
	network := filepath.Join(n.Dir(), "10-default.conf")
	data, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "default", "type": "ptp", "ipMasq": false,
		"ipam": map[string]any{
			"type": "host-local", "dataDir": HostLocalDir,
			"ranges": [][]any{{map[string]any{"subnet": subnet.String()}}},
			"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
		},
	})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(network, data, 0o600); err != nil {
		return nil, err
	}
	m.config, err = json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "multus", "type": "multus",
		"kubeconfig": m.Kubeconfig, "clusterNetwork": network,
		"confDir": n.Dir(), "binDir": binDir, "cniDir": MultusCacheDir,
		"logToStderr": false, "logLevel": "verbose", "logFile": filepath.Join(n.Dir(), "multus.log"),
	})
	return m, err
}

// Call runs Multus for the pod's default link and all networks of its annotation. The variables of env are added to the few that it
// has, and reach the plugins. An error says what Multus answered.
func (m *Multus) Call(ctx context.Context, verb, link string, s PodSandbox, env ...string) ([]byte, error) {
	cmd := m.node.Command(ctx, m.program)
	cmd.Env = append([]string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		"CNI_COMMAND=" + verb,
		"CNI_CONTAINERID=" + s.Container,
		"CNI_NETNS=" + s.NetNS,
		"CNI_IFNAME=" + link,
		"CNI_PATH=" + m.Path,
		"CNI_ARGS=" + strings.Join([]string{
			"IgnoreUnknown=1", "K8S_POD_NAMESPACE=" + s.Namespace, "K8S_POD_NAME=" + s.Name,
			"K8S_POD_INFRA_CONTAINER_ID=" + s.Container, "K8S_POD_UID=" + s.UID,
		}, ";"),
	}, env...)
	cmd.Stdin = bytes.NewReader(m.config)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("multus %s for pod %s/%s on node %s: %w: %s%s", verb, s.Namespace, s.Name, m.node.Name(), err,
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
