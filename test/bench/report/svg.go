// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"

	"github.com/railyard-net/railyard/test/bench/measure"
)

// The plot's measures, in pixels.
const (
	plotWidth   = 980
	labelWidth  = 180
	panelGap    = 44
	rowHeight   = 20
	groupHead   = 26
	topHeight   = 64
	axisHeight  = 44
	rightMargin = 40
)

// style gives the plot its colours in light and in dark, by what the reader's browser prefers.
const style = `<style>
text { font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
.title { font-size: 15px; font-weight: 600; } .head { font-weight: 600; } .soft { fill: #59636e; font-size: 11px; }
.end { text-anchor: end; } .middle { text-anchor: middle; }
.paper { fill: #ffffff; } .grid { stroke: #d1d9e0; stroke-width: 1; }
.ours { stroke: #0969da; fill: #0969da; } .peer { stroke: #bc4c00; fill: #bc4c00; } .base { stroke: #818b98; fill: #818b98; }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc; } .soft { fill: #9198a1; }
.paper { fill: #0d1117; } .grid { stroke: #3d444d; }
.ours { stroke: #4493f8; fill: #4493f8; } .peer { stroke: #f0883e; fill: #f0883e; } .base { stroke: #9198a1; fill: #9198a1; }
}
</style>`

// Plot draws rows as an SVG image: for each parallelism and contestant a dot at the p50 and a line to the p99, on an axis of
// milliseconds that is logarithmic.
func Plot(title, subtitle string, rows []Result, order []string) []byte {
	p := plot{rows: rows, order: present(rows, order), parallels: parallels(rows)}
	p.from, p.to = decades(rows)
	p.panel = (plotWidth - labelWidth - panelGap - rightMargin) / 2
	groups := len(p.parallels) * (groupHead + rowHeight*len(p.order))
	height := topHeight + groups + axisHeight
	p.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">`, plotWidth, height, plotWidth, height)
	p.printf("<title>%s</title>\n%s\n", html.EscapeString(title), style)
	p.printf(`<rect width="%d" height="%d" rx="8" class="paper"/>`+"\n", plotWidth, height)
	p.text(12, 24, "title", title)
	p.text(12, 42, "soft", subtitle)
	for i, verb := range []measure.Verb{measure.Add, measure.Del} {
		left := labelWidth + i*(p.panel+panelGap)
		p.axis(left, topHeight, topHeight+groups)
		p.text(left+p.panel/2, 58, "head middle", string(verb))
		p.dots(verb, left)
	}
	p.text(labelWidth+p.panel+panelGap/2, height-8, "soft middle", "milliseconds, logarithmic; dot and figure: p50, line: to p99")
	y := topHeight
	for _, n := range p.parallels {
		p.text(12, y+groupHead-8, "head", fmt.Sprintf("%d parallel", n))
		y += groupHead
		for _, c := range p.order {
			p.text(labelWidth-10, y+rowHeight/2+4, "end", c)
			y += rowHeight
		}
	}
	p.printf("</svg>\n")
	return []byte(p.b.String())
}

type plot struct {
	b         strings.Builder
	rows      []Result
	order     []string
	parallels []int
	from, to  float64 // the axis, powers of ten
	panel     int     // width of one
}

func (p *plot) printf(format string, args ...any) { fmt.Fprintf(&p.b, format, args...) }

func (p *plot) text(x, y int, class, s string) {
	p.printf(`<text x="%d" y="%d" class="%s">%s</text>`+"\n", x, y, class, html.EscapeString(s))
}

// x is where ms lies in a panel that begins at left.
func (p *plot) x(left int, ms float64) float64 {
	at := (math.Log10(max(ms, 1e-9)) - math.Log10(p.from)) / (math.Log10(p.to) - math.Log10(p.from))
	return float64(left) + at*float64(p.panel)
}

func (p *plot) axis(left, top, bottom int) {
	for v := p.from; v <= p.to*1.001; v *= 10 {
		x := p.x(left, v)
		p.printf(`<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" class="grid"/>`+"\n", x, top, x, bottom)
		p.text(int(x), bottom+16, "soft middle", fmt.Sprintf("%g", v))
	}
}

func (p *plot) dots(verb measure.Verb, left int) {
	y := topHeight
	for _, n := range p.parallels {
		y += groupHead
		for _, c := range p.order {
			if r, ok := find(p.rows, c, n, verb); ok {
				from, to, at := p.x(left, r.P50), p.x(left, r.P99), float64(y)+rowHeight/2
				p.printf(`<g class="%s"><title>%s</title>`, class(c), html.EscapeString(fmt.Sprintf("%s %s, %d parallel: p50 %s ms, p99 %s ms", c, verb, n, number(r.P50), number(r.P99))))
				p.printf(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke-width="2"/>`, from, at, to, at)
				p.printf(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke-width="2"/>`, to, at-4, to, at+4)
				p.printf(`<circle cx="%.1f" cy="%.1f" r="4.5"/></g>`+"\n", from, at)
				p.text(int(to)+7, int(at)+4, "soft", number(r.P50))
			}
			y += rowHeight
		}
	}
}

func class(contestant string) string {
	switch contestant {
	case Railyard, RailyardIPAM, RailyardInner:
		return "ours"
	case Upstream, HostLocal:
		return "peer"
	default:
		return "base"
	}
}

// decades are the powers of ten around all of rows.
func decades(rows []Result) (from, to float64) {
	low, high := math.Inf(1), math.Inf(-1)
	for _, r := range rows {
		low, high = min(low, r.P50), max(high, r.P99)
	}
	if len(rows) == 0 || low <= 0 {
		return 0.1, 1000
	}
	from, to = math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
	if from == to {
		to *= 10
	}
	return from, to
}

// present are those of order that have a row.
func present(rows []Result, order []string) []string {
	return slices.DeleteFunc(slices.Clone(order), func(name string) bool {
		return !slices.ContainsFunc(rows, func(r Result) bool { return r.Contestant == name })
	})
}
