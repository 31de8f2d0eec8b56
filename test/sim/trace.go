// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"hash/fnv"
	"slices"
	"time"
)

// tail is how many lines of a run are kept to be shown, at least.
const tail = 400

// trace is what happened: the last of it, or the whole, and a sum of all, by which two runs are compared.
type trace struct {
	whole bool
	lines []string
	sum   uint64
}

func newTrace() *trace { return &trace{} }

func (t *trace) add(at time.Duration, what string) {
	line := fmt.Sprintf("%12s %s", at, what)
	if !t.whole && len(t.lines) == 2*tail {
		t.lines = append(t.lines[:0], t.lines[tail:]...)
	}
	t.lines = append(t.lines, line)
	t.count(line)
}

// pass adds that a goroutine goes on, which is shown in the whole alone.
func (t *trace) pass(at time.Duration, key string) {
	line := fmt.Sprintf("%12s %s", at, key)
	if t.whole {
		t.lines = append(t.lines, line)
	}
	t.count(line)
}

func (t *trace) count(line string) {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%x%s", t.sum, line)
	t.sum = h.Sum64()
}

func (t *trace) last() []string {
	if t.whole {
		return t.lines
	}
	return slices.Clone(t.lines[max(0, len(t.lines)-tail):])
}
