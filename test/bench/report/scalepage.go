// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	_ "embed"
	"fmt"
	"strings"
)

//go:embed scale.md
var scaleMethod string

// Markdown is the report for people.
func (s Scale) Markdown() []byte {
	var b strings.Builder
	b.WriteString("<!-- Written by `make bench-scale`: change test/bench, not this page. -->\n# Benchmarks: whole clusters\n\n")
	machine(&b, s.About)
	fmt.Fprintf(&b, "![All figures over the number of nodes](%s)\n\n", ScalePlotName)
	b.WriteString("## The bars\n\nWhat the project asks of itself; `make bench-scale` fails on a miss.\n\n")
	barTable(&b, s.Bars)
	s.overview(&b)
	for _, f := range s.Fleets {
		fmt.Fprintf(&b, "\n## %s nodes\n\n%.0f s in all.\n\n", thousands(f.Nodes), f.Seconds)
		phaseTables(&b, f)
	}
	b.WriteString("\n" + scaleMethod)
	return []byte(b.String())
}

// overview has a line for each figure and a column for each number of nodes.
func (s Scale) overview(b *strings.Builder) {
	b.WriteString("\n## Over the number of nodes\n\n| |")
	for _, f := range s.Fleets {
		fmt.Fprintf(b, " %s nodes |", thousands(f.Nodes))
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(s.Fleets)) + "\n")
	line := func(name string, of func(Fleet) string) {
		fmt.Fprintf(b, "| %s |", name)
		for _, f := range s.Fleets {
			fmt.Fprintf(b, " %s |", of(f))
		}
		b.WriteString("\n")
	}
	phase := func(name string, of func(Phase) string) func(Fleet) string {
		return func(f Fleet) string { return of(f.phase(name)) }
	}
	writes := func(p Phase) string { return number(p.perADD(p.Writes())) }
	watched := func(p Phase) string { return number(p.perADD(p.Requests["WATCH"].Bytes)) }
	line("all agents started, s", phase("start of all agents", func(p Phase) string { return number(p.Seconds) }))
	line("storm, ADDs", phase("storm", func(p Phase) string { return thousands(p.Adds) }))
	line("storm, ADDs a second, cluster", phase("storm", func(p Phase) string { return number(p.PerSecond) }))
	line("storm, ADDs a second, each node", func(f Fleet) string { return number(f.phase("storm").PerSecond / float64(f.Nodes)) })
	line("flat out, ADDs a second, cluster", phase("flat out", func(p Phase) string { return number(p.PerSecond) }))
	line("flat out, ADDs a second, one node", phase("one node flat out", func(p Phase) string { return number(p.PerSecond) }))
	line("API writes per ADD, steady churn", phase("steady churn", writes))
	line("API writes per ADD, whole scenario", func(f Fleet) string { return writes(f.Whole()) })
	line("API writes per ADD, churn at 99 %", phase("churn at 99 %", writes))
	line("watch bytes per ADD, steady churn", phase("steady churn", watched))
	line("watch bytes per ADD, whole scenario", func(f Fleet) string { return watched(f.Whole()) })
	line("ADD p99, steady churn, ms", phase("steady churn", func(p Phase) string { return number(p.P99) }))
	line("ADD p50 / p99, churn at 99 %, ms", phase("churn at 99 %", func(p Phase) string { return number(p.P50) + " / " + number(p.P99) }))
	line("ADDs without an API server / refused", func(f Fleet) string { return thousands(f.OutageAdds) + " / " + thousands(f.OutageRefused) })
	line("recovery: the last waiting pod served, s", func(f Fleet) string { return number(f.ServedAfter) })
	line("recovery: the last watch there, s", func(f Fleet) string { return number(f.WatchedAfter) })
	line("memory of an agent, idle, kB", func(f Fleet) string { return number(float64(f.IdleHeap) / 1000) })
	line(fmt.Sprintf("memory of an agent, %d leases, kB", s.Settings.Pods), func(f Fleet) string { return number(float64(f.LeasedHeap) / 1000) })
	line("largest IPBlock, kB", func(f Fleet) string { return number(float64(f.LargestBlock) / 1000) })
	line("largest IPPool, kB", func(f Fleet) string { return number(float64(f.LargestPool) / 1000) })
	line("addresses handed out of a pool", func(f Fleet) string {
		return fmt.Sprintf("%s of %s", thousands(f.Capacity-f.NotHandedOut), thousands(f.Capacity))
	})
	line("duplicates / leaks", func(f Fleet) string { return fmt.Sprintf("%d / %d", f.Duplicates, f.Leaks) })
}

func phaseTables(b *strings.Builder, f Fleet) {
	b.WriteString("| | s | ADDs | a second | p50 ms | p99 ms | longest ms | refused | writes per ADD | watch bytes per ADD |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	all := append(f.Phases[:len(f.Phases):len(f.Phases)], f.Whole())
	for _, p := range all {
		perSecond, writes, watched := number(p.PerSecond), number(p.perADD(p.Writes())), number(p.perADD(p.Requests["WATCH"].Bytes))
		if p.Adds == 0 {
			perSecond, writes, watched = "", "", ""
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", p.Name, number(p.Seconds), thousands(p.Adds), perSecond,
			number(p.P50), number(p.P99), number(p.Max), thousands(p.Refused), writes, watched)
	}
	verbs := []string{"GET", "LIST", "WATCH", "POST", "PUT", "PUT status", "DELETE"}
	fmt.Fprintf(b, "\nRequests of the agents (failed ones in brackets) and kB of the answers, and the controller's writes:\n\n| | %s | controller |\n|---|%s---:|\n",
		strings.Join(verbs, " | "), strings.Repeat("---:|", len(verbs)))
	for _, p := range all {
		fmt.Fprintf(b, "| %s |", p.Name)
		for _, v := range verbs {
			r := p.Requests[v]
			failed := ""
			if r.Failed > 0 {
				failed = fmt.Sprintf(" (%s)", thousands(int(r.Failed)))
			}
			fmt.Fprintf(b, " %s%s, %s kB |", thousands(int(r.N)), failed, number(float64(r.Bytes)/1000))
		}
		fmt.Fprintf(b, " %s |\n", thousands(int(p.PoolWrites)))
	}
}
