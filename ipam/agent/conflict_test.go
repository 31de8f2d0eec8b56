// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/test/cluster"
)

// An address that a neighbour answers for goes to nobody for a while, and the pod's Events say so; then it has another chance.
func TestConflict(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/29", BlockSize: 8}
		s.DetectConflicts = true
	})
	a := start(t, "conflict", agentOptions{config: func(c *Config) {
		c.GCInterval, c.ConflictHold, c.MirrorInterval = 20*time.Millisecond, 300*time.Millisecond, 20*time.Millisecond
	}})
	req := request(pool, "a")
	req.Pod = ipam.Pod{Namespace: metav1.NamespaceDefault, Name: pool, UID: "the-uid"}
	l := mustLease(t, a, req)
	if !l.Probe {
		t.Error("the pool's wish is not in the lease")
	}
	addr := l.Addresses[0].Prefix.Addr()
	began := time.Now()
	if err := a.Decline(t.Context(), req.Key, ipam.Conflict{Address: addr, Neighbour: "02:00:00:00:00:01"}); err != nil {
		t.Fatal(err)
	}
	if next := mustLease(t, a, req); next.Addresses[0].Prefix.Addr() == addr {
		t.Errorf("the next address is %v again", addr)
	}
	events, err := client.New(shared.RESTConfig(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, "an Event on the pod", func() error {
		var list eventsv1.EventList
		if err := events.List(t.Context(), &list, client.InNamespace(metav1.NamespaceDefault)); err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Regarding.Name == pool && e.Regarding.UID == "the-uid" && e.Reason == "AddressConflict" &&
				strings.Contains(e.Note, addr.String()) && strings.Contains(e.Note, "02:00:00:00:00:01") {
				return nil
			}
		}
		return errors.New("there is none")
	})
	cluster.Eventually(t, "another chance for the address", func() error {
		_, err := a.Lookup(context.Background(), ipam.ConflictKey(pool, ipam.Conflict{Address: addr, Neighbour: "02:00:00:00:00:01"}))
		if err == nil {
			return errors.New("it is held back")
		}
		return ignoreNotFound(err)
	})
	if held := time.Since(began); held < 300*time.Millisecond {
		t.Errorf("held back for %v only", held)
	}
	mustRelease(t, a, "a")
	shared.check(t, pool, a)
}
