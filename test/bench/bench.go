// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/railyard-net/railyard/test/bench/lab"
	"github.com/railyard-net/railyard/test/bench/measure"
	"github.com/railyard-net/railyard/test/bench/report"
)

// mostPods is how many attachments exist at once, at most.
const mostPods = 128

// session is one run of the benchmark, inside of its namespaces.
type session struct {
	o      options
	lab    *lab.Lab
	node   *node // nil without railyard
	nextID func() string
	began  time.Time
	stderr io.Writer

	attach, ipam report.File
}

func bench(ctx context.Context, o options, stdout, stderr io.Writer) (err error) {
	s := &session{o: o, began: time.Now(), stderr: stderr, nextID: ids(time.Now().UnixNano())}
	info := about(ctx, o)
	s.attach.About, s.ipam.About = info, info
	if s.lab, err = lab.New(mostPods); err != nil {
		return err
	}
	if !o.peers {
		s.say("starting the API server and the agent")
		if s.node, err = startNode(ctx, o); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.node.stop()) }()
	}
	if o.against != "" {
		return s.compare(ctx, stdout)
	}
	for _, step := range []func(context.Context) error{s.attachments, s.kinds, s.addresses, s.demands, s.scale, s.outage} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := s.sizes(); err != nil {
		return err
	}
	return s.publish(stdout)
}

func (s *session) say(format string, args ...any) {
	fmt.Fprintf(s.stderr, "bench %5.1fs  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

// load is a round's amount: at which parallelism, how many jobs a turn, how many turns.
type load struct{ parallel, batch, turns int }

// loads are the rounds of the tables that count (main) and of the others.
func (s *session) loads(main bool) []load {
	switch {
	case s.o.short:
		return []load{{1, 1, 1}, {8, 8, 1}}
	case main:
		return []load{{1, 40, 5}, {8, 60, 4}, {64, 128, 3}}
	default:
		return []load{{1, 25, 4}, {8, 40, 3}, {64, 128, 1}}
	}
}

// table measures contestants at every load. The one named slow gets small turns.
func (s *session) table(ctx context.Context, title string, loads []load, contestants []measure.Contestant, slow string,
	check func(measure.Contestant, measure.Verb, measure.Job) error,
) ([]report.Result, error) {
	all := map[measure.Key]*measure.Samples{}
	var order []string
	for _, c := range contestants {
		order = append(order, c.Name)
	}
	for _, l := range loads {
		s.say("%s: %d parallel, %d turns of %d", title, l.parallel, l.turns, l.batch)
		cs := slices.Clone(contestants)
		for i := range cs {
			if cs[i].Name == slow {
				cs[i].Batch = min(l.batch, max(l.parallel, 2))
			}
		}
		round := measure.Round{Parallel: l.parallel, Batch: l.batch, Turns: l.turns, Verify: check}
		samples, err := measure.Run(ctx, round, cs, s.nextID)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", title, err)
		}
		for k, v := range samples {
			all[k] = v
		}
	}
	return report.Results(all, order), nil
}

// attachments measures whole attachments.
func (s *session) attachments(ctx context.Context) error {
	for i, t := range []struct {
		name, title string
		f           families
		dad         bool
	}{
		{"dual", "IPv4 and IPv6", dual, true},
		{"dual-no-dad", "IPv4 and IPv6, the pods' duplicate address detection switched off", dual, false},
		{"v4", "IPv4 only", v4Only, true},
	} {
		if err := s.lab.SetDAD(t.dad); err != nil {
			return err
		}
		slow := ""
		if t.dad && t.f.v6 {
			slow = report.Upstream
		}
		rows, err := s.table(ctx, "attach, "+t.title, s.loads(i == 0), s.attachContestants(t.f), slow, verify(s.lab.Pods, t.f))
		if err != nil {
			return err
		}
		s.attach.Bars = append(s.attach.Bars, report.AttachBars(t.title, rows)...)
		if i == 0 {
			s.attach.Results = rows
		} else {
			s.attach.Variants = append(s.attach.Variants, report.Table{Name: t.name, Title: t.title, Results: rows})
		}
	}
	return s.lab.SetDAD(true)
}

func (s *session) attachContestants(f families) []measure.Contestant {
	pods := s.lab.Pods
	var cs []measure.Contestant
	if s.node != nil {
		cs = append(cs, cniPlugin(report.Railyard, s.o.installed("railyard"), pods, f.railyardConf()))
	}
	return append(cs,
		cniPlugin(report.Upstream, s.o.installed("macvlan"), pods, f.upstreamConf()),
		floorExec(s.o.installed("floor"), pods, f),
		floorInside(pods, f),
		emptyExec(s.o.installed("empty"), pods, f.upstreamConf()),
	)
}

// addresses measures the IPAM alone.
func (s *session) addresses(ctx context.Context) error {
	rows, err := s.table(ctx, "IPAM", s.loads(true), s.ipamContestants(), "", nil)
	if err != nil {
		return err
	}
	s.ipam.Results = rows
	s.ipam.Bars = append(s.ipam.Bars, report.IPAMBars("IPv4 and IPv6", rows)...)
	return nil
}

func (s *session) ipamContestants() []measure.Contestant {
	pods := s.lab.Pods
	var cs []measure.Contestant
	if s.node != nil {
		cs = append(cs,
			cniPlugin(report.RailyardIPAM, s.o.installed("railyard-ipam"), pods, dual.railyardConf()),
			s.node.socket(report.RailyardInner, pods, dual),
		)
	}
	return append(cs,
		cniPlugin(report.HostLocal, s.o.installed("host-local"), pods, dual.upstreamConf()),
		emptyExec(s.o.installed("empty"), pods, dual.upstreamConf()),
	)
}

// sizes weighs the programs.
func (s *session) sizes() error {
	limit := map[string]float64{"railyard": 10, "railyard-ipam": 10}
	for _, path := range s.o.programs() {
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		if name := filepath.Base(path); name != "kube" {
			s.attach.Binaries = append(s.attach.Binaries, report.Binary{Name: name, MB: float64(st.Size()) / 1e6})
		}
	}
	s.attach.Bars = append(s.attach.Bars, report.BinaryBars(s.attach.Binaries, limit)...)
	return nil
}

var (
	attachOrder = []string{report.Railyard, report.Upstream, report.Floor, report.FloorInside, report.EmptyExec}
	ipamOrder   = []string{report.RailyardIPAM, report.RailyardInner, report.HostLocal, report.EmptyExec}
)

// publish writes the files and tells the bars.
func (s *session) publish(stdout io.Writer) error {
	docs := s.o.docs
	if s.o.short || s.o.peers {
		docs = s.o.out
	}
	subtitle := s.attach.Machine.Name + "; " + s.attach.Commit
	for _, f := range []struct {
		dir, name string
		content   []byte
	}{
		{docs, "benchmarks-attach.svg", report.Plot("A whole attachment, IPv4 and IPv6", subtitle, s.attach.Results, attachOrder)},
		{docs, "benchmarks-ipam.svg", report.Plot("The IPAM alone, IPv4 and IPv6", subtitle, s.ipam.Results, ipamOrder)},
		{docs, "benchmarks.md", report.Markdown(s.attach, s.ipam, "benchmarks-attach.svg", "benchmarks-ipam.svg")},
	} {
		if err := report.WriteFile(f.dir, f.name, f.content); err != nil {
			return err
		}
	}
	if err := errors.Join(report.WriteJSON(s.o.out, "attach.json", s.attach), report.WriteJSON(s.o.out, "ipam.json", s.ipam)); err != nil {
		return err
	}
	missed := 0
	for _, b := range slices.Concat(s.attach.Bars, s.ipam.Bars) {
		verdict := "pass"
		switch {
		case b.Reading:
			verdict = "  ? "
		case !b.Pass:
			verdict, missed = "MISS", missed+1
		}
		fmt.Fprintf(stdout, "%s  %8.3f of %8.3f %-8s %s\n", verdict, b.Measured, b.Limit, b.Unit, b.Name)
	}
	fmt.Fprintf(stdout, "wrote %s and %s\n", filepath.Join(docs, "benchmarks.md"), filepath.Join(s.o.out, "{attach,ipam}.json"))
	if missed > 0 && s.o.check {
		return fmt.Errorf("%d bars missed", missed)
	}
	return nil
}
