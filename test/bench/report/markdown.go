// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/railyard-net/railyard/test/bench/measure"
)

//go:embed method.md
var method string

// Markdown is the report for people. The names of the plots are links as the page sees them.
func Markdown(attach, ipam File, attachPlot, ipamPlot string) []byte {
	var b strings.Builder
	b.WriteString("<!-- Written by `make bench`: change test/bench, not this page. -->\n# Benchmarks\n\n" +
		"Placement of GPUs with their NICs is on a page of its own: [pairs](benchmarks-pairing.md).\n\n")
	machine(&b, attach.About)
	b.WriteString("## The bars\n\nWhat the project asks of itself; a miss is shown like a pass. `go run ./test/bench -check` fails on a miss.\n\n")
	barTable(&b, slices.Concat(attach.Bars, ipam.Bars))
	b.WriteString("\n## ADD and DEL of a whole attachment\n\n")
	fmt.Fprintf(&b, "![ADD and DEL by contestant and parallelism](%s)\n\n", attachPlot)
	table(&b, attach.Results)
	for _, v := range attach.Variants {
		fmt.Fprintf(&b, "\n### %s\n\n", v.Title)
		table(&b, v.Results)
	}
	b.WriteString("\n## The IPAM alone\n\n")
	fmt.Fprintf(&b, "![ADD and DEL of the IPAM by contestant and parallelism](%s)\n\n", ipamPlot)
	table(&b, ipam.Results)
	for _, v := range ipam.Variants {
		fmt.Fprintf(&b, "\n### %s\n\n", v.Title)
		table(&b, v.Results)
	}
	if attach.API != nil {
		apiTable(&b, *attach.API)
	}
	if m := attach.Memory; m != nil {
		fmt.Fprintf(&b, "\n## Memory of the agent\n\n| leases | resident | proportional | peak so far |\n|---:|---:|---:|---:|\n")
		fmt.Fprintf(&b, "| 0 | %s MB | | |\n| %s | %s MB | %s MB | %s MB |\n\n", number(m.IdleRSS), thousands(m.Leases), number(m.RSS), number(m.PSS), number(m.Peak))
		fmt.Fprintf(&b, "They were leased through the socket, %s a second.\n", number(m.LeasesPerS))
	}
	if len(attach.Binaries) > 0 {
		b.WriteString("\n## Sizes\n\n| program | MB |\n|---|---:|\n")
		for _, bin := range attach.Binaries {
			fmt.Fprintf(&b, "| %s | %.2f |\n", bin.Name, bin.MB)
		}
	}
	b.WriteString("\n" + method)
	return []byte(b.String())
}

func machine(b *strings.Builder, a About) {
	m := a.Machine
	fmt.Fprintf(b, "| | |\n|---|---|\n| machine | %s, %d cores, %.0f GB |\n| kernel | %s |\n| system | %s |\n| Go | %s |\n", m.CPU, m.Cores, m.MemoryGB, m.Kernel, m.OS, m.Go)
	fmt.Fprintf(b, "| railyard | %s |\n", a.Commit)
	for _, name := range slices.Sorted(maps.Keys(a.Peers)) {
		fmt.Fprintf(b, "| %s | %s |\n", name, a.Peers[name])
	}
	fmt.Fprintf(b, "| taken | %s, load average before: %s |\n\n", a.Started, a.Load)
	if a.Short {
		b.WriteString("**A short run: it shows that everything works, its figures mean nothing.**\n\n")
	}
}

func barTable(b *strings.Builder, bars []Bar) {
	b.WriteString("| bar | measured | limit | measured ÷ limit | |\n|---|---:|---:|---:|---|\n")
	for _, bar := range bars {
		ratio, verdict := "", "**missed**"
		if bar.Limit != 0 {
			ratio = fmt.Sprintf("%.2f", bar.Ratio)
		}
		if bar.Pass {
			verdict = "pass"
		}
		if bar.Reading {
			verdict += " (for comparison)"
		}
		fmt.Fprintf(b, "| %s | %s %s | %s %s | %s | %s |\n", bar.Name, number(bar.Measured), bar.Unit, number(bar.Limit), bar.Unit, ratio, verdict)
	}
}

func table(b *strings.Builder, rows []Result) {
	b.WriteString("| parallel | contestant | ADD p50 ms | p99 ms | per second | CPU ms | DEL p50 ms | p99 ms | per second | CPU ms | samples |\n")
	b.WriteString("|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, add := range rows {
		if add.Verb != measure.Add {
			continue
		}
		del, _ := find(rows, add.Contestant, add.Parallel, measure.Del)
		fmt.Fprintf(b, "| %d | %s | %s | %s | %s | %s | %s | %s | %s | %s | %d |\n", add.Parallel, add.Contestant,
			number(add.P50), number(add.P99), number(add.PerSecond), known(add.CPU), number(del.P50), number(del.P99), number(del.PerSecond), known(del.CPU), add.Samples)
	}
}

// known is nothing for what was not measured.
func known(f float64) string {
	if f == 0 {
		return ""
	}
	return number(f)
}

func apiTable(b *strings.Builder, a API) {
	fmt.Fprintf(b, "\n## What the API server sees\n\n%s ADDs and as many DELs in %s s; the API server's own counters, less those of the same time idle, per 1,000 ADDs:\n\n", thousands(a.Adds), number(a.Seconds))
	b.WriteString("| request | requests | bytes received | bytes sent | cause |\n|---|---:|---:|---:|---|\n")
	for _, d := range a.Lines {
		cause := "**on the way of ADD or DEL**"
		if d.Background {
			cause = "timer, in batches"
		}
		fmt.Fprintf(b, "| %s %s | %s | %s | %s | %s |\n", d.Verb, d.Resource, number(d.Requests), number(d.BytesIn), number(d.BytesOut), cause)
	}
	if len(a.Lines) == 0 {
		b.WriteString("| none | 0 | 0 | 0 | |\n")
	}
	b.WriteString("\nBytes sent are those of reads and of watch events; the API server does not count its answers to writes.\n")
	if f := a.Frozen; f != nil {
		fmt.Fprintf(b, "\nWith the API server killed, %d ADDs went through all the same: p50 %s ms, p99 %s ms at %d parallel.\n", f.Samples, number(f.P50), number(f.P99), f.Parallel)
	}
}

// number writes f with three significant digits, or whole where it has more before the point.
func number(f float64) string {
	switch {
	case f == 0:
		return "0"
	case f >= 100 || f <= -100:
		return thousands(int(f + 0.5))
	default:
		return strconv.FormatFloat(f, 'f', max(0, 2-exponent(f)), 64)
	}
}

func exponent(f float64) int {
	e := 0
	for f = max(f, -f); f >= 10; f /= 10 {
		e++
	}
	for ; f < 1 && e > -6; f *= 10 {
		e--
	}
	return e
}

func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
