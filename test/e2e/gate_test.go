//go:build e2e

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/netdef/gate"
	"github.com/railyard-net/railyard/test/cluster"
)

// TestGate: with --node-gate=boot, a node that boots is closed to new pods until its rails are ready, and a pod that comes meanwhile
// starts then, with its rail. A taint that a node was registered with goes in the same way.
func TestGate(t *testing.T) {
	l := newLab(t)
	controller := &appsv1.Deployment{}
	controller.Name, controller.Namespace = "railyard-controller", cluster.AgentNamespace
	setMode := func(args ...string) {
		l.kubectl(append([]string{"-n", controller.Namespace, "set", "env", "deployment/" + controller.Name}, args...)...)
		l.await("the controllers are replaced", func(ctx context.Context) error { return l.deployed(ctx, controller) })
	}
	setMode("RAILYARD_NODE_GATE=boot")
	t.Cleanup(func() { setMode("RAILYARD_NODE_GATE-") })

	node := l.withoutLeader(controller)
	l.await("the node's readiness is noted", func(ctx context.Context) error {
		n, err := l.node(ctx, node)
		if err == nil && n.Annotations[gate.Annotation] == "" {
			err = errors.New("it is not")
		}
		return err
	})
	closed := l.watchClosed(node)
	boot := l.bootID(node)
	if err := l.keeper.Machine(node, "reboot"); err != nil {
		t.Fatal(err)
	}
	closed(boot)
	l.pod("during", node)
	l.await("the node is open again", func(ctx context.Context) error { return l.open(ctx, node) })
	l.leasesAre(l.rails(l.ready("during", 1)))

	l.kubectl("taint", "nodes", node, gate.Taint+":NoExecute")
	l.await("the taint goes", func(ctx context.Context) error { return l.open(ctx, node) })
}

// withoutLeader is a node on which no controller leads: one that does ends with its node, and it takes the next one a while.
func (l *lab) withoutLeader(d *appsv1.Deployment) (node string) {
	l.Helper()
	l.await("a controller leads", func(ctx context.Context) error {
		var lease coordinationv1.Lease
		if err := l.client.Get(ctx, client.ObjectKeyFromObject(d), &lease); err != nil {
			return err
		}
		if lease.Spec.HolderIdentity == nil {
			return errors.New("nobody does")
		}
		name, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
		var leader corev1.Pod
		if err := l.client.Get(ctx, client.ObjectKey{Namespace: d.Namespace, Name: name}, &leader); err != nil {
			return err
		}
		i := slices.IndexFunc(l.nodes, func(n string) bool { return n != leader.Spec.NodeName })
		node = l.nodes[i]
		return nil
	})
	return node
}

func (l *lab) node(ctx context.Context, name string) (*corev1.Node, error) {
	n := &corev1.Node{}
	return n, l.client.Get(ctx, client.ObjectKey{Name: name}, n)
}

func hasGate(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == gate.Taint })
}

func (l *lab) open(ctx context.Context, name string) error {
	n, err := l.node(ctx, name)
	if err == nil && hasGate(n) {
		err = fmt.Errorf("it has taints %v", n.Spec.Taints)
	}
	return err
}

// watchClosed begins to watch a node. The result waits until it was closed in another boot than the given one.
func (l *lab) watchClosed(name string) (closed func(boot string)) {
	l.Helper()
	w, err := shared.client.Watch(l.Context(), &corev1.NodeList{}, client.MatchingFields{"metadata.name": name})
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(w.Stop)
	return func(boot string) {
		l.Helper()
		ctx, cancel := context.WithTimeout(l.Context(), patience)
		defer cancel()
		for {
			select {
			case <-ctx.Done():
				l.Fatal("the node was never closed")
			case e := <-w.ResultChan():
				if n, is := e.Object.(*corev1.Node); is && e.Type == watch.Modified && n.Status.NodeInfo.BootID != boot && hasGate(n) {
					return
				}
			}
		}
	}
}

// deployed is nil when all pods of a Deployment are as it is now.
func (l *lab) deployed(ctx context.Context, d *appsv1.Deployment) error {
	if err := l.client.Get(ctx, client.ObjectKeyFromObject(d), d); err != nil {
		return err
	}
	s := d.Status
	if s.ObservedGeneration < d.Generation || s.UpdatedReplicas < *d.Spec.Replicas || s.ReadyReplicas < *d.Spec.Replicas || s.Replicas > *d.Spec.Replicas {
		return fmt.Errorf("%d pods are new, %d are ready, of %d", s.UpdatedReplicas, s.ReadyReplicas, s.Replicas)
	}
	return nil
}
