// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"math"

	"golang.org/x/sync/semaphore"
)

// rwLock is a sync.RWMutex whose waiters wait on channels, first come first served: to testing/synctest, and so to the
// simulator, a goroutine that waits for it is blocked, as one that waits for a sync.RWMutex is not.
type rwLock struct {
	s     *semaphore.Weighted
	never context.Context // which does not end, so that every Acquire succeeds
}

func newRWLock() *rwLock { return &rwLock{semaphore.NewWeighted(math.MaxInt64), context.Background()} }

func (l *rwLock) RLock()   { _ = l.s.Acquire(l.never, 1) }
func (l *rwLock) RUnlock() { l.s.Release(1) }
func (l *rwLock) Lock()    { _ = l.s.Acquire(l.never, math.MaxInt64) }
func (l *rwLock) Unlock()  { l.s.Release(math.MaxInt64) }
