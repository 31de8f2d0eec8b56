// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"fmt"
	"slices"
)

// Scale is what whole clusters of agents cost: scale.json.
type Scale struct {
	About
	Settings ScaleSettings `json:"settings"`
	Fleets   []Fleet       `json:"fleets"` // by nodes
	Bars     []Bar         `json:"bars"`
}

// ScaleSettings are what the runs have in common; times in seconds.
type ScaleSettings struct {
	Pods      int     `json:"pods_per_node"`
	Rate      float64 `json:"pods_replaced_per_second_and_node"`
	Steady    float64 `json:"steady_seconds"`
	Outage    float64 `json:"outage_seconds"`
	BlockSize int     `json:"block_size"`
}

// Fleet is one run, with so many nodes.
type Fleet struct {
	Nodes       int     `json:"nodes"`
	PodsPerNode int     `json:"pods_per_node"`
	Seconds     float64 `json:"seconds"`
	Phases      []Phase `json:"phases"`
	// IdleHeap and LeasedHeap are bytes for each agent, without and with leases.
	IdleHeap   int64 `json:"idle_heap_bytes"`
	LeasedHeap int64 `json:"leased_heap_bytes"`
	// OutageAdds were made without an API server, OutageRefused refused.
	OutageAdds    int     `json:"outage_adds"`
	OutageRefused int     `json:"outage_refused"`
	OutageSeconds float64 `json:"outage_seconds"`
	// ServedAfter and WatchedAfter are seconds from the API server's return until the last waiting pod had an address from a new
	// block, and until the last watch was there.
	ServedAfter  float64 `json:"served_after_seconds"`
	WatchedAfter float64 `json:"watched_after_seconds"`
	// LargestBlock and LargestPool are bytes of JSON, as etcd stores it.
	LargestBlock int64 `json:"largest_block_bytes"`
	LargestPool  int64 `json:"largest_pool_bytes"`
	// Capacity is that of the pool that was filled, NotHandedOut what nobody got of it.
	Capacity     int `json:"capacity"`
	NotHandedOut int `json:"not_handed_out"`
	Duplicates   int `json:"duplicates"`
	Leaks        int `json:"leaks"`
}

// Phase is a part of a run.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	Adds    int     `json:"adds"`
	// Refused are answers to ADDs that said try again.
	Refused   int     `json:"refused"`
	PerSecond float64 `json:"adds_per_second"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	Max       float64 `json:"max_ms"`
	// Requests are those of all agents, by verb.
	Requests map[string]Requests `json:"requests"`
	// PoolWrites are the controller's.
	PoolWrites int64 `json:"pool_writes"`
	// Wire is bytes that the agents received, with TLS and headers.
	Wire int64 `json:"wire_bytes"`
}

// Requests are those of one kind. Bytes are of the answers' bodies.
type Requests struct {
	N      int64 `json:"n"`
	Failed int64 `json:"failed"`
	Bytes  int64 `json:"bytes"`
	Write  bool  `json:"write"`
}

// Writes are the requests that change something, or were meant to: the agents' and the controller's.
func (p Phase) Writes() int64 {
	n := p.PoolWrites
	for _, r := range p.Requests {
		if r.Write {
			n += r.N
		}
	}
	return n
}

func (p Phase) perADD(n int64) float64 {
	if p.Adds == 0 {
		return 0
	}
	return float64(n) / float64(p.Adds)
}

// Line is p for people.
func (p Phase) Line() string {
	s := fmt.Sprintf("%.1f s, %d ADDs, %s a second, p50 %s ms, p99 %s ms, longest %s ms, %d refused;", p.Seconds, p.Adds, number(p.PerSecond),
		number(p.P50), number(p.P99), number(p.Max), p.Refused)
	for _, verb := range []string{"GET", "LIST", "WATCH", "POST", "PUT", "PUT status", "DELETE"} {
		if r, ok := p.Requests[verb]; ok {
			s += fmt.Sprintf(" %s %d", verb, r.N)
			if r.Failed > 0 {
				s += fmt.Sprintf(" (%d failed)", r.Failed)
			}
			s += fmt.Sprintf(" %s kB;", number(float64(r.Bytes)/1000))
		}
	}
	return s + fmt.Sprintf(" controller %d; writes per ADD %.4f, watch bytes per ADD %s", p.PoolWrites, p.perADD(p.Writes()), number(p.perADD(p.Requests["WATCH"].Bytes)))
}

// phase is that of the name, or one without anything.
func (f Fleet) phase(name string) Phase {
	i := slices.IndexFunc(f.Phases, func(p Phase) bool { return p.Name == name })
	if i < 0 {
		return Phase{}
	}
	return f.Phases[i]
}

// Whole is the sum of all phases.
func (f Fleet) Whole() Phase {
	w := Phase{Name: "the whole scenario", Seconds: f.Seconds, Requests: map[string]Requests{}}
	for _, p := range f.Phases {
		w.Adds, w.Refused, w.PoolWrites, w.Wire = w.Adds+p.Adds, w.Refused+p.Refused, w.PoolWrites+p.PoolWrites, w.Wire+p.Wire
		for verb, r := range p.Requests {
			sum := w.Requests[verb]
			w.Requests[verb] = Requests{sum.N + r.N, sum.Failed + r.Failed, sum.Bytes + r.Bytes, r.Write}
		}
	}
	return w
}

// Bounds of the project for a cluster.
const (
	mostWrites = 0.05
	// mostGrowth is how much more watch bytes per ADD may be with the most nodes than with a tenth of them, for noise.
	mostGrowth = 1.25
	mostObject = 100_000
	// manyNodes is from where growth counts: with a few nodes what all share is not shared by many.
	manyNodes = 100
)

// Judge gives the bars and how they went.
func (s Scale) Judge() []Bar {
	var bars []Bar
	for _, f := range s.Fleets {
		at := fmt.Sprintf(" (%d nodes)", f.Nodes)
		steady, whole := f.phase("steady churn"), f.Whole()
		bars = append(bars,
			newBar("API writes per ADD in steady churn under 0.05"+at, steady.perADD(steady.Writes()), mostWrites, "writes"),
			newBar("API writes per ADD over the whole scenario under 0.05"+at, whole.perADD(whole.Writes()), mostWrites, "writes"),
			newBar("the largest object under 100 kB"+at, float64(max(f.LargestBlock, f.LargestPool)), mostObject, "bytes"),
			newBar("addresses of a pool that nobody could have"+at, float64(f.NotHandedOut), 0, "addresses"),
			newBar("addresses owned, leased or answered twice"+at, float64(f.Duplicates), 0, "addresses"),
			newBar("addresses that leaked"+at, float64(f.Leaks), 0, "addresses"),
			newBar("ADDs refused while the API server was away"+at, float64(f.OutageRefused), 0, "ADDs"))
	}
	if s.Short {
		for i := range bars {
			bars[i].Reading = bars[i].Reading || bars[i].Limit == mostWrites // too short to be steady
		}
	}
	many := slices.DeleteFunc(slices.Clone(s.Fleets), func(f Fleet) bool { return f.Nodes < manyNodes })
	slices.SortFunc(many, func(a, b Fleet) int { return cmp.Compare(a.Nodes, b.Nodes) })
	if len(many) > 1 {
		first, last := many[0], many[len(many)-1]
		bytes := func(f Fleet) float64 { p := f.phase("steady churn"); return p.perADD(p.Requests["WATCH"].Bytes) }
		bars = append(bars, newBar(fmt.Sprintf("watch bytes per ADD with %d nodes, by those with %d", last.Nodes, first.Nodes), bytes(last)/bytes(first), mostGrowth, "times"))
	}
	return bars
}

// Line is b for people.
func (b Bar) Line() string {
	verdict := "pass"
	if !b.Pass {
		verdict = "FALLS SHORT"
	}
	if b.Reading {
		verdict += " (for comparison)"
	}
	return fmt.Sprintf("%-12s %s: %s %s, limit %s", verdict, b.Name, number(b.Measured), b.Unit, number(b.Limit))
}
