// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/railyard-net/railyard/test/cluster"
	"github.com/railyard-net/railyard/test/cluster/keep"
)

// upstreamNetwork needs nothing of ours, so that this test says whether the demo's own parts work.
const upstreamNetwork = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: rail, namespace: default}
spec:
  config: '{"cniVersion": "1.0.0", "type": "macvlan", "master": "rail0", "capabilities": {"ips": true}, "ipam": {"type": "static"}}'
`

func TestKubelet(t *testing.T) {
	ctx := t.Context()
	d := newTestDemo(t, nil)
	// Two on nodes of their own, and one that is bound to a node in turn.
	for i, node := range []string{"node-1", "node-2", ""} {
		ips := fmt.Sprintf(`[{"name":"rail","ips":["192.0.2.%d/24","2001:db8::%d/64"]}]`, i+1, i+1)
		if err := d.createPod(ctx, fmt.Sprintf("p%d", i+1), node, ips); err != nil {
			t.Fatal(err)
		}
	}
	var rails []podRail
	if err := d.await(ctx, "pods", func(ctx context.Context) (err error) { rails, err = d.rails(ctx, 3); return err }); err != nil {
		t.Fatal(err)
	}
	for _, r := range rails {
		if err := r.checkLink(); err != nil {
			t.Error(err)
		}
	}
	// Unlike ours, the upstream plugin answers before duplicate address detection is done.
	var pings int
	if err := d.await(ctx, "pings", func(ctx context.Context) (err error) { pings, err = pingAll(ctx, rails); return err }); err != nil {
		t.Fatal(err)
	}
	if pings != 12 {
		t.Errorf("%d pings, want 12", pings)
	}
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	nobody := []netip.Addr{netip.MustParseAddr("192.0.2.99")}
	if err := ping(short, rails[0].sandbox.host.Node, rails[0].sandbox.netns, railLink, rails[0].addrs[0], nobody); err == nil {
		t.Error("a ping to nobody was answered")
	}

	if err := d.deletePods(ctx); err != nil {
		t.Fatal(err)
	}
	for _, h := range d.hosts {
		if err := checkLeftOnNode(h); err != nil {
			t.Error(err)
		}
	}
}

// TestKubelet_Tells: who waits for a pod hears why it does not come, by the words of whatever refused it.
func TestKubelet_Tells(t *testing.T) {
	told := make(chan string, 100)
	d := newTestDemo(t, func(pod string, err error) { told <- pod + ": " + err.Error() })
	if err := d.createPod(t.Context(), "p1", "node-1", `[{"name":"rail","ips":["192.0.2.1/24"],"mac":"no mac"}]`); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-told:
		if !strings.Contains(got, "default/p1: ") || !strings.Contains(got, "no mac") {
			t.Errorf("told %q, want the pod and the reason", got)
		}
	case <-time.After(time.Minute):
		t.Error("nobody was told")
	}
}

// newTestDemo is a demo as far as the pods' network goes: an API, nodes and the kubelet.
func newTestDemo(t *testing.T, tell func(pod string, err error)) *demo {
	t.Helper()
	ctx := t.Context()
	api := cluster.NewAPI(t)
	if err := errors.Join(api.InstallMultus(ctx), api.ApplyYAML(ctx, upstreamNetwork)); err != nil {
		t.Fatal(err)
	}
	d := &demo{out: keep.NewProgress(io.Discard), api: api, network: network{namespace: "default", name: "rail", families: 2}}
	for i, n := range cluster.NewNodes(t, api, "node-1", "node-2") {
		h, err := newHost(ctx, n, i+1)
		if err != nil {
			t.Fatal(err)
		}
		h.multus.Path = filepath.Join(string(api.Tools()), "cni")
		d.hosts = append(d.hosts, h)
	}
	d.kubelet = newKubelet(api.Client(), d.hosts)
	d.kubelet.tell = tell
	runCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error)
	go func() { done <- d.kubelet.run(runCtx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return d
}
