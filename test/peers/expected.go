// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// Expectation is what expected.txt says of one suite.
type Expectation struct {
	Suite string
	// Cases is how many the suite has.
	Cases int
	Rules []Rule
}

// Rule names cases that are expected to fail.
type Rule struct {
	// Name is one word.
	Name  string
	Cases *regexp.Regexp
	// Says is part of what the failure says, so that another failure of the same case is noticed.
	Says string
	// Why is the reason, for people.
	Why string
}

// Verdict is what is to be thought of a case.
type Verdict struct {
	Case
	// Rule is the one that names the case, or nil. Right says that the case did as it should: it passed, or it failed
	// as its rule says.
	Rule  *Rule
	Right bool
}

// ParseExpected reads expected.txt: lines of a keyword and its value, where "suite NAME CASES" begins a suite, "expect NAME"
// a rule of it, and "case REGEXP", "says TEXT" and "why TEXT", of which a rule needs all, belong to that rule. A # begins a comment line.
func ParseExpected(text string) ([]Expectation, error) {
	var all []Expectation
	var rule *Rule
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, _ := strings.Cut(line, " ")
		value = strings.TrimSpace(value)
		var err error
		switch {
		case value == "":
			err = fmt.Errorf("%s has no value", key)
		case key == "suite":
			rule = nil
			name, count, _ := strings.Cut(value, " ")
			e := Expectation{Suite: name}
			e.Cases, err = strconv.Atoi(count)
			all = append(all, e)
		case len(all) == 0:
			err = fmt.Errorf("%s stands before any suite", key)
		case key == "expect":
			last := &all[len(all)-1]
			last.Rules = append(last.Rules, Rule{Name: value})
			rule = &last.Rules[len(last.Rules)-1]
		case rule == nil:
			err = fmt.Errorf("%s stands before any rule of the suite", key)
		default:
			err = rule.set(key, value)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	for _, e := range all {
		for _, r := range e.Rules {
			if r.Cases == nil || r.Says == "" || r.Why == "" {
				return nil, fmt.Errorf("suite %s, rule %s: needs case, says and why", e.Suite, r.Name)
			}
		}
	}
	return all, nil
}

func (r *Rule) set(key, value string) (err error) {
	switch key {
	case "case":
		r.Cases, err = regexp.Compile(value)
	case "says":
		r.Says = value
	case "why":
		r.Why = value
	default:
		err = fmt.Errorf("the keyword %s is unknown", key)
	}
	return err
}

// Judge compares a run of the suite with what is expected. The problems are of the list itself: the suite has another number of cases, or
// a rule names none of them. Where several rules name a case, the first one counts.
func (e Expectation) Judge(cases []Case) (verdicts []Verdict, problems []string) {
	if len(cases) != e.Cases {
		problems = append(problems, fmt.Sprintf("the suite %s has %d cases, expected.txt says %d", e.Suite, len(cases), e.Cases))
	}
	used := make([]bool, len(e.Rules))
	for _, c := range cases {
		v := Verdict{Case: c, Right: c.Passed}
		for i := range e.Rules {
			if r := &e.Rules[i]; r.Cases.MatchString(c.Name) {
				used[i] = true
				v.Rule, v.Right = r, !c.Passed && strings.Contains(c.Said, r.Says)
				break
			}
		}
		verdicts = append(verdicts, v)
	}
	for i, r := range e.Rules {
		if !used[i] {
			problems = append(problems, fmt.Sprintf("the rule %s of suite %s names no case", r.Name, e.Suite))
		}
	}
	return verdicts, problems
}

// Problem says what is wrong with the case, or "".
func (v Verdict) Problem() string {
	switch {
	case v.Right:
		return ""
	case v.Passed:
		return fmt.Sprintf("it passes, and expected.txt says under %s that it fails: %s", v.Rule.Name, v.Rule.Why)
	case v.Rule != nil:
		return fmt.Sprintf("it fails, but does not say %q, as expected.txt has it under %s:\n%s", v.Rule.Says, v.Rule.Name, v.Said)
	default:
		return v.Said
	}
}

// Report is a list of cases for people.
type Report struct {
	w                        io.Writer
	passed, failed, expected int
	notRun                   []string
}

// NewReport writes to w.
func NewReport(w io.Writer) *Report { return &Report{w: w} }

// Add lists a suite's cases.
func (r *Report) Add(suite string, verdicts []Verdict) {
	for _, v := range verdicts {
		state, why := "pass", ""
		switch {
		case !v.Right:
			r.failed++
			state, why = "FAIL", ": "+v.Problem()
		case v.Passed:
			r.passed++
		default:
			r.expected++
			state, why = "expected", ": "+v.Rule.Why
		}
		fmt.Fprintf(r.w, "%-8s %s %s%s\n", state, suite, v.Name, why)
	}
}

// Fault counts what is wrong besides the cases.
func (r *Report) Fault(suite, what string) {
	r.failed++
	fmt.Fprintf(r.w, "%-8s %s: %s\n", "FAIL", suite, what)
}

// NotRun notes a suite that was left out.
func (r *Report) NotRun(suite, why string) {
	r.notRun = append(r.notRun, suite)
	fmt.Fprintf(r.w, "%-8s %s: %s\n", "not run", suite, why)
}

// Close writes the last line.
func (r *Report) Close() {
	fmt.Fprintf(r.w, "%d passed, %d failed, %d failed as expected", r.passed, r.failed, r.expected)
	if len(r.notRun) > 0 {
		fmt.Fprintf(r.w, ", not run: %s", strings.Join(r.notRun, " "))
	}
	fmt.Fprintln(r.w)
}
