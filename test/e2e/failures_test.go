//go:build e2e

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestReboot: everything on a node ends at once. Its pods come back on it, with rails, and what they had before is free.
func TestReboot(t *testing.T) {
	l := newLab(t)
	l.deployment("many", 6)
	before := l.ready("many", 6)
	l.leasesAre(l.rails(before))
	node := l.nodes[0]
	boot := l.bootID(node)
	if err := l.keeper.Machine(node, "reboot"); err != nil {
		t.Fatal(err)
	}
	l.await("the node is back", func(context.Context) error {
		if l.bootID(node) == boot {
			return fmt.Errorf("its boot id is still %s", boot)
		}
		return nil
	})
	after := l.ready("many", 6, func(p corev1.Pod) error {
		if old, there := before[p.Name]; p.Spec.NodeName == node && there && restarts(p) == restarts(old) {
			return fmt.Errorf("%s was not started again", p.Name)
		}
		return nil
	})
	l.leasesAre(l.rails(after))
	l.everyoneHearsFrom(after)
}

func (l *lab) bootID(node string) string {
	l.Helper()
	var n corev1.Node
	if err := l.client.Get(l.Context(), client.ObjectKey{Name: node}, &n); err != nil {
		l.Fatal(err)
	}
	return n.Status.NodeInfo.BootID
}

// pinger starts two pods, one of which pings the other one over the rail all the time. The result fails the test if that ever stopped.
func (l *lab) pinger() (stillPings func()) {
	l.Helper()
	l.pod("target", l.nodes[0])
	var args []string
	for a := range l.rails(l.ready("target", 1)) {
		args = append(args, a.String())
	}
	l.pod("pinger", l.nodes[1], append([]string{"keep"}, args...)...)
	all := l.ready("target", 1)
	maps.Copy(all, l.ready("pinger", 1))
	want := l.rails(all)
	return func() {
		l.Helper()
		now := l.ready("target", 1)
		maps.Copy(now, l.ready("pinger", 1))
		if got := l.rails(now); !maps.Equal(got, want) {
			l.Errorf("the pods had %v, and have %v", want, got)
		}
		for name, p := range now {
			if n := restarts(p); n > 0 {
				l.Errorf("%s was restarted %d times", name, n)
			}
		}
	}
}

// newPodsWork starts a pod on each node and deletes them again.
func (l *lab) newPodsWork(app string, others map[netip.Addr]string) {
	l.Helper()
	d := l.deployment(app, 4)
	pods := l.ready(app, 4)
	all := l.rails(pods)
	for a, name := range others {
		if other, taken := all[a]; taken {
			l.Errorf("%s and %s both have %s", name, other, a)
		}
		all[a] = name
	}
	l.leasesAre(all)
	l.everyoneHearsFrom(pods)
	l.scale(d, 0)
	l.leasesAre(others)
}

func (l *lab) programRestarts(program string) {
	l.Helper()
	l.leasesIn = patience // a DEL that was cut short comes again, or the collector ends the lease
	stillPings := l.pinger()
	pair := l.ready("target", 1)
	maps.Copy(pair, l.ready("pinger", 1))
	d := l.deployment("many", 10)
	for _, node := range l.nodes {
		if err := l.keeper.Program(node, "kill", program); err != nil {
			l.Fatal(err)
		}
	}
	pods := l.ready("many", 10)
	all := l.rails(pods)
	maps.Copy(all, l.rails(pair))
	l.leasesAre(all)
	l.everyoneHearsFrom(pods)
	l.scale(d, 0)
	stillPings()
	l.newPodsWork("later", l.rails(pair))
}

// TestContainerdRestarts and TestKubeletRestarts kill these on all nodes while pods start.
func TestContainerdRestarts(t *testing.T) { newLab(t).programRestarts("containerd") }

func TestKubeletRestarts(t *testing.T) { newLab(t).programRestarts("kubelet") }

// TestAPIAway: pods go on without an API server. When it is back, pods come and go as before.
func TestAPIAway(t *testing.T) {
	l := newLab(t)
	l.leasesIn = patience
	stillPings := l.pinger()
	pair := l.ready("target", 1)
	maps.Copy(pair, l.ready("pinger", 1))
	if err := l.keeper.API(t.Context(), "stop"); err != nil {
		t.Fatal(err)
	}
	// What is tested is how long it lasts.
	select {
	case <-t.Context().Done():
	case <-time.After(time.Minute):
	}
	if err := l.keeper.API(context.WithoutCancel(t.Context()), "start"); err != nil {
		t.Fatal(err)
	}
	l.newPodsWork("later", l.rails(pair))
	stillPings()
}
