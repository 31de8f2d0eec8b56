// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/test/cluster"
)

const (
	network = "rail0"
	ifName  = "net1"
	// storePath and journals are on each node.
	storePath = "/run/railyard/ipam.db"
	journals  = "/run/railyard/attachments"
)

// lab is a cluster with our programs on it: a controller, and an agent on each node.
type lab struct {
	t          testing.TB
	bin        string
	api        *cluster.API
	controller *cluster.Process
	nodes      []*node
}

type node struct {
	*cluster.Node
	lab        *lab
	kubeconfig string

	mu    sync.Mutex // of agent, which a test may kill and start again
	agent *cluster.Process
}

// newLab starts it with a pool of that subnet. Before an agent starts its node is prepared, if that is not nil.
func newLab(t testing.TB, subnet string, blockSize int, prepare func(*node), names ...string) *lab {
	t.Helper()
	root, err := cluster.ModuleRoot()
	must(t, err)
	l := &lab{t: t, bin: filepath.Join(root, "bin")}
	if bin := os.Getenv("RAILYARD_BIN"); bin != "" {
		l.bin = bin
	}
	if _, err := os.Stat(filepath.Join(l.bin, "railyard-agent")); err != nil {
		t.Fatalf("%v: run \"make build\"", err)
	}
	l.api = cluster.NewAPI(t, "manifests/crd", "manifests/install/namespace.yaml", "manifests/rbac")
	must(t, l.api.ApplyYAML(t.Context(), fmt.Sprintf(
		"{apiVersion: ipam.railyard.dev/v1alpha1, kind: IPPool, metadata: {name: %s}, spec: {cooldownSeconds: 0, ipv4: {subnet: %q, blockSize: %d}}}", network, subnet, blockSize)))
	kubeconfig, err := l.api.ServiceAccountKubeconfig(t.Context(), cluster.AgentNamespace, cluster.ControllerServiceAccount, "")
	must(t, err)
	cmd := exec.Command(filepath.Join(l.bin, "railyard-controller"), "--kubeconfig="+kubeconfig, "--metrics-address=127.0.0.1:0")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	l.controller, err = cluster.StartProcess(cmd, filepath.Join(l.api.Dir(), "controller.log"))
	must(t, err)
	t.Cleanup(l.controller.Kill)
	for _, n := range cluster.NewNodes(t, l.api, names...) {
		kubeconfig, err := n.Kubeconfig(t.Context())
		must(t, err)
		one := &node{Node: n, lab: l, kubeconfig: kubeconfig}
		l.nodes = append(l.nodes, one)
		if prepare != nil {
			prepare(one)
		}
		one.start()
		t.Cleanup(func() {
			one.kill()
			if log, err := os.ReadFile(one.agent.Log()); t.Failed() && err == nil {
				t.Logf("the end of the log of %s's agent:\n%s", one.Name(), log[max(0, len(log)-4000):])
			}
		})
	}
	return l
}

// start starts the node's agent.
func (n *node) start() {
	n.lab.t.Helper()
	p, err := n.Start([]string{"PATH=" + os.Getenv("PATH")}, filepath.Join(n.lab.bin, "railyard-agent"),
		"--node-name="+n.Name(), "--kubeconfig="+n.kubeconfig, "--install-dir=",
		"--gc-interval=1s", "--gc-grace=2s", "--release-after=1s", "--mirror-interval=300ms", "--log-format=text")
	must(n.lab.t, err)
	n.mu.Lock()
	n.agent = p
	n.mu.Unlock()
}

// kill kills the node's agent and waits for its end.
func (n *node) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.agent.Kill()
	<-n.agent.Done()
}

func TestMain(m *testing.M) {
	ctrllog.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

// answer is what the plugin said.
type answer struct {
	killed bool
	code   uint
	msg    string
	ip     string
}

// call executes the plugin on the node; when ctx ends it is killed.
func (n *node) call(ctx context.Context, verb, id, netns string, conf map[string]any) (answer, error) {
	all := map[string]any{
		"cniVersion": "1.1.0", "name": network, "type": "railyard", "master": cluster.RailLink,
		"ipam": map[string]any{"type": "railyard-ipam", "pool": network},
	}
	for k, v := range conf {
		all[k] = v
	}
	stdin, err := json.Marshal(all)
	if err != nil {
		return answer{}, err
	}
	cmd := n.Command(ctx, filepath.Join(n.lab.bin, "railyard"))
	cmd.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + id, "CNI_IFNAME=" + ifName, "CNI_NETNS=" + netns, "CNI_PATH=/nowhere", "PATH=" + os.Getenv("PATH"),
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return answer{killed: true}, nil //nolint:nilerr // it is what was wanted
	case errors.As(err, &exit):
		var said struct {
			Code         uint
			Msg, Details string
		}
		if json.Unmarshal(stdout.Bytes(), &said) != nil || said.Code == 0 {
			return answer{}, fmt.Errorf("%s %s: %w: no error object: %s%s", verb, id, err, &stdout, &stderr)
		}
		return answer{code: said.Code, msg: said.Msg + " " + said.Details}, nil
	case err != nil:
		return answer{}, err
	}
	var result struct{ IPs []struct{ Address string } }
	if verb == "ADD" {
		if err := json.Unmarshal(stdout.Bytes(), &result); err != nil || len(result.IPs) != 1 {
			return answer{}, fmt.Errorf("ADD %s: %w: %s", id, err, &stdout)
		}
		ip, _, _ := strings.Cut(result.IPs[0].Address, "/")
		return answer{ip: ip}, nil
	}
	return answer{}, nil
}

// leases are those of the node's store, which no agent must have open.
func (n *node) leases() ([]ipam.Lease, error) {
	var out []ipam.Lease
	err := n.Do(func() error {
		o, err := store.SystemOptions()
		if err != nil {
			return err
		}
		s, err := store.Open(context.Background(), storePath, o)
		if err != nil {
			return err
		}
		out, err = s.Leases()
		return errors.Join(err, s.Check(), s.Close())
	})
	return out, err
}

// attachments are the journals of the node.
func (n *node) attachments() (names []string, err error) {
	err = n.Do(func() error {
		entries, err := os.ReadDir(journals)
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), ".") {
				names = append(names, e.Name())
			}
		}
		return err
	})
	return names, err
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// deadline is for a loaded machine; a test that passes does not notice it.
const deadline = 2 * time.Minute
