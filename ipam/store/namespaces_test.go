// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/railyard-net/railyard/ipam"
)

// TestPoolOfNamespaces: pods of other namespaces get nothing, an address of their choice neither; and so it is for whoever opens the
// store next, as a plugin does while the agent is away.
func TestPoolOfNamespaces(t *testing.T) {
	t.Parallel()
	c := newClock()
	path := filepath.Join(t.TempDir(), "ipam.db")
	ask := func(s *Store, i int, namespace string, static ...string) error {
		req := request(i)
		req.Pod = ipam.Pod{Namespace: namespace, Name: "p"}
		for _, a := range static {
			req.Static = append(req.Static, mustAddr(a))
		}
		_, err := s.Lease(t.Context(), req)
		return err
	}
	refused := func(s *Store, what string, err error) {
		t.Helper()
		if !errors.Is(err, ipam.ErrPoolClosed) || !strings.Contains(err.Error(), "namespaceSelector") {
			t.Errorf("%s: %v, want %v and what to do", what, err, ipam.ErrPoolClosed)
		}
	}
	only := func(names ...string) ipam.Pool {
		return testPool(t, func(s *ipam.PoolSpec) { s.Namespaces = &names })
	}
	s := mustOpen(t, path, c.options())
	setPool(t, s, only("tenant-a", "tenant-b"))
	grant(t, s, only(), "10.20.0.16", "10.20.0.240", "fd00:20::10")
	again := func() {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, path, c.options())
	}
	again()
	if err := ask(s, 1, "tenant-b"); err != nil {
		t.Error(err)
	}
	refused(s, "another tenant", ask(s, 2, "tenant-c"))
	refused(s, "another tenant, by name", ask(s, 2, "tenant-c", "10.20.0.241"))
	refused(s, "nobody's pod", ask(s, 2, ""))
	setPool(t, s, only()) // none at all is not everybody
	again()
	refused(s, "with none selected", ask(s, 3, "tenant-b"))
	if err := ask(s, 1, "tenant-b"); err != nil {
		t.Errorf("what is leased stays: %v", err)
	}
	setPool(t, s, testPool(t, nil))
	if err := ask(s, 3, "tenant-c"); err != nil {
		t.Errorf("without a selector: %v", err)
	}
	if err := errors.Join(s.Check(), s.Close()); err != nil {
		t.Error(err)
	}
}
