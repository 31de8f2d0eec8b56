// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/railyard-net/railyard/test/bench/report"
)

// session is the whole scenario with so many nodes.
type session struct {
	o     options
	lab   *lab
	nodes int
	began time.Time
	out   io.Writer
	fleet report.Fleet
}

// scenario is one run, with its figures.
func scenario(ctx context.Context, o options, nodes int, out io.Writer) (_ report.Fleet, err error) {
	s := &session{o: o, nodes: nodes, began: time.Now(), out: out, fleet: report.Fleet{Nodes: nodes, PodsPerNode: o.pods}}
	s.say("API server, controller, %d Node objects", nodes)
	if s.lab, err = newLab(ctx, o, nodes); err != nil {
		return s.fleet, err
	}
	defer func() { err = errors.Join(err, s.lab.close()) }()
	for _, step := range []func(context.Context) error{s.start, s.storm, s.steady, s.flatOut, s.outage, s.empty, s.fill, s.churnFull, s.lastAddresses} {
		if err := step(ctx); err != nil {
			return s.fleet, err
		}
	}
	s.sum()
	return s.fleet, nil
}

func (s *session) say(format string, args ...any) {
	fmt.Fprintf(s.out, "%6.1fs %5d nodes: %s\n", time.Since(s.began).Seconds(), s.nodes, fmt.Sprintf(format, args...))
}

// tally gathers the ADDs of a phase.
type tally struct {
	mu      sync.Mutex
	took    []time.Duration
	refused int
}

func (t *tally) served(took time.Duration, refused int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.took, t.refused = append(t.took, took), t.refused+refused
}

// add is one ADD, counted.
func (t *tally) add(ctx context.Context, m *member, pool string) error {
	began := time.Now()
	_, refused, err := m.add(ctx, pool)
	if err == nil {
		t.served(time.Since(began), refused)
	}
	return err
}

// phase runs do, and counts what was asked of the API server from its begin until rest after its end.
func (s *session) phase(ctx context.Context, name string, rest time.Duration, do func(context.Context, *tally) error) (*report.Phase, error) {
	s.say("%s", name)
	before, changes := s.lab.demand(), s.lab.pools.changes.Load()
	t := &tally{}
	began := time.Now()
	stop := s.progress(t)
	err := do(ctx, t)
	if stop(); err != nil {
		return nil, fmt.Errorf("%d nodes: %s: %w", s.nodes, name, err)
	}
	took := time.Since(began)
	if err := sleep(ctx, rest); err != nil {
		return nil, err
	}
	d := s.lab.demand().plus(before, -1)
	p := report.Phase{
		Name: name, Seconds: took.Seconds(), Adds: len(t.took), Refused: t.refused,
		PoolWrites: s.lab.pools.changes.Load() - changes, Wire: d.wire, Requests: map[string]report.Requests{},
	}
	for v := range verbs {
		if d.requests[v] != 0 || d.bytes[v] != 0 {
			p.Requests[v.String()] = report.Requests{N: d.requests[v], Failed: d.failed[v], Bytes: d.bytes[v], Write: v >= create}
		}
	}
	slices.Sort(t.took)
	if n := len(t.took); n > 0 {
		at := func(q float64) float64 { return float64(t.took[min(n-1, int(q*float64(n)))].Microseconds()) / 1000 }
		p.P50, p.P99, p.Max = at(0.5), at(0.99), at(1)
		p.PerSecond = float64(n) / took.Seconds()
	}
	s.fleet.Phases = append(s.fleet.Phases, p)
	s.say("  %s", p.Line())
	return &s.fleet.Phases[len(s.fleet.Phases)-1], nil
}

// progress says now and then how far a phase is, until stop.
func (s *session) progress(t *tally) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(15 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				t.mu.Lock()
				n := len(t.took)
				t.mu.Unlock()
				s.say("  %d ADDs so far", n)
			case <-end:
				return
			}
		}
	}()
	return func() { close(end); <-ended }
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// everyone runs do for all nodes at once.
func (s *session) everyone(do func(i int, m *member) error) error {
	var g errgroup.Group
	for i, m := range s.lab.members {
		g.Go(func() error { return do(i, m) })
	}
	return g.Wait()
}

// heap is what this process has in use, with the goroutines' stacks, after a collection.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what has a finalizer goes at the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// start starts all agents at once, and waits until each watches and leases.
func (s *session) start(ctx context.Context) error {
	before := heap()
	_, err := s.phase(ctx, "start of all agents", 0, func(ctx context.Context, _ *tally) error {
		for i, cfg := range s.lab.configs {
			m, err := join(cfg, s.o.agentLog, nodeName(i), fmt.Sprintf("%s/%04d", s.lab.dir, i))
			if err != nil {
				return err
			}
			s.lab.members = append(s.lab.members, m)
		}
		return until(ctx, s.o.patience, "every agent watches", func() (bool, error) {
			return !slices.ContainsFunc(s.lab.members, func(m *member) bool { return !m.ready() }), nil
		})
	})
	if err != nil {
		return err
	}
	s.fleet.IdleHeap = (heap() - before) / int64(s.nodes)
	s.say("  %d kB for each agent", s.fleet.IdleHeap/1000)
	return nil
}

// storm is pods on all nodes at once.
func (s *session) storm(ctx context.Context) error {
	before := heap()
	_, err := s.phase(ctx, "storm", s.o.settle, func(ctx context.Context, t *tally) error {
		return s.everyone(func(_ int, m *member) error {
			for range s.o.pods {
				if err := t.add(ctx, m, roomy); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	s.fleet.LeasedHeap = s.fleet.IdleHeap + (heap()-before)/int64(s.nodes)
	s.say("  %d kB for each agent with %d leases", s.fleet.LeasedHeap/1000, s.o.pods)
	return s.judge(ctx)
}

// sum is what counts of it all.
func (s *session) sum() {
	s.fleet.LargestBlock, s.fleet.LargestPool = s.lab.blocks.largest.Load(), s.lab.pools.largest.Load()
	s.fleet.Seconds = time.Since(s.began).Seconds()
}

// judge has the checker look, and adds to the figures what it finds.
func (s *session) judge(ctx context.Context) error {
	v, err := s.lab.judge(ctx)
	if err != nil {
		return err
	}
	if v.err != nil {
		text := v.err.Error()
		s.say("FOUND: %.2000s", text)
	}
	s.fleet.Duplicates, s.fleet.Leaks = s.fleet.Duplicates+v.duplicates, s.fleet.Leaks+v.leaks
	return nil
}
