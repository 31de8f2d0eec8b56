// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"

	"github.com/railyard-net/railyard/test/bench/measure"
)

// The contestants.
const (
	Railyard      = "railyard"
	Upstream      = "macvlan+host-local"
	Floor         = "floor"
	FloorInside   = "floor-in-process"
	EmptyExec     = "empty-exec"
	RailyardIPAM  = "railyard-ipam"
	RailyardInner = "railyard-in-process"
	HostLocal     = "host-local"
)

// Bar is a limit that the project has set itself, and how it went.
type Bar struct {
	Name string `json:"name"`
	// Measured and Limit are in Unit; Ratio is Measured by Limit, or 0 where the limit is zero.
	Measured float64 `json:"measured"`
	Limit    float64 `json:"limit"`
	Unit     string  `json:"unit"`
	Ratio    float64 `json:"ratio"`
	Pass     bool    `json:"pass"`
	// Reading is true for another reading of a bar than the one that counts: it is shown, and fails nothing.
	Reading bool `json:"reading,omitempty"`
}

func newBar(name string, measured, limit float64, unit string) Bar {
	b := Bar{Name: name, Measured: round(measured), Limit: round(limit), Unit: unit, Pass: measured <= limit}
	if limit != 0 {
		b.Ratio = round(measured / limit)
	}
	return b
}

// AttachBars are those on the whole attachment.
//
// In "1.5 times the floor plus one exec" the floor is the program that does the netlink work and nothing else. Two stricter
// readings, with the same work in a process that runs already, are shown for one at a time, beside how the floor as a program does
// by the milder of them. With several at once, the sum of two medians that were taken apart is nobody's time.
func AttachBars(title string, rows []Result) []Bar {
	var bars []Bar
	for _, p := range parallels(rows) {
		ours, ok := find(rows, Railyard, p, measure.Add)
		if !ok {
			continue
		}
		at := fmt.Sprintf(" (%s, %d parallel)", title, p)
		bars = append(bars, floorBars(rows, ours, at)...)
		if peer, ok := find(rows, Upstream, p, measure.Add); ok {
			bars = append(bars, newBar("ADD p50 not slower than "+Upstream+at, ours.P50, peer.P50, "ms"))
		}
	}
	return bars
}

func floorBars(rows []Result, ours Result, at string) []Bar {
	inside, ok1 := find(rows, FloorInside, ours.Parallel, measure.Add)
	program, ok2 := find(rows, Floor, ours.Parallel, measure.Add)
	exec, ok3 := find(rows, EmptyExec, ours.Parallel, measure.Add)
	if !ok1 || !ok2 || !ok3 {
		return nil
	}
	bars := []Bar{newBar("ADD p50 at most 1.5 × floor + one exec"+at, ours.P50, 1.5*program.P50+exec.P50, "ms")}
	if ours.Parallel > 1 {
		return bars
	}
	for _, b := range []Bar{
		newBar("ADD p50 at most 1.5 × (floor in process + one exec)"+at, ours.P50, 1.5*(inside.P50+exec.P50), "ms"),
		newBar("the same, of the floor itself as a program"+at, program.P50, 1.5*(inside.P50+exec.P50), "ms"),
		newBar("ADD p50 at most 1.5 × floor in process, + one exec"+at, ours.P50, 1.5*inside.P50+exec.P50, "ms"),
	} {
		b.Reading = true
		bars = append(bars, b)
	}
	return bars
}

// IPAMBars are those on the IPAM alone.
func IPAMBars(title string, rows []Result) []Bar {
	var bars []Bar
	for _, verb := range []measure.Verb{measure.Add, measure.Del} {
		for _, p := range parallels(rows) {
			ours, ok1 := find(rows, RailyardIPAM, p, verb)
			peer, ok2 := find(rows, HostLocal, p, verb)
			if ok1 && ok2 {
				bars = append(bars, newBar(fmt.Sprintf("IPAM %s p50 not slower than host-local (%s, %d parallel)", verb, title, p), ours.P50, peer.P50, "ms"))
			}
		}
	}
	return bars
}

// Bar says how many requests of 1,000 ADDs were on their way, which must be none.
func (a API) Bar() Bar {
	sum := 0.0
	for _, d := range a.Lines {
		if !d.Background {
			sum += max(d.Requests, 0)
		}
	}
	return newBar("API requests on the way of 1,000 ADDs and DELs", sum, 0, "requests")
}

// Bar compares the resident memory with its limit.
func (m Memory) Bar() Bar {
	b := newBar(fmt.Sprintf("agent's resident memory with %d leases under 60 MB", m.Leases), m.RSS, 60, "MB")
	b.Pass = m.RSS < 60
	return b
}

// BinaryBars are those on sizes; they hold for the programs in limit.
func BinaryBars(binaries []Binary, limit map[string]float64) []Bar {
	var bars []Bar
	for _, bin := range binaries {
		if mb, ok := limit[bin.Name]; ok {
			b := newBar(fmt.Sprintf("size of %s under %g MB", bin.Name, mb), bin.MB, mb, "MB")
			b.Pass = bin.MB < mb
			bars = append(bars, b)
		}
	}
	return bars
}
