// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var reportFile = flag.String("report", "", "write what became of each case to this `file`")

// The tests run one after the other and share the report.
var report *Report

func TestMain(m *testing.M) {
	flag.Parse()
	var list bytes.Buffer
	report = NewReport(&list)
	code := m.Run()
	if code != 0 && report.failed == 0 {
		report.Fault("the package", "a test beside the suites failed")
	}
	report.Close()
	if *reportFile != "" {
		err := os.MkdirAll(filepath.Dir(*reportFile), 0o755)
		if err = errors.Join(err, os.WriteFile(*reportFile, list.Bytes(), 0o644)); err != nil {
			fmt.Fprintln(os.Stderr, "write the report:", err)
			code = 1
		}
	}
	os.Exit(code)
}

func TestMacvlan(t *testing.T)    { testSuite(t, "macvlan") }
func TestHostDevice(t *testing.T) { testSuite(t, "host-device") }

func testSuite(t *testing.T, name string) {
	judged := false
	t.Cleanup(func() {
		if t.Failed() && !judged {
			report.Fault(name, "the suite could not be run; the test says why")
		}
	})
	text, err := os.ReadFile("expected.txt")
	must(t, err)
	all, err := ParseExpected(string(text))
	if err != nil {
		t.Fatalf("expected.txt: %v", err)
	}
	i := slices.IndexFunc(all, func(e Expectation) bool { return e.Suite == name })
	j := slices.IndexFunc(Suites(), func(s Suite) bool { return s.Name == name })
	if i < 0 || j < 0 {
		t.Fatalf("the suite %s is not in expected.txt, or not in Suites", name)
	}
	b, err := NewBench(t.Context(), "suite", t.TempDir())
	must(t, err)
	if why := lacksKind(t, b, name); why != "" {
		report.NotRun(name, why)
		t.Skipf("all %d cases: %s", all[i].Cases, why)
	}
	binary, err := b.Build(t.Context(), Suites()[j])
	must(t, err)
	cases, err := b.Run(t.Context(), Suites()[j], binary)
	must(t, err)
	verdicts, problems := all[i].Judge(cases)
	judged = true
	report.Add(name, verdicts)
	for _, p := range problems {
		report.Fault(name, p)
		t.Error(p)
	}
	show(t, verdicts)
}

// show makes a subtest of each case, but one alone of all that fail as one rule says.
func show(t *testing.T, verdicts []Verdict) {
	counts := map[*Rule]int{}
	var rules []*Rule
	for _, v := range verdicts {
		if v.Right && !v.Passed {
			if counts[v.Rule]++; counts[v.Rule] == 1 {
				rules = append(rules, v.Rule)
			}
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			if p := v.Problem(); p != "" {
				t.Error(p)
			}
		})
	}
	for _, r := range rules {
		t.Run("expected/"+r.Name, func(t *testing.T) {
			t.Skipf("%d cases fail as expected: %s", counts[r], r.Why)
		})
	}
}

// lacksKind says that railyard has no kind of that name, which its STATUS tells; a suite without one is not run.
func lacksKind(t *testing.T, b *Bench, kind string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), b.Railyard)
	cmd.Env = []string{"CNI_COMMAND=STATUS", "RAILYARD_STATE_DIR=" + t.TempDir(), "RAILYARD_SYS=" + t.TempDir()}
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "probe", "type": "railyard", "kind": %q}`, kind))
	cmd.Stderr = io.Discard
	out, err := cmd.Output() // the exit status says nothing that the text does not
	if len(out) == 0 && err != nil {
		t.Fatalf("ask railyard for its kinds: %v", err)
	}
	if strings.Contains(string(out), "kind: ") && strings.Contains(string(out), " is unknown") {
		return "railyard has no kind " + kind
	}
	return ""
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
