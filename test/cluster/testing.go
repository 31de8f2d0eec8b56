// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"time"
)

// TB is what this package asks of a *testing.T or *testing.B; the demo has no such thing and uses what returns errors.
type TB interface {
	Helper()
	Name() string
	Failed() bool
	Context() context.Context
	Cleanup(func())
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// NewAPI starts an API server for a test, with the manifests (files or folders, from the module's root) applied. It ends with the
// test; if the test failed, its logs stay, and the test's output says where.
func NewAPI(t TB, manifests ...string) *API {
	t.Helper()
	return NewAPIWith(t, APIOptions{}, manifests...)
}

// NewAPIWith is NewAPI with options.
func NewAPIWith(t TB, o APIOptions, manifests ...string) *API {
	t.Helper()
	api, err := StartAPI(t.Context(), o)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		stop := api.Stop
		if t.Failed() {
			stop = api.StopKeepingLogs
			t.Logf("logs of the API server are kept in %s", api.Dir())
		}
		if err := stop(); err != nil {
			t.Logf("stop the test API server: %v", err)
		}
	})
	if len(manifests) > 0 {
		if err := api.Apply(t.Context(), manifests...); err != nil {
			t.Fatalf("%v", err)
		}
	}
	return api
}

// NewNodes makes nodes on a fabric of their own for a test, joined to api if that is not nil. They end with the test.
func NewNodes(t TB, api *API, names ...string) []*Node {
	t.Helper()
	fabric, err := NewFabric()
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := fabric.Close(); err != nil {
			t.Logf("close the fabric: %v", err)
		}
	})
	var nodes []*Node
	for _, name := range names {
		n, err := NewNode(t.Context(), name, fabric, api)
		if err != nil {
			t.Fatalf("%v", err)
		}
		t.Cleanup(func() {
			if err := n.Close(); err != nil {
				t.Logf("close node %s: %v", name, err)
			}
		})
		nodes = append(nodes, n)
	}
	return nodes
}

// Eventually waits for what other processes bring about: it repeats check until that returns nil. The deadline is for a loaded
// machine; a test that passes does not notice it.
func Eventually(t TB, what string, check func() error) {
	t.Helper()
	var err error
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(time.Minute); time.Now().Before(until); <-tick.C {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("not in time: %s: %v", what, err)
}
