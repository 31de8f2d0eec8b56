// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// runOf makes a run of lines "action package test".
func runOf(t *testing.T, lines ...string) *Run {
	t.Helper()
	var b strings.Builder
	for _, line := range lines {
		f := strings.Fields(line)
		fmt.Fprintf(&b, `{"Action": %q, "Package": %q, "Test": %q}`+"\n", f[0], Module+"/"+f[1], f[2])
	}
	b.WriteString("not an event\n")
	var r Run
	if err := r.Read(strings.NewReader(b.String())); err != nil {
		t.Fatal(err)
	}
	return &r
}

func TestState(t *testing.T) {
	tests := map[string]struct {
		events  []string
		tests   []string
		want    string
		wantErr bool
	}{
		"no test":                       {nil, nil, "no test yet", false},
		"one":                           {[]string{"run p TestX", "pass p TestX"}, in("p", "TestX"), "pass", false},
		"rows":                          {[]string{"pass p TestX/a", "pass p TestX/b", "pass p TestX"}, in("p", "TestX"), "pass (2)", false},
		"a row":                         {[]string{"pass p TestX/a", "fail p TestX/b", "fail p TestX"}, in("p", "TestX/a"), "pass", false},
		"a row failed":                  {[]string{"pass p TestX/a", "fail p TestX/b", "fail p TestX"}, in("p", "TestX"), "**fail** (1 of 2)", false},
		"the test itself failed":        {[]string{"pass p TestX/a", "fail p TestX"}, in("p", "TestX"), "**fail** (1 of 2)", false},
		"it never ended":                {[]string{"run p TestX"}, in("p", "TestX"), "**fail** (1 of 1)", false},
		"skipped":                       {[]string{"skip p TestX"}, in("p", "TestX"), "skipped", false},
		"a row skipped":                 {[]string{"skip p TestX/a", "pass p TestX/b", "pass p TestX"}, in("p", "TestX"), "pass, skipped", false},
		"two names for one":             {[]string{"pass p TestX/a", "pass p TestX"}, in("p", "TestX", "TestX/*"), "pass", false},
		"no part of a name":             {[]string{"pass p TestXY"}, in("p", "TestX"), "", true},
		"gone":                          {[]string{"pass p TestY"}, in("p", "TestY", "TestX"), "", true},
		"another package":               {[]string{"pass q TestX"}, in("p", "TestX"), "", true},
		"a machine beside":              {[]string{"pass p TestX", "fail p@old TestX"}, in("p", "TestX"), "pass; in VM old: **fail** (1 of 1)", false},
		"machines are not run":          {[]string{"pass p TestX"}, append(in("p", "TestX"), in("test/vm/rails", "TestY")...), "pass; in VM: not run", false},
		"machines were run without it":  {[]string{"pass test/vm/rails@new TestZ"}, in("test/vm/rails", "TestY"), "", true},
		"machines were run and have it": {[]string{"pass test/vm/rails@a TestY", "skip test/vm/rails@b TestY"}, in("test/vm/rails", "TestY"), "in VM a: pass; in VM b: skipped", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := runOf(t, tt.events...).state(Case{ID: "X01", Tests: tt.tests})
			if errors.Is(err, ErrNoTest) != tt.wantErr || (err != nil) != tt.wantErr {
				t.Fatalf("error %v, want one: %v", err, tt.wantErr)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("state (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRender(t *testing.T) {
	sections := []Section{{"X", "Things", []Case{
		{"X01", "it works", in("p", "TestX", "TestY")},
		{"X02", "it flies", nil},
	}}}
	got, err := render(sections, runOf(t, "pass p TestX", "pass p TestY"))
	if err != nil {
		t.Fatal(err)
	}
	want := head + `
## X. Things

| case | | state | tests |
|---|---|---|---|
| X01 | it works | pass (2) | p: ` + "`TestX`, `TestY`" + ` |
| X02 | it flies | no test yet |  |
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	if _, err := render(sections, runOf(t, "pass p TestX")); !errors.Is(err, ErrNoTest) {
		t.Errorf("a test is gone, and the error is %v", err)
	}
}

// TestProblems changes a table in every way that counts.
func TestProblems(t *testing.T) {
	var b strings.Builder
	for _, s := range Sections() {
		for _, c := range s.Cases {
			b.WriteString(row(c, "pass"))
		}
	}
	good := b.String()
	for name, tt := range map[string]struct {
		table string
		want  int
	}{
		"as it is":       {good, 0},
		"another state":  {strings.ReplaceAll(good, "| pass |", "| **fail** (1 of 2) |"), 0},
		"another text":   {strings.Replace(good, "VERSION lists", "VERSION hides", 1), 1},
		"another test":   {strings.Replace(good, "TestMacvlan", "TestIPvlan", 1), 1},
		"a case is gone": {strings.Replace(good, "| J02 |", "| J2 |", 1), 1},
		"a case too many": {
			good + row(Case{ID: "Z01", Text: "more"}, "pass"), 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Problems(tt.table); len(got) != tt.want {
				t.Errorf("problems %q, want %d", got, tt.want)
			}
		})
	}
}
