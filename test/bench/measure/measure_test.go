// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestQuantile(t *testing.T) {
	upTo := func(n int) []time.Duration {
		var d []time.Duration
		for i := n; i > 0; i-- { // unsorted on purpose
			d = append(d, time.Duration(i)*time.Millisecond)
		}
		return d
	}
	for name, test := range map[string]struct {
		latency []time.Duration
		q, want float64
	}{
		"one":                {upTo(1), 0.99, 1},
		"median of two":      {upTo(2), 0.50, 1},
		"median of three":    {upTo(3), 0.50, 2},
		"p99 of hundred":     {upTo(100), 0.99, 99},
		"p99 of hundred one": {upTo(101), 0.99, 100},
		"p99 of few":         {upTo(20), 0.99, 20},
		"zero":               {upTo(5), 0, 1},
		"all":                {upTo(5), 1, 5},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (&Samples{Latency: test.latency}).Quantile(test.q); got != test.want {
				t.Errorf("Quantile(%v) = %v, want %v", test.q, got, test.want)
			}
		})
	}
	if got := (&Samples{}).Quantile(0.5); !math.IsNaN(got) {
		t.Errorf("Quantile of nothing = %v, want NaN", got)
	}
}

func TestRates(t *testing.T) {
	s := Samples{Latency: make([]time.Duration, 10), Wall: 2 * time.Second, CPU: 50 * time.Millisecond}
	if s.PerSecond() != 5 || s.CPUMilliseconds() != 5 {
		t.Errorf("PerSecond, CPUMilliseconds = %v, %v, want 5, 5", s.PerSecond(), s.CPUMilliseconds())
	}
}

// TestRunTakesTurns sees to it that rounds interleave, that the warm-up is verified and not recorded, and that no more than
// the parallelism run at a time.
func TestRunTakesTurns(t *testing.T) {
	var mu sync.Mutex
	var turns []string
	var running, most atomic.Int64
	contestant := func(name string, batch int) Contestant {
		return Contestant{Name: name, Batch: batch, Do: func(_ context.Context, verb Verb, job Job) (time.Duration, error) {
			n := running.Add(1)
			defer running.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			mu.Lock()
			defer mu.Unlock()
			if job.Slot == 0 {
				turns = append(turns, name+" "+string(verb))
			}
			return time.Millisecond, nil
		}}
	}
	id := 0
	verified := 0
	all, err := Run(t.Context(), Round{Parallel: 3, Batch: 7, Turns: 2, Verify: func(Contestant, Verb, Job) error {
		verified++
		return nil
	}}, []Contestant{contestant("a", 0), contestant("b", 4)}, func() string { id++; return fmt.Sprint(id) })
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"a ADD", "a DEL", "b ADD", "b DEL", "b ADD", "b DEL", "a ADD", "a DEL", "a ADD", "a DEL", "b ADD", "b DEL"}
	if diff := cmp.Diff(want, turns); diff != "" {
		t.Errorf("turns (-want +got):\n%s", diff)
	}
	if got := len(all[Key{"a", 3, Add}].Latency); got != 14 {
		t.Errorf("a has %d samples, want 14", got)
	}
	if got := len(all[Key{"b", 3, Del}].Latency); got != 8 {
		t.Errorf("b has %d samples, want 8", got)
	}
	if all[Key{"a", 3, Add}].CPU != 14*time.Millisecond {
		t.Errorf("CPU of a = %v, want 14ms", all[Key{"a", 3, Add}].CPU)
	}
	if verified != 2*(7+4) {
		t.Errorf("verified %d times, want 22", verified)
	}
	if most.Load() > 3 {
		t.Errorf("%d ran at once, want at most 3", most.Load())
	}
}

func TestRunEndsOnError(t *testing.T) {
	broken := errors.New("broken")
	c := Contestant{Name: "c", Do: func(_ context.Context, verb Verb, _ Job) (time.Duration, error) {
		if verb == Del {
			return 0, broken
		}
		return 0, nil
	}}
	if _, err := Run(t.Context(), Round{Parallel: 2, Batch: 4, Turns: 1}, []Contestant{c}, func() string { return "" }); !errors.Is(err, broken) {
		t.Errorf("Run = %v, want %v", err, broken)
	}
}

func TestProgram(t *testing.T) {
	out, cpu, err := Program(t.Context(), "/bin/sh", []string{"-c", "cat; echo $X"}, []string{"X=env"}, []byte("in "))
	if err != nil || string(out) != "in env\n" {
		t.Errorf("Program = %q, %v", out, err)
	}
	if cpu <= 0 {
		t.Errorf("cpu = %v, want more than 0", cpu)
	}
	if _, _, err := Program(t.Context(), "/bin/sh", []string{"-c", "echo why >&2; exit 3"}, nil, nil); err == nil || err.Error() != "/bin/sh: exit status 3: why" {
		t.Errorf("Program = %v, want what it said", err)
	}
}
