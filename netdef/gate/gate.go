// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package gate keeps new pods off nodes whose rails are not ready, by a taint.
//
// A node is ready when the agent on it is, in the boot that the node is in. The API server is told of a boot by the kubelet, at once,
// and of the agent's end by the same kubelet, a little later: so what counts after a boot is another run of the agent's container than
// the one that was ready before it. That one is noted on the node, in an annotation. No clocks are compared.
//
// An agent that is replaced or restarted in one boot closes no gate: pods start and stop without one.
//
// The taint keeps pods away that are not on the node yet. Those that are wait for their rails by themselves: a plugin without an agent
// and without addresses fails, and the kubelet tries again.
package gate

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const (
	// Taint is the key of the taint. A kubelet may register its node with it, whatever the effect; what is set here is NoSchedule.
	Taint = "railyard.dev/not-ready"
	// Annotation says in which boot of the node which run of the agent was ready.
	Annotation = "railyard.dev/ready-in-boot"
)

// Mode says what is done.
type Mode string

const (
	// Off: nothing.
	Off Mode = "off"
	// Startup: the taint that a node was registered with is taken away when its rails are ready.
	Startup Mode = "startup"
	// Boot: as Startup, and a node that was ready gets the taint when it has booted again.
	Boot Mode = "boot"
)

// Modes are all of them.
func Modes() []Mode { return []Mode{Off, Startup, Boot} }

// agent is what the API says of an agent's pod.
type agent struct {
	ready bool
	run   string // of its container
}

func agentOf(p *corev1.Pod) agent {
	var a agent
	for _, c := range p.Status.Conditions {
		a.ready = a.ready || c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	}
	a.ready = a.ready && p.DeletionTimestamp == nil
	for _, s := range p.Status.ContainerStatuses {
		if a.run == "" || s.ContainerID < a.run {
			a.run = s.ContainerID
		}
	}
	return a
}

// note is what the annotation says.
type note struct{ boot, run string }

func noteOf(n *corev1.Node) note {
	boot, run, _ := strings.Cut(n.Annotations[Annotation], " ")
	return note{boot, run}
}

func (n note) String() string { return n.boot + " " + n.run }

// judge changes the node to what it should be, given the agents on it.
func judge(n *corev1.Node, agents []agent, mode Mode) {
	boot, before := n.Status.NodeInfo.BootID, noteOf(n)
	booted := before.boot != boot
	i := slices.IndexFunc(agents, func(a agent) bool {
		return a.ready && a.run != "" && (!booted || a.run != before.run)
	})
	switch {
	case mode == Off, len(agents) == 0: // no agent is meant to be there
	case i >= 0:
		n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == Taint })
		if mode == Boot {
			if n.Annotations == nil {
				n.Annotations = map[string]string{}
			}
			n.Annotations[Annotation] = note{boot, agents[i].run}.String()
		}
	case mode == Boot && booted && before.boot != "" && !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == Taint }):
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: Taint, Effect: corev1.TaintEffectNoSchedule})
	}
}
