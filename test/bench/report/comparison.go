// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"strings"

	"github.com/railyard-net/railyard/test/bench/measure"
)

// Comparison shows what two contestants need for the same jobs, and the ratio of the first to the second, as a table in Markdown.
func Comparison(tables []Table, a, b string) string {
	var out strings.Builder
	fmt.Fprintf(&out, "| job | parallel | verb | CPU ms %s | %s | ratio | p50 ms %s | %s | ratio |\n|---|---:|---|---:|---:|---:|---:|---:|---:|\n", a, b, a, b)
	for _, t := range tables {
		for _, p := range parallels(t.Results) {
			for _, verb := range []measure.Verb{measure.Add, measure.Del} {
				x, ok1 := find(t.Results, a, p, verb)
				y, ok2 := find(t.Results, b, p, verb)
				if ok1 && ok2 {
					fmt.Fprintf(&out, "| %s | %d | %s | %s | %s | %.2f | %s | %s | %.2f |\n", t.Title, p, verb,
						number(x.CPU), number(y.CPU), x.CPU/y.CPU, number(x.P50), number(y.P50), x.P50/y.P50)
				}
			}
		}
	}
	return out.String()
}
