// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/railyard-net/railyard/ipam"
)

// Decline implements ipam.Leaser. People are told by an Event on the pod.
func (a *Agent) Decline(ctx context.Context, k ipam.Key, c ipam.Conflict) (err error) {
	defer a.metrics.observe("decline", time.Now(), &err)
	l, err := a.store.Lookup(ctx, k)
	if err != nil {
		return err
	}
	if err := a.store.Decline(ctx, k, c); err != nil {
		return err
	}
	a.metrics.conflicts.WithLabelValues(l.Pool).Inc()
	a.log.WarnContext(ctx, "a neighbour answers for an address that it has not from the pool; it is held back", "address", c.Address, "neighbour", c.Neighbour,
		"pool", l.Pool, "for", a.cfg.ConflictHold.String(), "pod", l.Pod.Namespace+"/"+l.Pod.Name)
	a.freed()
	go a.tellConflict(context.WithoutCancel(ctx), l, c)
	return nil
}

// tellConflict makes the Event. The pod does not wait for it.
func (a *Agent) tellConflict(ctx context.Context, l ipam.Lease, c ipam.Conflict) {
	if l.Pod.Name == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	err := a.cfg.Client.Create(ctx, &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "railyard-", Namespace: l.Pod.Namespace},
		EventTime:  metav1.NowMicro(), Type: corev1.EventTypeWarning, Reason: "AddressConflict", Action: "Attach",
		ReportingController: "railyard.dev/agent", ReportingInstance: a.cfg.Node,
		Regarding: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: l.Pod.Namespace, Name: l.Pod.Name, UID: types.UID(l.Pod.UID)},
		Note: fmt.Sprintf("%s of pool %s is in use by a neighbour (%s) that has it not from the pool: exclude it there, or take it from that machine. The pod gets another; this one is held back for %s.",
			c.Address, l.Pool, cmp.Or(c.Neighbour, "unknown"), a.cfg.ConflictHold),
	})
	if err != nil {
		a.log.WarnContext(ctx, "no Event could be made of an address conflict", "pod", l.Pod.Namespace+"/"+l.Pod.Name, "error", err)
	}
}

// endConflicts gives addresses another chance that have been held back for long enough, as this agent has seen; held remembers
// since when, from look to look.
func (a *Agent) endConflicts(ctx context.Context, leases []ipam.Lease, held map[ipam.Key]time.Duration) error {
	now, seen := a.cfg.Now(), map[ipam.Key]bool{}
	for _, l := range leases {
		if l.Key.Network != ipam.ConflictNetwork {
			continue
		}
		seen[l.Key] = true
		if since, known := held[l.Key]; !known {
			held[l.Key] = now
		} else if now-since >= a.cfg.ConflictHold {
			if err := a.store.Release(ctx, l.Key); err != nil {
				return fmt.Errorf("end %v: %w", l.Key, err)
			}
			a.log.InfoContext(ctx, "an address that a neighbour answered for gets another chance", "addresses", l.Addresses, "pool", l.Pool)
			a.wake()
			a.freed()
		}
	}
	for k := range held {
		if !seen[k] {
			delete(held, k)
		}
	}
	return nil
}
