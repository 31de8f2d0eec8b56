// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func fleet(nodes int) Fleet {
	requests := func(status, watched int64) map[string]Requests {
		return map[string]Requests{
			"GET": {N: 5, Failed: 1, Bytes: 5000}, "WATCH": {N: 3, Bytes: watched}, "PUT status": {N: status, Bytes: 10 * watched, Write: true},
		}
	}
	adds := 60 * nodes
	return Fleet{
		Nodes: nodes, PodsPerNode: 100, Seconds: 600, IdleHeap: 500_000, LeasedHeap: 700_000,
		OutageAdds: adds, OutageSeconds: 120, ServedAfter: 2, WatchedAfter: 31, LargestBlock: 14_000, LargestPool: 1500, Capacity: 64 * nodes,
		Phases: []Phase{
			{Name: "start of all agents", Seconds: 2, Requests: requests(0, 1000)},
			{Name: "storm", Seconds: 3, Adds: 100 * nodes, PerSecond: 3000, P50: 0.05, P99: 20, Max: 900, Requests: requests(int64(2*nodes), 1000)},
			{Name: "steady churn", Seconds: 120, Adds: adds, PerSecond: float64(nodes) / 2, P50: 0.1, P99: 4, Max: 9, Requests: requests(int64(adds/40), int64(400*adds)), PoolWrites: 4},
			{Name: "churn at 99 %", Seconds: 30, Adds: 100, PerSecond: 3, P50: 20, P99: 400, Max: 800, Refused: 2, Requests: requests(300, 1000)},
			{Name: "flat out", Seconds: 5, Adds: 20_000, PerSecond: 4000, P50: 0.05, P99: 1, Max: 5, Requests: requests(1, 1000)},
			{Name: "one node flat out", Seconds: 2.5, Adds: 10_000, PerSecond: 4000, P50: 0.05, P99: 1, Max: 5, Requests: requests(1, 1000)},
		},
	}
}

func scaleSample() Scale {
	attach, _ := sample()
	s := Scale{About: attach.About, Settings: ScaleSettings{Pods: 100, Rate: 0.5, Steady: 120, Outage: 120, BlockSize: 64}, Fleets: []Fleet{fleet(10), fleet(100), fleet(1000)}}
	s.Peers = nil
	s.Bars = s.Judge()
	return s
}

func TestScalePage(t *testing.T) {
	golden(t, "benchmarks-scale.md", scaleSample().Markdown())
}

func TestScalePlot(t *testing.T) {
	s := scaleSample()
	svg := s.Plot()
	golden(t, "scale.svg", svg)
	one := s
	one.Fleets = s.Fleets[:1]
	for _, text := range []string{string(svg), string(one.Plot()), string(Scale{Fleets: []Fleet{{Nodes: 10}}}.Plot())} {
		for d := xml.NewDecoder(strings.NewReader(text)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
			t.Error("a figure is no number")
		}
	}
}

// TestScaleBars: each bar can be missed, and only by what it is about.
func TestScaleBars(t *testing.T) {
	for name, spoil := range map[string]func(*Scale){
		"":                      func(*Scale) {},
		"writes per ADD in":     func(s *Scale) { s.Fleets[2].Phases[2].PoolWrites += 10_000 },
		"writes per ADD over":   func(s *Scale) { s.Fleets[1].Phases[0].PoolWrites += 10_000 },
		"the largest object":    func(s *Scale) { s.Fleets[0].LargestPool = 100_001 },
		"nobody could have":     func(s *Scale) { s.Fleets[0].NotHandedOut = 1 },
		"answered twice":        func(s *Scale) { s.Fleets[1].Duplicates = 1 },
		"leaked":                func(s *Scale) { s.Fleets[2].Leaks = 1 },
		"API server was away":   func(s *Scale) { s.Fleets[2].OutageRefused = 1 },
		"watch bytes per ADD w": func(s *Scale) { s.Fleets[2].Phases[2].Requests["WATCH"] = Requests{Bytes: 40_000_000} },
	} {
		s := scaleSample()
		spoil(&s)
		var missed []string
		for _, b := range s.Judge() {
			if !b.Pass {
				missed = append(missed, b.Name)
				if line := b.Line(); !strings.HasPrefix(line, "FALLS SHORT") {
					t.Errorf("%s: line %q", name, line)
				}
			}
		}
		wrong := slices.ContainsFunc(missed, func(m string) bool { return name == "" || !strings.Contains(m, name) })
		if wrong && name != "writes per ADD in" || name != "" && len(missed) == 0 { // steady churn is a part of the whole
			t.Errorf("%q: missed %q", name, missed)
		}
	}
}
