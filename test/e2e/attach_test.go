//go:build e2e

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"maps"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/test/cluster"
)

// TestSmoke is the least that must work: two pods on two nodes reach each other over their rails, and give them back.
func TestSmoke(t *testing.T) {
	l := newLab(t)
	l.pod("a", l.nodes[0])
	l.pod("b", l.nodes[1])
	pods := l.ready("a", 1)
	maps.Copy(pods, l.ready("b", 1))
	l.leasesAre(l.rails(pods))
	l.everyoneHearsFrom(pods)
	for _, p := range pods {
		if err := l.client.Delete(t.Context(), &p); err != nil {
			t.Fatal(err)
		}
	}
	l.leasesAre(nil)
}

func TestDeployment(t *testing.T) {
	l := newLab(t)
	d := l.deployment("many", 20)
	pods := l.ready("many", 20)
	l.leasesAre(l.rails(pods))
	l.everyoneHearsFrom(pods)
	l.scale(d, 5)
	l.leasesAre(l.rails(l.ready("many", 5)))
}

// TestAgentDiesWhilePodsStart: pods that start while no agent runs wait or take what the node has, and none gets what another has.
func TestAgentDiesWhilePodsStart(t *testing.T) {
	l := newLab(t)
	d := l.deployment("many", 2)
	l.ready("many", 2)
	l.scale(d, 20)
	for range 2 {
		l.killAgents()
	}
	pods := l.ready("many", 20)
	l.leasesAre(l.rails(pods))
	l.everyoneHearsFrom(pods)
}

// killAgents kills the agents of all nodes, without a word before, and returns when others run in their places.
func (l *lab) killAgents() {
	l.Helper()
	agents := []client.ListOption{client.InNamespace(cluster.AgentNamespace), client.MatchingLabels{"app.kubernetes.io/name": "railyard-agent"}}
	var before corev1.PodList
	if err := l.client.List(l.Context(), &before, agents...); err != nil {
		l.Fatal(err)
	}
	old := map[string]bool{}
	for _, p := range before.Items {
		old[p.Name] = true
		if err := l.client.Delete(l.Context(), &p, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
			l.Fatal(err)
		}
	}
	l.await("other agents run", func(ctx context.Context) error {
		var now corev1.PodList
		if err := l.client.List(ctx, &now, agents...); err != nil {
			return err
		}
		running := 0
		for _, p := range now.Items {
			if !old[p.Name] && p.Status.Phase == corev1.PodRunning {
				running++
			}
		}
		if running < len(l.nodes) {
			return fmt.Errorf("%d do", running)
		}
		return nil
	})
}

func TestStatefulSet(t *testing.T) {
	l := newLab(t)
	replicas := int32(3)
	pod := template("set")
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "set", Namespace: l.ns},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: pod.Labels}, Template: pod, PodManagementPolicy: appsv1.OrderedReadyPodManagement,
		},
	}
	l.create(set)
	first := l.ready("set", 3)
	l.leasesAre(l.rails(first))
	// A pod that comes back under its name has a lease of its own, and its predecessor's is gone.
	old := first["set-1"]
	if err := l.client.Delete(t.Context(), &old); err != nil {
		t.Fatal(err)
	}
	again := l.ready("set", 3, func(p corev1.Pod) error {
		if p.UID == old.UID {
			return fmt.Errorf("%s is the old one", p.Name)
		}
		return nil
	})
	l.leasesAre(l.rails(again))
	l.scale(set, 0)
	l.leasesAre(nil)
	l.scale(set, 3)
	l.leasesAre(l.rails(l.ready("set", 3)))
}

func TestNamespace(t *testing.T) {
	l := newLab(t)
	l.deployment("many", 6)
	l.leasesAre(l.rails(l.ready("many", 6)))
	l.deleteNamespace()
}

// scale sets the number of replicas of a Deployment or a StatefulSet.
func (l *lab) scale(obj client.Object, replicas int) {
	l.Helper()
	patch := client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas))
	if err := l.client.Patch(l.Context(), obj, patch); err != nil {
		l.Fatal(err)
	}
}
