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
	never context.Context    // which does not end, so that every Acquire succeeds
	hit   func(point string) // see Config.Hit
}

func newRWLock(hit func(string)) *rwLock {
	return &rwLock{semaphore.NewWeighted(math.MaxInt64), context.Background(), hit}
}

func (l *rwLock) RLock()   { l.acquire(1) }
func (l *rwLock) RUnlock() { l.s.Release(1) }
func (l *rwLock) Lock()    { l.acquire(math.MaxInt64) }
func (l *rwLock) Unlock()  { l.s.Release(math.MaxInt64) }

func (l *rwLock) acquire(n int64) {
	if !l.s.TryAcquire(n) {
		_ = l.s.Acquire(l.never, n)
		l.hit("locked")
	}
}
