// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// event is one line of "go test -json"; "go doc cmd/test2json" says what the fields mean.
type event struct {
	Action, Package, Test, Output string
}

// outcome is what became of a test; the zero value says that it has not ended.
type outcome string

const (
	passed  outcome = "pass"
	failed  outcome = "fail"
	skipped outcome = "skip"
)

// one is a test or a subtest.
type one struct {
	outcome outcome
	said    strings.Builder
	parent  bool // has subtests
	blamed  bool // a subtest has failed: that one is counted
}

// pack is a package under test.
type pack struct {
	said  strings.Builder // what no test said
	tests map[string]*one
}

// tally follows the events of one run of go test.
type tally struct {
	out     io.Writer
	verbose bool
	packs   map[string]*pack
	seen    int
	counts  map[outcome]int
	ends    strings.Builder // the closing line of each package
	notes   strings.Builder // who failed or was skipped
}

func newTally(out io.Writer, verbose bool) *tally {
	return &tally{out: out, verbose: verbose, packs: map[string]*pack{}, counts: map[outcome]int{}}
}

func (t *tally) add(e event) {
	if e.Action == "build-output" {
		fmt.Fprint(t.out, e.Output)
	}
	if e.Package == "" {
		return
	}
	p := t.packs[e.Package]
	if p == nil {
		p = &pack{tests: map[string]*one{}}
		t.packs[e.Package] = p
	}
	if e.Test == "" {
		t.addPackage(e, p)
		return
	}
	o := p.test(e.Test)
	switch e.Action {
	case "output":
		if t.verbose {
			fmt.Fprint(t.out, e.Output)
		}
		if !marker.MatchString(e.Output) {
			o.said.WriteString(e.Output)
		}
	case "pass", "fail", "skip":
		o.outcome = outcome(e.Action)
	}
}

// marker matches the lines by which the test runner follows who is speaking.
var marker = regexp.MustCompile(`^=== (RUN|PAUSE|CONT|NAME) `)

// test gives the test of that name, and makes it known.
func (p *pack) test(name string) *one {
	o := p.tests[name]
	if o == nil {
		o = &one{}
		p.tests[name] = o
	}
	return o
}

// parent gives the test that the named one is part of, or nil. A subtest may have a slash in its own name, so it is only to be
// had when all are known.
func (p *pack) parent(name string) *one {
	for i := strings.LastIndexByte(name, '/'); i >= 0; i = strings.LastIndexByte(name[:i], '/') {
		if o := p.tests[name[:i]]; o != nil {
			return o
		}
	}
	return nil
}

func (t *tally) addPackage(e event, p *pack) {
	switch e.Action {
	case "output":
		p.said.WriteString(e.Output)
	case "pass", "fail", "skip":
		t.endPackage(e.Package, p, outcome(e.Action))
		delete(t.packs, e.Package)
	}
}

// closingLine matches the line by which go test ends a package.
var closingLine = regexp.MustCompile(`(?m)^(ok  |FAIL|\?   )\t.*\n`)

// endPackage counts the tests of a package that has ended.
func (t *tally) endPackage(name string, p *pack, o outcome) {
	t.seen++
	before := t.counts[failed]
	// From the deepest: a failed subtest takes the blame off those that it is part of.
	names := slices.SortedFunc(maps.Keys(p.tests), func(a, b string) int {
		return cmp.Or(cmp.Compare(strings.Count(b, "/"), strings.Count(a, "/")), cmp.Compare(a, b))
	})
	for _, test := range names {
		if o := p.parent(test); o != nil {
			o.parent = true
		}
	}
	for _, test := range names {
		t.endTest(name, test, p)
	}
	line := closingLine.FindString(p.said.String())
	if o == failed {
		fmt.Fprint(t.out, closingLine.ReplaceAllString(p.said.String(), ""))
		if t.counts[failed] == before {
			t.count(failed, name, "(the package itself)", "")
		}
		if line == "" {
			line = "FAIL\t" + name + "\n"
		}
	}
	fmt.Fprint(t.out, line)
	if !strings.HasPrefix(line, "?") {
		t.ends.WriteString(line)
	}
}

func (t *tally) endTest(pkg, test string, p *pack) {
	o := p.tests[test]
	said := o.said.String()
	if o.outcome == "" {
		o.outcome = failed
		said += "    (it began and never ended)\n"
	}
	if o.outcome == failed {
		if up := p.parent(test); up != nil {
			up.blamed = true
		}
		fmt.Fprint(t.out, said)
	}
	if !o.parent || o.outcome == failed && !o.blamed {
		t.count(o.outcome, pkg, test, said)
	}
}

func (t *tally) count(o outcome, pkg, test, said string) {
	t.counts[o]++
	switch o {
	case failed:
		fmt.Fprintf(&t.notes, "failed:  %s %s\n", pkg, test)
	case skipped:
		why, _, _ := strings.Cut(strings.TrimSpace(said), "\n")
		fmt.Fprintf(&t.notes, "skipped: %s %s: %s\n", pkg, test, why)
	}
}

// close ends the run. A package that has not ended has failed.
func (t *tally) close() (summary string, ok bool) {
	for _, name := range slices.Sorted(maps.Keys(t.packs)) {
		t.endPackage(name, t.packs[name], failed)
	}
	t.packs = nil
	if t.seen == 0 {
		t.count(failed, "no package", "was tested", "")
	}
	return fmt.Sprintf("%s%d passed, %d failed, %d skipped\n", t.notes.String(), t.counts[passed], t.counts[failed], t.counts[skipped]), t.counts[failed] == 0
}
