// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package report turns what the benchmark measured into its files: JSON for programs, Markdown and SVG for people, and the
// bars that the project has set itself.
package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/renameio/v2"

	"github.com/railyard-net/railyard/test/bench/measure"
)

// Machine is where the figures were taken.
type Machine struct {
	Name     string  `json:"name"`
	CPU      string  `json:"cpu"`
	Cores    int     `json:"cores"`
	MemoryGB float64 `json:"memory_gb"`
	Kernel   string  `json:"kernel"`
	Go       string  `json:"go"`
	OS       string  `json:"os"`
}

// Result is one row: a contestant at one parallelism and verb.
type Result struct {
	Contestant string       `json:"contestant"`
	Parallel   int          `json:"parallel"`
	Verb       measure.Verb `json:"verb"`
	P50        float64      `json:"p50_ms"`
	P99        float64      `json:"p99_ms"`
	PerSecond  float64      `json:"per_second"`
	// CPU is the mean processor time of the processes started for one job, kernel included; 0 where none is.
	CPU     float64 `json:"cpu_ms"`
	Samples int     `json:"samples"`
}

// Table is the results under one set of circumstances.
type Table struct {
	Name    string   `json:"name"`
	Title   string   `json:"title"`
	Results []Result `json:"results"`
}

// About says what was measured, and when.
type About struct {
	Machine Machine           `json:"machine"`
	Commit  string            `json:"commit"`
	Started string            `json:"started"`
	Load    string            `json:"load_average"` // at the start
	Peers   map[string]string `json:"peers"`
	Short   bool              `json:"short"`
}

// File is the content of attach.json or ipam.json. Results is the table that counts; the variants are the same job under other
// circumstances.
type File struct {
	About
	Results  []Result `json:"results"`
	Variants []Table  `json:"variants,omitempty"`
	Bars     []Bar    `json:"bars"`
	API      *API     `json:"api,omitempty"`
	Memory   *Memory  `json:"memory,omitempty"`
	Binaries []Binary `json:"binaries,omitempty"`
}

// API is what the API server counted while attachments were made and removed, less what it counted in as much idle time.
type API struct {
	Adds    int      `json:"adds"`
	Seconds float64  `json:"seconds"`
	Lines   []Demand `json:"per_1000_adds"`
	// Frozen tells of ADDs that were made while the API server was stopped.
	Frozen *Result `json:"with_api_server_stopped,omitempty"`
}

// Demand is one kind of request, per 1,000 ADDs.
type Demand struct {
	Verb     string  `json:"verb"`
	Resource string  `json:"resource"` // with the subresource, if any
	Requests float64 `json:"requests"`
	BytesIn  float64 `json:"request_bytes"`
	BytesOut float64 `json:"response_bytes"`
	// Background is true for what a timer causes and no ADD waits for or makes more of.
	Background bool `json:"background"`
}

// Memory is the agent's, in MB of 1,000,000 bytes.
type Memory struct {
	Leases     int     `json:"leases"`
	IdleRSS    float64 `json:"idle_rss_mb"`
	RSS        float64 `json:"rss_mb"`
	PSS        float64 `json:"pss_mb"`
	Peak       float64 `json:"peak_rss_mb"`
	LeasesPerS float64 `json:"leases_per_second"`
}

// Binary is a program's size.
type Binary struct {
	Name string  `json:"name"`
	MB   float64 `json:"mb"`
}

// Results makes rows of samples, sorted by verb, parallelism and the order of the contestants.
func Results(all map[measure.Key]*measure.Samples, order []string) []Result {
	var rows []Result
	for k, s := range all {
		rows = append(rows, Result{
			Contestant: k.Contestant, Parallel: k.Parallel, Verb: k.Verb,
			P50: round(s.Quantile(0.50)), P99: round(s.Quantile(0.99)), PerSecond: round(s.PerSecond()),
			CPU: round(s.CPUMilliseconds()), Samples: len(s.Latency),
		})
	}
	slices.SortFunc(rows, func(a, b Result) int {
		return cmp.Or(cmp.Compare(a.Verb, b.Verb), cmp.Compare(a.Parallel, b.Parallel),
			cmp.Compare(slices.Index(order, a.Contestant), slices.Index(order, b.Contestant)))
	})
	return rows
}

// round keeps four significant digits: more would only look exact.
func round(f float64) float64 {
	if f == 0 || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0
	}
	scale := math.Pow(10, 4-math.Ceil(math.Log10(math.Abs(f))))
	return math.Round(f*scale) / scale
}

// find returns the row of a contestant.
func find(rows []Result, contestant string, parallel int, verb measure.Verb) (Result, bool) {
	i := slices.IndexFunc(rows, func(r Result) bool {
		return r.Contestant == contestant && r.Parallel == parallel && r.Verb == verb
	})
	if i < 0 {
		return Result{}, false
	}
	return rows[i], true
}

// parallels are the parallelisms in rows, ascending.
func parallels(rows []Result) []int {
	var ps []int
	for _, r := range rows {
		ps = append(ps, r.Parallel)
	}
	slices.Sort(ps)
	return slices.Compact(ps)
}

// WriteJSON puts v into dir/name, whole or not at all.
func WriteJSON(dir, name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return WriteFile(dir, name, append(b, '\n'))
}

// WriteFile puts b into dir/name, whole or not at all.
func WriteFile(dir, name string, b []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, name), b, 0o644)
}
