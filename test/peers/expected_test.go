// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseExpectedRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"no suite":          "expect x\n",
		"no rule":           "suite s 1\ncase x\n",
		"rule of another":   "suite s 1\nexpect x\ncase x\nsays x\nwhy x\nsuite r 1\ncase y\n",
		"no count":          "suite s\n",
		"no reason":         "suite s 1\nexpect x\ncase x\nsays x\n",
		"no words":          "suite s 1\nexpect x\ncase x\nwhy x\n",
		"no cases":          "suite s 1\nexpect x\nsays x\nwhy x\n",
		"no value":          "suite s 1\nexpect\n",
		"bad expression":    "suite s 1\nexpect x\ncase (\nsays x\nwhy x\n",
		"unknown keyword":   "suite s 1\nexpect x\ncase x\nsays x\nwhy x\nwhen x\n",
		"keyword of a typo": "siute s 1\n",
	} {
		t.Run(name, func(t *testing.T) {
			if e, err := ParseExpected(text); err == nil {
				t.Errorf("no error, but %v", e)
			}
		})
	}
}

// TestJudge shows that the list binds both ways, and that the report counts what was.
func TestJudge(t *testing.T) {
	const rules = "suite s 2\n# a comment\n\nexpect old\ncase ^old\nsays too old\nwhy nobody has it\n"
	tests := map[string]struct {
		cases        []Case
		wantProblems []string // part of each, by case and then of the list
		wantReport   string   // its last line
	}{
		"as expected": {
			cases:      []Case{{Name: "new", Passed: true}, {Name: "old", Said: "it is too old"}},
			wantReport: "1 passed, 0 failed, 1 failed as expected",
		},
		"a failure nobody knows": {
			cases:        []Case{{Name: "new", Said: "boom"}, {Name: "old", Said: "it is too old"}},
			wantProblems: []string{"boom"},
			wantReport:   "0 passed, 1 failed, 1 failed as expected",
		},
		"an expected failure that passes": {
			cases:        []Case{{Name: "new", Passed: true}, {Name: "old", Passed: true}},
			wantProblems: []string{"it passes"},
			wantReport:   "1 passed, 1 failed, 0 failed as expected",
		},
		"another failure than expected": {
			cases:        []Case{{Name: "new", Passed: true}, {Name: "old", Said: "boom"}},
			wantProblems: []string{`does not say "too old"`},
			wantReport:   "1 passed, 1 failed, 0 failed as expected",
		},
		"a rule for nothing": {
			cases:        []Case{{Name: "new", Passed: true}, {Name: "newer", Passed: true}},
			wantProblems: []string{"names no case"},
			wantReport:   "2 passed, 1 failed, 0 failed as expected",
		},
		"a case that is gone": {
			cases:        []Case{{Name: "old", Said: "it is too old"}},
			wantProblems: []string{"has 1 cases, expected.txt says 2"},
			wantReport:   "0 passed, 1 failed, 1 failed as expected",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			all, err := ParseExpected(rules)
			must(t, err)
			verdicts, problems := all[0].Judge(tt.cases)
			var out strings.Builder
			r := NewReport(&out)
			r.Add("s", verdicts)
			for _, p := range problems {
				r.Fault("s", p)
			}
			r.Close()
			var got []string
			for _, v := range verdicts {
				if p := v.Problem(); p != "" {
					got = append(got, p)
				}
			}
			got = append(got, problems...)
			same := cmp.Comparer(func(a, b string) bool { return strings.Contains(a, b) || strings.Contains(b, a) })
			if diff := cmp.Diff(tt.wantProblems, got, same); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if diff := cmp.Diff(tt.wantReport, lines[len(lines)-1]); diff != "" {
				t.Errorf("last line (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseReport(t *testing.T) {
	const spec = `{"LeafNodeType": "It", "LeafNodeText": "x", "State": "passed"}`
	tests := map[string]struct {
		text    string
		want    []Case
		wantErr bool
	}{
		"one name twice": {
			text: `[{"SpecReports": [` + spec + `,` + spec + `]}]`,
			want: []Case{{Name: "x", Passed: true}, {Name: "x #2", Passed: true}},
		},
		"a panic": {
			text: `[{"SpecReports": [{"LeafNodeType": "It", "LeafNodeText": "x", "State": "panicked", "CapturedGinkgoWriterOutput": "before",
				"Failure": {"Message": "Test Panicked", "ForwardedPanic": "nil map", "Location": {"LineNumber": 7}}}]}]`,
			want: []Case{{Name: "x", Said: "line 7: panicked: Test Panicked nil map\nbefore"}},
		},
		"a case that is left out": {
			text:    `[{"SpecReports": [{"LeafNodeType": "It", "LeafNodeText": "x", "State": "skipped"}]}]`,
			wantErr: true,
		},
		"what all cases need failed": {
			text:    `[{"SpecReports": [{"LeafNodeType": "BeforeSuite", "State": "failed"}]}]`,
			wantErr: true,
		},
		"no report": {text: `[`, wantErr: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseReport([]byte(tt.text))
			if (err != nil) != tt.wantErr {
				t.Fatalf("error %v, want one: %v", err, tt.wantErr)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("cases (-want +got):\n%s", diff)
			}
		})
	}
}
