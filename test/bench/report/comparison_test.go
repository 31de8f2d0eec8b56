// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/test/bench/measure"
)

func TestComparison(t *testing.T) {
	row := func(who string, parallel int, verb measure.Verb, cpu, p50 float64) Result {
		return Result{Contestant: who, Parallel: parallel, Verb: verb, CPU: cpu, P50: p50}
	}
	got := Comparison([]Table{{Title: "macvlan", Results: []Result{
		row("new", 1, measure.Add, 4, 6), row("old", 1, measure.Add, 5, 8), row("new", 8, measure.Add, 4, 6), row("new", 1, measure.Del, 3, 20), row("old", 1, measure.Del, 2, 10),
	}}}, "new", "old")
	want := `| job | parallel | verb | CPU ms new | old | ratio | p50 ms new | old | ratio |
|---|---:|---|---:|---:|---:|---:|---:|---:|
| macvlan | 1 | ADD | 4.00 | 5.00 | 0.80 | 6.00 | 8.00 | 0.75 |
| macvlan | 1 | DEL | 3.00 | 2.00 | 1.50 | 20.0 | 10.0 | 2.00 |
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
