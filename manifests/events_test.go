// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/railyard-net/railyard/test/cluster"
)

// TestAgentSpeaksForItself: no agent can say anything in the name of another, or of another program, or of anything but a pod.
func TestAgentSpeaksForItself(t *testing.T) {
	a := nodeClient(t, "node-a")
	cfg, err := api.ServiceAccountConfig(t.Context(), cluster.AgentNamespace, cluster.AgentServiceAccount)
	unbound := newClient(t, cfg, err)
	say := func(change func(*eventsv1.Event)) *eventsv1.Event {
		e := &eventsv1.Event{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "railyard-", Namespace: metav1.NamespaceDefault},
			EventTime:  metav1.NowMicro(), Type: corev1.EventTypeWarning, Reason: "Test", Action: "Attach",
			ReportingController: "railyard.dev/agent", ReportingInstance: "node-a",
			Regarding: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: metav1.NamespaceDefault, Name: "p"},
		}
		change(e)
		return e
	}
	asNodeB := func(e *eventsv1.Event) { e.ReportingInstance = "node-b" }
	cluster.Eventually(t, "the policy is in force", func() error {
		if err := a.Create(t.Context(), say(asNodeB)); !apierrors.IsForbidden(err) {
			return err
		}
		return nil
	})
	if err := a.Create(t.Context(), say(func(*eventsv1.Event) {})); err != nil {
		t.Errorf("its own: %v", err)
	}
	if err := unbound.Create(t.Context(), say(func(*eventsv1.Event) {})); !apierrors.IsForbidden(err) {
		t.Errorf("with a token of no node: %v", err)
	}
	for name, change := range map[string]func(*eventsv1.Event){
		"another node":       asNodeB,
		"another controller": func(e *eventsv1.Event) { e.ReportingController = "kubelet" },
		"a node":             func(e *eventsv1.Event) { e.Regarding.Kind = "Node" },
		"another namespace":  func(e *eventsv1.Event) { e.Regarding.Namespace = "kube-system"; e.Namespace = metav1.NamespaceDefault },
	} {
		// The API server itself refuses some of them.
		if err := a.Create(t.Context(), say(change)); err == nil ||
			!strings.Contains(err.Error(), "railyard-agent-own-events") && !apierrors.IsInvalid(err) {
			t.Errorf("%s: not refused: %v", name, err)
		}
	}
}
