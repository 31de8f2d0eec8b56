// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Module is the one whose packages a run tests.
const Module = "github.com/railyard-net/railyard"

// Outcome is what became of a test: pass, fail or skip, and empty if it began and never ended.
type Outcome string

// What a test may come to.
const (
	Pass Outcome = "pass"
	Fail Outcome = "fail"
	Skip Outcome = "skip"
)

// Run is what the tests of a run came to.
type Run struct {
	// packages by folder and machine, tests by name.
	packages map[place]map[string]Outcome
}

// place is a package's folder, and the virtual machine in which it was tested; empty: in none.
type place struct{ pkg, machine string }

// Read adds the events of a "go test -json". Lines that are no events are passed over.
func (r *Run) Read(in io.Reader) error {
	if r.packages == nil {
		r.packages = map[place]map[string]Outcome{}
	}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if line = bytes.TrimSpace(line); len(line) > 0 {
			r.add(line)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read the events of a test run: %w", err)
		}
	}
}

func (r *Run) add(line []byte) {
	var e struct{ Action, Package, Test string }
	if json.Unmarshal(line, &e) != nil || e.Package == "" {
		return
	}
	folder, ours := strings.CutPrefix(e.Package, Module+"/")
	if !ours {
		return
	}
	var p place
	p.pkg, p.machine, _ = strings.Cut(folder, "@")
	if r.packages[p] == nil {
		r.packages[p] = map[string]Outcome{}
	}
	if e.Test == "" {
		return
	}
	switch o := Outcome(e.Action); o {
	case Pass, Fail, Skip:
		r.packages[p][e.Test] = o
	default:
		if _, known := r.packages[p][e.Test]; !known {
			r.packages[p][e.Test] = ""
		}
	}
}

// ErrNoTest is wrapped when a case names a test that the run does not have.
var ErrNoTest = errors.New("the run has no such test")

// of gives, by machine, the tests that a Case's test stands for: those without subtests.
func (r *Run) of(test string) (map[string]map[string]Outcome, error) {
	pkg, pattern := split(test)
	found := map[string]map[string]Outcome{}
	ran := false
	for p, tests := range r.packages {
		if p.pkg != pkg {
			continue
		}
		ran = true
		if match := leaves(tests, pattern); len(match) > 0 {
			found[p.machine] = match
		}
	}
	switch {
	case len(found) > 0:
		return found, nil
	case !ran && vmOnly(pkg):
		return nil, nil
	default:
		return nil, fmt.Errorf("%w: %s", ErrNoTest, test)
	}
}

func vmOnly(pkg string) bool { return pkg == VM || strings.HasPrefix(pkg, VM+"/") }

func leaves(tests map[string]Outcome, pattern string) map[string]Outcome {
	out := map[string]Outcome{}
	names := slices.Sorted(maps.Keys(tests))
	for _, name := range names {
		if !matches(pattern, name) && !below(pattern, name) {
			continue
		}
		parent, told := false, false
		for _, other := range names {
			if strings.HasPrefix(other, name+"/") {
				parent, told = true, told || !well(tests[other])
			}
		}
		// A parent that failed by itself is nobody else's to tell.
		if !parent || !well(tests[name]) && !told {
			out[name] = tests[name]
		}
	}
	return out
}

func well(o Outcome) bool { return o == Pass || o == Skip }

// below says that the pattern matches a test that the named one is part of.
func below(pattern, name string) bool {
	for i := strings.LastIndexByte(name, '/'); i >= 0; i = strings.LastIndexByte(name[:i], '/') {
		if matches(pattern, name[:i]) {
			return true
		}
	}
	return false
}

// matches compares a name with a pattern in which * stands for any text.
func matches(pattern, name string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	name, ok := strings.CutPrefix(name, first)
	if !ok || !star {
		return ok && name == ""
	}
	for i := 0; i <= len(name); i++ {
		if matches(rest, name[i:]) {
			return true
		}
	}
	return false
}
