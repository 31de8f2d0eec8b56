// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// events builds the runner's output; each line of script is "action package test output", "-" for none.
func events(t *testing.T, script string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(strings.TrimSpace(script)) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 4)
		if len(f) < 3 {
			t.Fatalf("bad line %q", line)
		}
		e := event{Action: f[0], Package: f[1], Test: strings.Trim(f[2], "-")}
		if len(f) == 4 {
			e.Output = strings.ReplaceAll(f[3], `\t`, "\t") + "\n"
		}
		j, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\n", j)
	}
	return b.String()
}

func TestTally(t *testing.T) {
	tests := map[string]struct {
		script   string
		wantLast string
		wantIn   []string // in what is printed
		wantOut  []string // not in what is printed
		wantErr  bool
	}{
		"passing tests are silent": {
			script: `
				output a TestX === RUN   TestX
				output a TestX chatter
				pass a TestX
				output a - PASS
				output a - ok  \ta\t0.1s
				pass a -`,
			wantLast: "1 passed, 0 failed, 0 skipped",
			wantIn:   []string{"ok  \ta\t0.1s\n"},
			wantOut:  []string{"chatter", "PASS"},
		},
		"a table counts by its rows": {
			script: `
				pass a TestX/one
				pass a TestX/two
				pass a TestX
				pass a -`,
			wantLast: "2 passed, 0 failed, 0 skipped",
		},
		"a row may have slashes in its name": {
			script: `
				run a TestX
				fail a TestX/10.0.0.0/24
				pass a TestX/10.0.0.0/25
				fail a TestX
				fail a -`,
			wantLast: "1 passed, 1 failed, 0 skipped",
			wantErr:  true,
		},
		"a failed row is counted once, and heard": {
			script: `
				output a TestX === RUN   TestX
				output a TestX/one want 1, got 2
				fail a TestX/one
				pass a TestX/two
				fail a TestX
				output a - FAIL
				output a - FAIL\ta\t0.1s
				fail a -`,
			wantLast: "1 passed, 1 failed, 0 skipped",
			wantIn:   []string{"want 1, got 2", "failed:  a TestX/one\n", "FAIL\ta\t0.1s\n"},
			wantOut:  []string{"=== RUN"},
			wantErr:  true,
		},
		"a parent that fails by itself is counted": {
			script: `
				pass a TestX/one
				fail a TestX
				fail a -`,
			wantLast: "1 passed, 1 failed, 0 skipped",
			wantErr:  true,
		},
		"a skip says why": {
			script: `
				output a TestX x_test.go:1: no such device
				output a TestX --- SKIP: TestX
				skip a TestX
				pass a -`,
			wantLast: "0 passed, 0 failed, 1 skipped",
			wantIn:   []string{"skipped: a TestX: x_test.go:1: no such device\n"},
		},
		"a package that does not build fails": {
			script: `
				build-output a - x.go:1: undefined
				output a - FAIL\ta [build failed]
				fail a -`,
			wantLast: "0 passed, 1 failed, 0 skipped",
			wantIn:   []string{"x.go:1: undefined", "FAIL\ta [build failed]\n"},
			wantErr:  true,
		},
		"a test that never ends fails": {
			script: `
				output a TestX panic: timed out
				fail a -`,
			wantLast: "0 passed, 1 failed, 0 skipped",
			wantIn:   []string{"panic: timed out", "never ended"},
			wantErr:  true,
		},
		"a run that is cut off fails": {
			script: `
				pass a TestX
				pass a -
				pass b TestY
				run b TestZ`,
			wantLast: "2 passed, 1 failed, 0 skipped",
			wantErr:  true,
		},
		"no package at all fails": {
			script:   "start - -",
			wantLast: "0 passed, 1 failed, 0 skipped",
			wantErr:  true,
		},
		"a package without tests is no closing line": {
			script: `
				output a - ?   \ta\t[no test files]
				skip a -
				pass b TestX
				pass b -`,
			wantLast: "1 passed, 0 failed, 0 skipped",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "sub", "closing.txt")
			var out strings.Builder
			err := run([]string{"-closing", file}, strings.NewReader(events(t, tt.script)), &out)
			if (err != nil) != tt.wantErr {
				t.Errorf("error %v, want one: %v", err, tt.wantErr)
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if diff := cmp.Diff(tt.wantLast, lines[len(lines)-1]); diff != "" {
				t.Errorf("last line (-want +got):\n%s", diff)
			}
			for _, s := range tt.wantIn {
				if !strings.Contains(out.String(), s) {
					t.Errorf("output lacks %q:\n%s", s, &out)
				}
			}
			for _, s := range tt.wantOut {
				if strings.Contains(out.String(), s) {
					t.Errorf("output has %q:\n%s", s, &out)
				}
			}
			saved, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(string(saved), tt.wantLast+"\n") || strings.Contains(string(saved), "?   ") {
				t.Errorf("closing file is %q", saved)
			}
		})
	}
}

func TestWhatIsNoEventIsPrinted(t *testing.T) {
	var out strings.Builder
	if err := run(nil, strings.NewReader("go: something is wrong\n"), &out); err == nil {
		t.Error("no error although no test ran")
	}
	if !strings.HasPrefix(out.String(), "go: something is wrong\n") {
		t.Errorf("got %q", &out)
	}
}
