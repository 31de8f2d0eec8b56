// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package multus

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/client"
	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni"
	"github.com/railyard-net/railyard/test/cluster"
)

// TestDel: a DEL is served from what Multus wrote down at ADD, whatever became of pod and network since, and without that from the API.
func TestDel(t *testing.T) {
	addLink(t, "nica", 1600, "0000:3b:00.1")
	begun := begin(t)
	forget := func(p *pod) {
		must(p.t, lab.node.Do(func() error { return os.RemoveAll(cluster.MultusCacheDir) }))
	}
	for name, change := range map[string]func(t *testing.T, p *pod){
		"as it was added": func(*testing.T, *pod) {},
		"the network is deleted": func(t *testing.T, _ *pod) {
			undefine(t, "default", "net-a")
			undefine(t, "default", "device")
		},
		"the network is another by now": func(t *testing.T, _ *pod) {
			define(t, "default", "net-a", false, network("net-a", map[string]any{"kind": "host-device", "device": "no-such", "ipam": nil}))
			define(t, "default", "device", true, network("device", map[string]any{"master": "no-such", "ipam": map[string]any{"type": "no-such"}}))
		},
		"the pod is gone from the API": func(t *testing.T, p *pod) { must(t, p.forget()) },
		"the API server is away": func(t *testing.T, _ *pod) {
			lab.api.StopServer()
			t.Cleanup(func() { must(t, lab.api.RestartServer(context.WithoutCancel(t.Context()))) })
		},
		"Multus has lost its cache": func(_ *testing.T, p *pod) { forget(p) },
	} {
		t.Run(name, func(t *testing.T) {
			define(t, "default", "net-a", false, network("net-a", nil))
			define(t, "default", "device", true, network("device", map[string]any{"kind": "host-device", "master": nil}))
			p := newPod(t, "net-a,device", "0000:3b:00.1")
			p.add()
			change(t, p)
			p.del()
			begun()
		})
	}
	// Multus gives up without a word then, and the kubelet takes the namespace away: the agent's reconciler does the rest.
	t.Run("Multus has lost its cache, and the pod is gone", func(t *testing.T) {
		define(t, "default", "net-a", false, network("net-a", nil))
		p := newPod(t, "net-a")
		p.add()
		forget(p)
		must(t, p.forget())
		p.del()
		if len(p.rails()) != 1 {
			t.Fatal("Multus did call DEL: this test is of no use any more")
		}
		must(t, lab.node.RemovePodNetNS(p.name))
		reconcile(t)
		begun()
	})
}

// reconcile is what the node's agent does.
func reconcile(t *testing.T) {
	t.Helper()
	must(t, lab.node.Do(func() error {
		r, err := cni.NewReconciler(cni.Options{
			Log: slog.New(slog.DiscardHandler), Sys: os.DirFS(lab.sys), StateDir: stateDir,
			Leaser: func(p conf.Paths) ipam.Leaser { return client.New(p.AgentSocket, p.Store()) },
		}, stateDir, cni.Evidence{Gone: ipam.NetNS.Gone, Grace: time.Minute})
		if err != nil {
			return err
		}
		for _, now := range []time.Duration{0, time.Hour} {
			if _, err := r.Look(t.Context(), now); err != nil {
				return err
			}
		}
		return nil
	}))
}

// TestToken: the token that Multus reads the API with is no good any more. ADD says so and has changed nothing; DEL needs none.
func TestToken(t *testing.T) {
	done := begin(t)
	define(t, "default", "net-a", false, network("net-a", nil))
	attached := newPod(t, "net-a")
	attached.add()
	good, err := os.ReadFile(lab.multus.Kubeconfig)
	must(t, err)
	t.Cleanup(func() { must(t, os.WriteFile(lab.multus.Kubeconfig, good, 0o600)) })
	must(t, os.WriteFile(lab.multus.Kubeconfig, revoked(t), 0o600))

	attached.del()
	p := newPod(t, "net-a")
	p.failAdd("Unauthorized")
	p.del()
	done()
}

// revoked is a kubeconfig with a token that was good once: its service account is gone.
func revoked(t *testing.T) []byte {
	t.Helper()
	path, err := lab.api.ServiceAccountKubeconfig(t.Context(), "kube-system", "multus-of-before", lab.node.APIURL())
	must(t, err)
	must(t, lab.api.Client().CoreV1().ServiceAccounts("kube-system").Delete(t.Context(), "multus-of-before", metav1.DeleteOptions{}))
	data, err := os.ReadFile(path)
	must(t, err)
	return data
}
