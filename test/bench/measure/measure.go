// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package measure times contestants against each other: the same jobs, at the same parallelism, in rounds in which every
// contestant has its turn, so that whatever the machine does meanwhile meets all of them alike.
package measure

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Verb is what is timed.
type Verb string

// The verbs of a job, in their order.
const (
	Add Verb = "ADD"
	Del Verb = "DEL"
)

// Job is one attachment. Slot numbers the pod that it is for; no two jobs under way have the same.
type Job struct {
	ID   string
	Slot int
}

// Contestant does jobs.
type Contestant struct {
	Name string
	// Do carries one out, and says how much processor time it took where it can know.
	Do func(ctx context.Context, verb Verb, job Job) (cpu time.Duration, err error)
	// Batch is how many jobs a turn has; 0: as many as the round says. For one so slow that it would take the whole time.
	Batch int
}

// Round is a series of turns at one parallelism.
type Round struct {
	Parallel, Batch, Turns int
	// Verify looks at the job's pod after each verb of the warm-up, outside of what is timed; nil: nobody looks.
	Verify func(c Contestant, verb Verb, job Job) error
	// Took is called after each contestant's turn, for progress; may be nil.
	Took func(c Contestant, turn int)
}

// Key names a series of samples.
type Key struct {
	Contestant string
	Parallel   int
	Verb       Verb
}

// Samples are all that was measured under one Key.
type Samples struct {
	Latency []time.Duration
	CPU     time.Duration // of all together
	Wall    time.Duration // from the start of the first to the end of the last, turn by turn
}

// Run gives every contestant a warm-up turn that is not recorded and then the round's turns, each beginning with another
// contestant than the one before. An error of any job ends it: figures of a contestant that fails mean nothing.
func Run(ctx context.Context, r Round, contestants []Contestant, id func() string) (map[Key]*Samples, error) {
	all := map[Key]*Samples{}
	for turn := range r.Turns + 1 {
		warmUp := turn == 0
		for i := range contestants {
			c := contestants[(i+turn)%len(contestants)]
			n := r.Batch
			if c.Batch > 0 {
				n = c.Batch
			}
			jobs := make([]Job, n)
			for i := range jobs {
				jobs[i] = Job{ID: id(), Slot: i}
			}
			for _, verb := range []Verb{Add, Del} {
				s, err := batch(ctx, c, verb, jobs, r.Parallel)
				if err != nil {
					return nil, fmt.Errorf("%s %s, %d parallel: %w", c.Name, verb, r.Parallel, err)
				}
				if !warmUp {
					all[Key{c.Name, r.Parallel, verb}] = all[Key{c.Name, r.Parallel, verb}].plus(s)
				}
				for _, job := range jobs {
					if warmUp && r.Verify != nil {
						if err := r.Verify(c, verb, job); err != nil {
							return nil, fmt.Errorf("%s did not do the job: after %s: %w", c.Name, verb, err)
						}
					}
				}
			}
			if r.Took != nil {
				r.Took(c, turn)
			}
		}
	}
	return all, nil
}

// Once does n jobs and undoes them, and gives the samples of ADD.
func Once(ctx context.Context, c Contestant, n, parallel int, id func() string) (Samples, error) {
	jobs := make([]Job, n)
	for i := range jobs {
		jobs[i] = Job{ID: id(), Slot: i}
	}
	samples, err := batch(ctx, c, Add, jobs, parallel)
	if err == nil {
		_, err = batch(ctx, c, Del, jobs, parallel)
	}
	if err != nil {
		return Samples{}, fmt.Errorf("%s, %d parallel: %w", c.Name, parallel, err)
	}
	return samples, nil
}

func (s *Samples) plus(t Samples) *Samples {
	if s == nil {
		return &t
	}
	s.Latency = append(s.Latency, t.Latency...)
	s.CPU += t.CPU
	s.Wall += t.Wall
	return s
}

// batch does all jobs, at most parallel of them at a time.
func batch(ctx context.Context, c Contestant, verb Verb, jobs []Job, parallel int) (Samples, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := Samples{Latency: make([]time.Duration, len(jobs))}
	var next, cpu atomic.Int64
	var wait sync.WaitGroup
	start := time.Now()
	for range min(parallel, len(jobs)) {
		wait.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(jobs) || ctx.Err() != nil {
					return
				}
				begin := time.Now()
				used, err := c.Do(ctx, verb, jobs[i])
				s.Latency[i] = time.Since(begin)
				cpu.Add(int64(used))
				if err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	wait.Wait()
	s.Wall, s.CPU = time.Since(start), time.Duration(cpu.Load())
	return s, context.Cause(ctx)
}

// Quantile is the smallest sample that at least the share q of all samples do not exceed (the nearest-rank definition: always
// a value that was measured, never one between two). NaN where there is no sample.
func (s *Samples) Quantile(q float64) float64 {
	if len(s.Latency) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s.Latency))
	rank := int(math.Ceil(q*float64(len(sorted)))) - 1
	return milliseconds(sorted[min(max(rank, 0), len(sorted)-1)])
}

// PerSecond is how many jobs were done in a second.
func (s *Samples) PerSecond() float64 { return float64(len(s.Latency)) / s.Wall.Seconds() }

// CPUMilliseconds is the mean processor time of a job.
func (s *Samples) CPUMilliseconds() float64 { return milliseconds(s.CPU) / float64(len(s.Latency)) }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
