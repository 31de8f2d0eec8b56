// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/test/vm/plan"
)

func TestChoose(t *testing.T) {
	all := []machine{{name: "a", packages: []string{"./x", "./y"}}, {name: "b", packages: []string{"./y"}}}
	tests := map[string]struct {
		machines string
		packages []string
		want     map[string][]string
		wantErr  string
	}{
		"all":             {want: map[string][]string{"a": {"./x", "./y"}, "b": {"./y"}}},
		"one machine":     {machines: "b", want: map[string][]string{"b": {"./y"}}},
		"one package":     {packages: []string{"x/"}, want: map[string][]string{"a": {"./x"}}},
		"no such machine": {machines: "a,c", wantErr: `no machine is called "c"`},
		"no such package": {machines: "b", packages: []string{"./x"}, wantErr: "no machine runs ./x"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			some, err := choose(all, tt.machines, tt.packages)
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("error %v, want %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := map[string][]string{}
			for _, m := range some {
				got[m.name] = m.packages
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("chosen (-want +got):\n%s", diff)
			}
		})
	}
}

// follow plays a guest's events, and what becomes of the machine, to a follower, and gives "package test: action" of what it reports.
func follow(t *testing.T, m machine, events []plan.Event, why string) []string {
	t.Helper()
	var out bytes.Buffer
	f := follower{session: session{out: &lines{w: &out}, say: func(string, ...any) {}}, ctx: t.Context(), m: m, begin: time.Now(), left: m.packages}
	for _, e := range events {
		if err := f.event(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.abandon(why); err != nil {
		t.Fatal(err)
	}
	var got []string
	d := json.NewDecoder(&out)
	for {
		var e struct{ Action, Package, Test, Output string }
		switch err := d.Decode(&e); {
		case errors.Is(err, io.EOF):
			return got
		case err != nil:
			t.Fatal(err)
		}
		name := strings.TrimPrefix(e.Package, module+"/")
		switch {
		case e.Action == "pass" || e.Action == "fail" || e.Action == "skip":
			got = append(got, strings.TrimSpace(name+" "+e.Test)+": "+e.Action)
		case strings.Contains(e.Output, why) && e.Test == "":
			got = append(got, "says why")
		}
	}
}

func TestFollower(t *testing.T) {
	m := machine{name: "v", packages: []string{"./x", "./y"}, leaveOut: []leftOut{{"./x", "TestSlow", "it is slow"}}}
	begin := []plan.Event{{Up: &plan.Up{}}, {Begin: "./x"}, {Out: []byte("\x16=== RUN   TestOne\n")}}
	pass := plan.Event{Out: []byte("\x16--- PASS: TestOne (0.01s)\n\x16PASS\n")}
	tests := map[string]struct {
		events []plan.Event
		want   []string
	}{
		"all pass": {
			append(begin, pass, plan.Event{End: &plan.End{}}, plan.Event{Begin: "./y"}, plan.Event{Out: []byte("PASS\n")}, plan.Event{End: &plan.End{}}),
			[]string{"x@v TestSlow: skip", "x@v TestOne: pass", "x@v: pass", "y@v: pass"},
		},
		"the kernel panics": {
			begin,
			[]string{"x@v TestSlow: skip", "says why", "x@v: fail", "y@v: fail"},
		},
		"the kernel panics between tests": {
			append(begin, plan.Event{Out: []byte("\x16--- PASS: TestOne (0.01s)\n")}),
			[]string{"x@v TestSlow: skip", "x@v TestOne: pass", "says why", "x@v: fail", "y@v: fail"},
		},
		"it never boots": {
			nil,
			[]string{"x@v TestSlow: skip", "says why", "x@v: fail", "y@v: fail"},
		},
		"a binary ends badly after its tests": {
			append(begin, pass, plan.Event{End: &plan.End{Code: 2}}),
			[]string{"x@v TestSlow: skip", "x@v TestOne: pass", "x@v: fail", "says why", "y@v: fail"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, follow(t, m, tt.events, "Kernel panic")); diff != "" {
				t.Errorf("reported (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSkipPattern(t *testing.T) {
	m := machine{leaveOut: []leftOut{{"./x", "TestA", ""}, {"./y", "TestB", ""}, {"./x", "TestC", ""}}}
	if got, want := m.skipPattern("./x", "D"), "^TestA$|^TestC$|D"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
