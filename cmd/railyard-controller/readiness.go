// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"sync/atomic"
)

// readiness knows how far the manager has come. It is a runnable of the manager, so it is started once the manager is.
type readiness struct {
	started atomic.Bool
	elected <-chan struct{} // closed when this one leads
}

// Start implements manager.Runnable.
func (r *readiness) Start(ctx context.Context) error {
	r.started.Store(true)
	<-ctx.Done()
	r.started.Store(false)
	return nil
}

// NeedLeaderElection: a controller that waits for its turn is ready, too.
func (r *readiness) NeedLeaderElection() bool { return false }

// Alive implements daemon.Health. A process that lost its lease or its manager ends, so one that answers is alive.
func (r *readiness) Alive() error { return nil }

// State implements daemon.Health.
func (r *readiness) State() ([]string, error) {
	if !r.started.Load() {
		return nil, errors.New("starting or stopping")
	}
	select {
	case <-r.elected:
		return []string{"leading"}, nil
	default:
		return []string{"standing by"}, nil
	}
}
