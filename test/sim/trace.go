// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"hash/fnv"
	"time"
)

// tail is how many lines of a run are kept to be shown.
const tail = 400

// trace is what happened: the last of it, and a sum of all, by which two runs are compared.
type trace struct {
	lines []string
	n     int
	sum   uint64
}

func newTrace() *trace { return &trace{lines: make([]string, tail)} }

func (t *trace) add(at time.Duration, what string) {
	line := fmt.Sprintf("%12s %s", at, what)
	t.lines[t.n%tail] = line
	t.n++
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%x%s", t.sum, line)
	t.sum = h.Sum64()
}

func (t *trace) last() []string {
	var out []string
	for i := max(0, t.n-tail); i < t.n; i++ {
		out = append(out, t.lines[i%tail])
	}
	return out
}
