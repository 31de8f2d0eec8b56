// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
)

var (
	seeds   = flag.Uint64("seeds", 24, "how many seeds to run")
	first   = flag.Uint64("first", 0, "the first of them")
	seed    = flag.Int64("seed", -1, "run this one alone, and show what happened")
	actions = flag.String("actions", "", "with -seed: do only these of its actions, as numbers with commas between")
	calm    = flag.Bool("calm", false, "with -seed: without faults of requests")
	replays = flag.Uint64("replays", 12, "how many seeds to run several times and compare")
	shrink  = flag.Duration("shrink", 2*time.Minute, "how long to look for a smaller plan that fails")
)

func TestMain(m *testing.M) {
	ctrllog.SetLogger(logr.Discard())
	klog.SetOutput(io.Discard)
	klog.LogToStderr(false)
	os.Exit(m.Run())
}

// TestWork is what a worker does, in a worker process from its input, and else once.
func TestWork(t *testing.T) {
	run := func(p Plan, whole bool) (r Result) {
		synctest.Test(t, func(*testing.T) { r = Run(p, Options{Whole: whole}) })
		return r
	}
	if os.Getenv(workerEnv) != "" {
		if err := Work(os.Stdin, os.Stdout, run); err != nil {
			t.Error(err)
		}
		return
	}
	var out strings.Builder
	err := Work(strings.NewReader(`{"Seed":3,"Keep":[0,1,2],"Calm":true}`), &out, run)
	var r Report
	if err := errors.Join(err, json.Unmarshal([]byte(out.String()), &r)); err != nil || r.Seed != 3 || r.Failure != "" || r.Stats.Steps == 0 {
		t.Errorf("the report is %+v, %v; want a run of seed 3 without a failure", r, err)
	}
}

func fleet() Fleet {
	return Fleet{Binary: os.Args[0], Workers: runtime.GOMAXPROCS(0)}
}

// TestSeeds runs clusters; "make sim" is this test alone.
func TestSeeds(t *testing.T) {
	f := fleet()
	if *seed >= 0 {
		r, err := f.Do(Job{Seed: uint64(*seed), Keep: keep(t), Calm: *calm})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("seed %d: %+v, sum %x\n", r.Seed, r.Stats, r.Sum)
		if r.Failure != "" {
			t.Error(tell(r))
		}
		return
	}
	began, shown := time.Now(), time.Now()
	var n uint64
	var sum Stats
	var failed *Report
	err := f.Run(t.Context(), *first, *seeds, func(r Report) bool {
		n++
		sum.add(r.Stats)
		if time.Since(shown) > 5*time.Second {
			shown = time.Now()
			fmt.Printf("%6d of %d seeds, %.1f/s\n", n, *seeds, float64(n)/time.Since(began).Seconds())
		}
		if r.Failure != "" {
			failed = &r
		}
		return r.Failure != ""
	})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%d seeds in %v, %.1f/s: %+v\n", n, time.Since(began).Round(time.Second), float64(n)/time.Since(began).Seconds(), sum)
	if failed == nil {
		return
	}
	fmt.Printf("seed %d fails, looking for less that does:\n%s\n", failed.Seed, failed.Failure)
	ctx, cancel := context.WithTimeout(t.Context(), *shrink)
	defer cancel()
	t.Error(tell(f.Shrink(ctx, *failed)))
}

func keep(t *testing.T) []int {
	if *actions == "" {
		return nil
	}
	out := []int{}
	for _, text := range strings.Split(*actions, ",") {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("-actions: %v", err)
		}
		out = append(out, n)
	}
	return out
}

// tell is what a person needs who is to find out why.
func tell(r Report) string {
	var b strings.Builder
	p := r.Plan()
	fmt.Fprintf(&b, "seed %d fails: %s\n\n%d nodes, pools %+v, times %+v, faults %+v\n", r.Seed, r.Failure, p.Nodes, p.Pools, p.Times, p.Faults)
	for _, a := range p.Actions {
		fmt.Fprintln(&b, "  ", a)
	}
	fmt.Fprintln(&b, "\nthe last of what happened:")
	for _, line := range r.Trace[max(0, len(r.Trace)-80):] {
		fmt.Fprintln(&b, line)
	}
	fmt.Fprintf(&b, "\nagain: %s\n", r.Command())
	return b.String()
}

// TestReplay: a run is the same, to the last step, in another process, with one thread or with several that take turns as they like, and
// with a garbage collector that is always at work.
func TestReplay(t *testing.T) {
	first := replay(t, *replays, "GOMAXPROCS=1")
	for name, env := range map[string][]string{"threads": {"GOMAXPROCS=4"}, "garbage": {"GOMAXPROCS=2", "GOGC=5"}} {
		t.Run(name, func(t *testing.T) {
			for seed, r := range replay(t, *replays, env...) {
				if r.Sum != first[seed].Sum || r.Stats != first[seed].Stats {
					t.Errorf("seed %d went another way when it was run again: %s", seed, parting(first[seed].Trace, r.Trace))
				}
			}
		})
	}
}

// replay runs the first seeds and gives their reports, each with all that happened. One that fails is to fail alike.
func replay(t *testing.T, seeds uint64, env ...string) map[uint64]Report {
	t.Helper()
	out := map[uint64]Report{}
	f := fleet()
	f.Env, f.Whole = env, true
	if err := f.Run(t.Context(), *first, seeds, func(r Report) bool {
		out[r.Seed] = r
		return false
	}); err != nil {
		t.Fatal(err)
	}
	if uint64(len(out)) != seeds {
		t.Fatalf("%d of %d seeds were run", len(out), seeds)
	}
	return out
}

// parting shows where two runs part.
func parting(a, b []string) string {
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	around := func(x []string) string { return strings.Join(x[max(0, i-10):min(i+5, len(x))], "\n") }
	return fmt.Sprintf("line %d of %d and %d\n%s\n\nand\n\n%s", i, len(a), len(b), around(a), around(b))
}
