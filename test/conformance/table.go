// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

const head = `# Conformance

What railyard must do as a CNI plugin, the tests that show it, and what they said. This file is written by
` + "`test/conformance/table`" + ` from the events of a test run; a state in it is never written by hand. The list is in ` + "`test/conformance`" + `.

- **pass**: all tests of the case passed. A number says how many there were, where it was more than one.
- **fail**: one did not.
- **skipped**: the test was there and did not run; in section J also: cases failed as expected, counted by their reasons.
- **in VM**: what virtual machines with other kernels and devices said; *not run* where this run had none.
- **no test yet**: nothing shows it.
`

// Table is the list with its states. A case that names tests which the run does not have is an error, and all of them are told.
func Table(r *Run) (string, error) { return render(Sections(), r) }

func render(sections []Section, r *Run) (string, error) {
	var b strings.Builder
	b.WriteString(head)
	var errs []error
	for _, s := range sections {
		fmt.Fprintf(&b, "\n## %s. %s\n\n| case | | state | tests |\n|---|---|---|---|\n", s.Letter, s.Title)
		for _, c := range s.Cases {
			state, err := r.state(c)
			if err != nil {
				errs = append(errs, fmt.Errorf("case %s: %w", c.ID, err))
			}
			b.WriteString(row(c, state))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	return b.String(), nil
}

func row(c Case, state string) string {
	return fmt.Sprintf("| %s | %s | %s | %s |\n", c.ID, c.Text, state, tests(c))
}

// tests names them, each package once.
func tests(c Case) string {
	var out []string
	last := ""
	for _, t := range c.Tests {
		pkg, name := split(t)
		if pkg != last {
			out = append(out, fmt.Sprintf("%s: `%s`", pkg, name))
		} else {
			out = append(out, fmt.Sprintf("`%s`", name))
		}
		last = pkg
	}
	return strings.Join(out, ", ")
}

// tally counts outcomes.
type tally struct{ pass, fail, skip int }

func (t tally) String() string {
	var out []string
	if t.fail > 0 {
		out = append(out, fmt.Sprintf("**fail** (%d of %d)", t.fail, t.pass+t.fail+t.skip))
	}
	if t.pass > 0 && t.fail == 0 {
		out = append(out, numbered("pass", t.pass))
	}
	if t.skip > 0 {
		out = append(out, numbered("skipped", t.skip))
	}
	return strings.Join(out, ", ")
}

func numbered(word string, n int) string {
	if n == 1 {
		return word
	}
	return fmt.Sprintf("%s (%d)", word, n)
}

func (r *Run) state(c Case) (string, error) {
	if len(c.Tests) == 0 {
		return "no test yet", nil
	}
	// A test that two patterns name counts once.
	type one struct{ pkg, name string }
	by := map[string]map[one]Outcome{}
	notRun := false
	var errs []error
	for _, test := range c.Tests {
		found, err := r.of(test)
		errs = append(errs, err)
		notRun = notRun || err == nil && found == nil
		pkg, _ := split(test)
		for machine, outcomes := range found {
			if by[machine] == nil {
				by[machine] = map[one]Outcome{}
			}
			for name, o := range outcomes {
				by[machine][one{pkg, name}] = o
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	var out []string
	for _, machine := range slices.Sorted(maps.Keys(by)) {
		var t tally
		for _, o := range by[machine] {
			switch o {
			case Pass:
				t.pass++
			case Skip:
				t.skip++
			default: // failed, or never ended
				t.fail++
			}
		}
		if machine == "" {
			out = append(out, t.String())
		} else {
			out = append(out, fmt.Sprintf("in VM %s: %s", machine, t))
		}
	}
	if notRun {
		out = append(out, "in VM: not run")
	}
	return strings.Join(out, "; "), nil
}

// Problems says how a table differs from the list, states aside: it is of an older list.
func Problems(table string) []string {
	lines := map[string]string{}
	for line := range strings.Lines(table) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			lines[strings.TrimSpace(cells[1])] = line
		}
	}
	var out []string
	count := 0
	for _, s := range Sections() {
		for _, c := range s.Cases {
			count++
			line, has := lines[c.ID]
			before, after, _ := strings.Cut(row(c, "\x00"), "\x00")
			switch {
			case !has:
				out = append(out, fmt.Sprintf("case %s is missing", c.ID))
			case !strings.HasPrefix(line, before) || !strings.HasSuffix(line, after) || len(line) <= len(before)+len(after):
				out = append(out, fmt.Sprintf("case %s has another text or other tests", c.ID))
			}
		}
	}
	delete(lines, "case")
	delete(lines, "---")
	if len(out) == 0 && len(lines) != count {
		out = append(out, fmt.Sprintf("it has %d cases, the list has %d", len(lines), count))
	}
	return out
}
