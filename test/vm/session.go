// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/railyard-net/railyard/test/vm/image"
	"github.com/railyard-net/railyard/test/vm/plan"
	"github.com/railyard-net/railyard/test/vm/qemu"
)

// session is one run of the program.
type session struct {
	options
	out *lines
	say func(format string, args ...any)
}

// all runs the machines, as many at once as options say. A failed test is for the reader of the events to judge; a machine that failed is an
// error, after the others have run.
func (s session) all(ctx context.Context, todo []machine) error {
	img, err := image.Ensure(ctx, s.cache, s.say)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "railyard-vm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if s.shell {
		todo = todo[:1]
	}
	var packages []string
	for _, m := range todo {
		packages = append(packages, m.packages...)
	}
	slices.Sort(packages)
	s.say("compiling the tests")
	load, err := compile(ctx, tmp, slices.Compact(packages))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.logs, 0o755); err != nil {
		return err
	}
	failed := make([]error, len(todo))
	var g errgroup.Group
	g.SetLimit(s.jobs)
	for i, m := range todo {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s.say("[%d/%d] %s: boots", i+1, len(todo), m.name)
			if err := s.one(ctx, img, load, m); err != nil {
				failed[i] = fmt.Errorf("%s: %w", m.name, err)
			}
			return nil
		})
	}
	return errors.Join(g.Wait(), errors.Join(failed...))
}

// one runs one machine.
func (s session) one(ctx context.Context, img image.Image, load payload, m machine) error {
	defer load.remove("extra-"+m.name, "initrd-"+m.name)
	do := m.plan(s.options)
	extra, initrd := load.file("extra-"+m.name), load.file("initrd-"+m.name)
	if err := load.archive(extra, do); err != nil {
		return err
	}
	if err := qemu.Join(initrd, img.Initramfs(m.kernel), extra); err != nil {
		return err
	}
	vm := qemu.Machine{Image: img, Kernel: m.kernel, Append: m.commandLine(), Initrd: initrd, Boot: 3 * time.Minute, Limit: s.limit}
	if s.shell {
		vm.Limit = 24 * time.Hour
		return vm.Run(ctx, func(plan.Event) error { return nil })
	}
	vm.Console = filepath.Join(s.logs, "vm-"+m.name+".log")
	begin := time.Now()
	f := follower{session: s, ctx: context.WithoutCancel(ctx), m: m, begin: begin, left: m.packages}
	problem := vm.Run(ctx, f.event)
	if errors.Is(problem, qemu.ErrEmulator) && !f.up { // its emulation of several processors fails now and then as they boot
		s.say("%s: %v: once more", m.name, problem)
		problem = vm.Run(ctx, f.event)
	}
	if problem == nil {
		s.say("%s: done in %.0fs", m.name, time.Since(begin).Seconds())
		return f.abandon("the machine ended without it")
	}
	text := fmt.Sprintf("machine %s: %v\nthe end of %s:\n%s", m.name, problem, vm.Console, qemu.Tail(vm.Console, 60))
	return errors.Join(problem, f.abandon(text))
}

// follower turns one machine's events into reports.
type follower struct {
	session
	ctx   context.Context
	m     machine
	begin time.Time
	up    bool     // its init has spoken
	left  []string // packages that have not ended
	now   *report  // of the first of them, if it has begun
}

func (f *follower) event(e plan.Event) error {
	switch {
	case e.Up != nil:
		f.up = true
		f.say("%s: Linux %s is up after %.1fs (%.1fs of them in the kernel)", f.m.name, e.Up.Kernel, time.Since(f.begin).Seconds(), e.Up.Seconds)
	case e.Begin != "":
		f.say("%s: %s", f.m.name, e.Begin)
		return f.start()
	case e.Out != nil && f.now != nil:
		_, err := f.now.in.Write(e.Out)
		return err
	case e.End != nil && f.now != nil:
		return f.end(*e.End)
	}
	return nil
}

func (f *follower) start() (err error) {
	if len(f.left) == 0 {
		return errors.New("the guest begins a test that is not of its plan")
	}
	f.now, err = newReport(f.ctx, f.m, f.left[0], f.out)
	return err
}

func (f *follower) end(e plan.End) error {
	problem := e.Problem
	if e.Code != 0 && problem == "" {
		problem = fmt.Sprintf("exit status %d", e.Code)
	}
	r := f.now
	f.now, f.left = nil, f.left[1:]
	return r.end(e.Seconds, problem)
}

// abandon reports the packages that have not ended as failed; the first of them says why.
func (f *follower) abandon(why string) error {
	for len(f.left) > 0 {
		if f.now == nil {
			if err := f.start(); err != nil {
				return err
			}
		}
		if err := f.end(plan.End{Code: -1, Problem: why}); err != nil {
			return err
		}
		why = "the machine failed before"
	}
	return nil
}
