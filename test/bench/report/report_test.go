// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/test/bench/measure"
)

var update = flag.Bool("update", false, "write the golden files")

var order = []string{Railyard, Upstream, Floor, FloorInside, EmptyExec}

// figures are p50 and p99 of ADD at one parallelism, in milliseconds.
func figures(parallel int, p50 map[string]float64) []Result {
	var rows []Result
	for _, verb := range []measure.Verb{measure.Add, measure.Del} {
		for _, c := range slices.Concat(order, []string{RailyardIPAM, HostLocal}) {
			if v, ok := p50[c]; ok {
				rows = append(rows, Result{Contestant: c, Parallel: parallel, Verb: verb, P50: v, P99: 3 * v, PerSecond: 1000 * float64(parallel) / v, CPU: v / 2, Samples: 200})
			}
		}
	}
	return rows
}

func sample() (attach, ipam File) {
	about := About{
		Machine: Machine{Name: "Some CPU, 2 cores, Linux 6.18", CPU: "Some CPU", Cores: 2, MemoryGB: 24.7, Kernel: "Linux 6.18 x86_64", Go: "go1.26.8", OS: "Debian"},
		Commit:  "0123456789ab", Started: "2026-11-24T03:00:00Z", Load: "0.00 0.01 0.05", Peers: map[string]string{"macvlan, host-local": "v1.9.1"},
	}
	rows := slices.Concat(
		figures(1, map[string]float64{Railyard: 4, Upstream: 1800, Floor: 3, FloorInside: 0.5, EmptyExec: 1.25}),
		figures(8, map[string]float64{Railyard: 40, Upstream: 2000, Floor: 11, FloorInside: 1, EmptyExec: 5}))
	attach = File{
		About: about, Results: rows, Bars: AttachBars("IPv4 and IPv6", rows),
		Variants: []Table{{Name: "v4", Title: "IPv4 only", Results: figures(1, map[string]float64{Railyard: 3, Upstream: 12})}},
		API: &API{Adds: 1000, Seconds: 20, Lines: []Demand{{Verb: "PUT", Resource: "ipblocks/status", Requests: 4, BytesIn: 123456, BytesOut: 1.5, Background: true}},
			Frozen: &Result{Samples: 100, P50: 5, P99: 9, Parallel: 8}},
		Memory:   &Memory{Leases: 10000, IdleRSS: 20, RSS: 40, PSS: 39, Peak: 61, LeasesPerS: 5000},
		Binaries: []Binary{{"railyard", 9.99}, {"railyard-ipam", 10}},
	}
	attach.Bars = append(attach.Bars, attach.API.Bar(), attach.Memory.Bar())
	attach.Bars = append(attach.Bars, BinaryBars(attach.Binaries, map[string]float64{"railyard": 10, "railyard-ipam": 10})...)
	ipam = File{About: about, Results: figures(1, map[string]float64{RailyardIPAM: 2, HostLocal: 4})}
	ipam.Bars = IPAMBars("IPv4 and IPv6", ipam.Results)
	return attach, ipam
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := WriteFile("testdata", name, got); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got; go test ./test/bench/report -update writes it):\n%s", path, diff)
	}
}

func TestMarkdown(t *testing.T) {
	attach, ipam := sample()
	page := Markdown(attach, ipam, "a.svg", "i.svg")
	figures, _, ok := bytes.Cut(page, []byte("## How it is measured"))
	if !ok {
		t.Error("the page does not say how it is measured")
	}
	golden(t, "benchmarks.md", figures)
}

func TestPlot(t *testing.T) {
	attach, _ := sample()
	svg := Plot("<ADD> & DEL", "some \"machine\"", attach.Results, order)
	golden(t, "attach.svg", svg)
	for name, image := range map[string][]byte{"full": svg, "empty": Plot("", "", nil, nil)} {
		d := xml.NewDecoder(bytes.NewReader(image))
		depth, circles := 0, 0
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			switch e := token.(type) {
			case xml.StartElement:
				depth++
				if e.Name.Local == "circle" {
					circles++
				}
			case xml.EndElement:
				depth--
			}
		}
		if want := map[string]int{"full": len(attach.Results)}[name]; circles != want || depth != 0 {
			t.Errorf("%s: %d dots at depth %d, want %d at 0", name, circles, depth, want)
		}
	}
}

// TestJSONShape keeps the keys that others read.
func TestJSONShape(t *testing.T) {
	attach, _ := sample()
	dir := t.TempDir()
	if err := WriteJSON(dir, "attach.json", attach); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "attach.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Machine map[string]any
		Results []map[string]any
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.Machine["name"] == nil || len(got.Results) != len(attach.Results) {
		t.Fatalf("machine or results are missing: %s", b)
	}
	want := map[string]any{
		"contestant": "railyard", "parallel": 1.0, "verb": "ADD", "p50_ms": 4.0, "p99_ms": 12.0, "per_second": 250.0,
		"cpu_ms": 2.0, "samples": 200.0,
	}
	if diff := cmp.Diff(want, got.Results[0]); diff != "" {
		t.Errorf("first result (-want +got):\n%s", diff)
	}
}

func TestBars(t *testing.T) {
	verdicts := func(bars []Bar) map[string]bool {
		m := map[string]bool{}
		for _, b := range bars {
			if !b.Reading {
				name, _, _ := strings.Cut(b.Name, " (IPv")
				m[name] = b.Pass
			}
		}
		return m
	}
	rows := figures(1, map[string]float64{Railyard: 5.5, Upstream: 5.4, Floor: 3, FloorInside: 1, EmptyExec: 1})
	want := map[string]bool{"ADD p50 at most 1.5 × floor + one exec": true, "ADD p50 not slower than macvlan+host-local": false}
	if diff := cmp.Diff(want, verdicts(AttachBars("IPv4", rows))); diff != "" {
		t.Errorf("1 parallel (-want +got):\n%s", diff)
	}
	rows = figures(8, map[string]float64{Railyard: 30, Upstream: 30, Floor: 10, FloorInside: 1, EmptyExec: 5})
	want = map[string]bool{"ADD p50 at most 1.5 × floor + one exec": false, "ADD p50 not slower than macvlan+host-local": true}
	if diff := cmp.Diff(want, verdicts(AttachBars("IPv4", rows))); diff != "" {
		t.Errorf("8 parallel (-want +got):\n%s", diff)
	}
	api := API{Lines: []Demand{{Requests: 5, Background: true}, {Requests: 0}}}
	if !api.Bar().Pass {
		t.Error("requests of a timer count as on the way")
	}
	api.Lines = append(api.Lines, Demand{Requests: 1})
	if api.Bar().Pass {
		t.Error("a request on the way passes")
	}
	if (Memory{RSS: 60}).Bar().Pass || !(Memory{RSS: 59.9}).Bar().Pass {
		t.Error("60 MB must miss, 59.9 pass")
	}
}

func TestResults(t *testing.T) {
	all := map[measure.Key]*measure.Samples{
		{Contestant: "b", Parallel: 1, Verb: measure.Add}: {Latency: []time.Duration{3456789 * time.Nanosecond}, Wall: time.Second},
		{Contestant: "a", Parallel: 8, Verb: measure.Add}: {Latency: []time.Duration{time.Second}, Wall: time.Second},
		{Contestant: "a", Parallel: 1, Verb: measure.Add}: {Latency: []time.Duration{time.Second}, Wall: time.Second},
		{Contestant: "a", Parallel: 1, Verb: measure.Del}: {Latency: []time.Duration{time.Second}, Wall: time.Second},
	}
	got := Results(all, []string{"b", "a"})
	want := []Result{
		{Contestant: "b", Parallel: 1, Verb: measure.Add, P50: 3.457, P99: 3.457, PerSecond: 1, Samples: 1},
		{Contestant: "a", Parallel: 1, Verb: measure.Add, P50: 1000, P99: 1000, PerSecond: 1, Samples: 1},
		{Contestant: "a", Parallel: 8, Verb: measure.Add, P50: 1000, P99: 1000, PerSecond: 1, Samples: 1},
		{Contestant: "a", Parallel: 1, Verb: measure.Del, P50: 1000, P99: 1000, PerSecond: 1, Samples: 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Results (-want +got):\n%s", diff)
	}
}

func TestNumber(t *testing.T) {
	for f, want := range map[float64]string{
		0: "0", 0.0123: "0.0123", 0.5: "0.500", 1.234: "1.23", 12.34: "12.3", 123.4: "123", 1234.5: "1,235", 1234567: "1,234,567", 99.99: "100.0",
	} {
		if got := number(f); got != want {
			t.Errorf("number(%v) = %s, want %s", f, got, want)
		}
	}
}
