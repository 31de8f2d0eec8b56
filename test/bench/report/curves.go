// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"html"
	"math"
)

// ScalePlotName is the plot's file beside benchmarks-scale.md.
const ScalePlotName = "benchmarks-scale.svg"

// curve is one figure over the number of nodes.
type curve struct {
	name, class string
	of          func(Fleet) float64
}

// panel is a plot of its curves, with a limit if that is not 0.
type panel struct {
	title  string
	limit  float64
	curves []curve
}

func (s Scale) panels() []panel {
	steady := func(f func(Phase) float64) func(Fleet) float64 {
		return func(x Fleet) float64 { return f(x.phase("steady churn")) }
	}
	writes := func(p Phase) float64 { return p.perADD(p.Writes()) }
	watched := func(p Phase) float64 { return p.perADD(p.Requests["WATCH"].Bytes) }
	return []panel{
		{title: "ADDs a second", curves: []curve{
			{"cluster, flat out", "ours", func(f Fleet) float64 { return f.phase("flat out").PerSecond }},
			{"one node, flat out", "peer", func(f Fleet) float64 { return f.phase("one node flat out").PerSecond }},
			{"each node, storm", "base", func(f Fleet) float64 { return f.phase("storm").PerSecond / float64(f.Nodes) }},
		}},
		{title: "API writes per ADD", limit: mostWrites, curves: []curve{
			{"steady churn", "ours", steady(writes)},
			{"whole scenario", "peer", func(f Fleet) float64 { return writes(f.Whole()) }},
		}},
		{title: "watch bytes per ADD", curves: []curve{
			{"steady churn", "ours", steady(watched)},
			{"whole scenario", "peer", func(f Fleet) float64 { return watched(f.Whole()) }},
		}},
		{title: "ms for an ADD at the p99", curves: []curve{
			{"steady churn", "ours", steady(func(p Phase) float64 { return p.P99 })},
			{"churn at 99 %", "peer", func(f Fleet) float64 { return f.phase("churn at 99 %").P99 }},
		}},
		{title: "seconds to recover after the outage", curves: []curve{
			{"waiting pods served", "ours", func(f Fleet) float64 { return f.ServedAfter }},
			{"all watches there", "peer", func(f Fleet) float64 { return f.WatchedAfter }},
		}},
		{title: "kB", limit: mostObject / 1000, curves: []curve{
			{"memory of an agent", "ours", func(f Fleet) float64 { return float64(f.LeasedHeap) / 1000 }},
			{"the same, idle", "base", func(f Fleet) float64 { return float64(f.IdleHeap) / 1000 }},
			{"largest object (limit)", "peer", func(f Fleet) float64 { return float64(max(f.LargestBlock, f.LargestPool)) / 1000 }},
		}},
	}
}

const (
	curvesWidth, curvesHeight = 460, 230 // of a panel, with its margins
	curvesTop                 = 60
	curvesLegend              = 16
)

// Plot draws every figure as curves over the number of nodes, both axes logarithmic, as an SVG image.
func (s Scale) Plot() []byte {
	var p plot
	panels := s.panels()
	width, height := 2*curvesWidth, curvesTop+curvesHeight*((len(panels)+1)/2)
	p.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">`, width, height, width, height)
	p.printf("<title>A cluster of agents, by its number of nodes</title>\n%s\n", style)
	p.printf(`<rect width="%d" height="%d" rx="8" class="paper"/>`+"\n", width, height)
	p.text(12, 24, "title", "A cluster of agents, by its number of nodes")
	p.text(12, 42, "soft", s.Machine.Name+"; both axes logarithmic; dashed: the limit")
	for i, x := range panels {
		s.drawPanel(&p, x, i%2*curvesWidth, curvesTop+i/2*curvesHeight)
	}
	p.printf("</svg>\n")
	return []byte(p.b.String())
}

func (s Scale) drawPanel(p *plot, x panel, left, top int) {
	p.text(left+12, top+14, "head", x.title)
	inner := struct{ left, right, top, bottom float64 }{float64(left + 60), float64(left + curvesWidth - 20), float64(top + 26), float64(top + curvesHeight - 28 - curvesLegend)}
	low, high := x.limit, x.limit
	for _, c := range x.curves {
		for _, f := range s.Fleets {
			if v := c.of(f); v > 0 {
				if low == 0 {
					low = v
				}
				low, high = min(low, v), max(high, v)
			}
		}
	}
	if low <= 0 {
		return
	}
	low, high = math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high*1.0001)))
	fewest, most := s.Fleets[0].Nodes, s.Fleets[len(s.Fleets)-1].Nodes
	at := func(from, to, v, begin, end float64) float64 {
		if from == to {
			return (begin + end) / 2
		}
		return begin + (math.Log10(v)-math.Log10(from))/(math.Log10(to)-math.Log10(from))*(end-begin)
	}
	xOf := func(nodes int) float64 {
		return at(float64(fewest), float64(most), float64(nodes), inner.left+8, inner.right-8)
	}
	yOf := func(v float64) float64 { return at(low, high, max(v, low), inner.bottom, inner.top) }
	for v := low; v <= high*1.001; v *= 10 {
		p.printf(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="grid"/>`+"\n", inner.left, yOf(v), inner.right, yOf(v))
		p.text(int(inner.left)-6, int(yOf(v))+4, "soft end", fmt.Sprintf("%g", v))
	}
	for _, f := range s.Fleets {
		p.text(int(xOf(f.Nodes)), int(inner.bottom)+16, "soft middle", thousands(f.Nodes))
	}
	if x.limit > 0 {
		p.printf(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="base" stroke-dasharray="5 4"/>`+"\n", inner.left, yOf(x.limit), inner.right, yOf(x.limit))
	}
	for i, c := range x.curves {
		p.printf(`<g class="%s">`, c.class)
		for j, f := range s.Fleets {
			v := c.of(f)
			if j > 0 {
				before := s.Fleets[j-1]
				p.printf(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke-width="2"/>`, xOf(before.Nodes), yOf(c.of(before)), xOf(f.Nodes), yOf(v))
			}
			p.printf(`<circle cx="%.1f" cy="%.1f" r="4"><title>%s</title></circle>`, xOf(f.Nodes), yOf(v),
				html.EscapeString(fmt.Sprintf("%s, %d nodes: %s", c.name, f.Nodes, number(v))))
		}
		legend := left + 60 + i*135
		p.printf(`<circle cx="%d" cy="%d" r="4"/></g>`+"\n", legend, top+curvesHeight-curvesLegend)
		p.text(legend+8, top+curvesHeight-curvesLegend+4, "soft", c.name)
	}
}
