// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"encoding/json"
	"fmt"
)

// Case is what became of one case of a suite.
type Case struct {
	// Name is the suite's own. Where several cases have the same, " #2" and so on tells the later ones apart.
	Name   string
	Passed bool
	// Said is why it failed, with all errors that railyard gave.
	Said string
}

// parseReport reads ginkgo's JSON report. Something besides the cases that fails is an error, as is a case that did not run.
func parseReport(text []byte) ([]Case, error) {
	var suites []struct {
		SpecReports []struct {
			LeafNodeType, LeafNodeText, State string
			Failure                           struct {
				Message, ForwardedPanic string
				Location                struct{ LineNumber int }
			}
			CapturedGinkgoWriterOutput string
		}
	}
	if err := json.Unmarshal(text, &suites); err != nil {
		return nil, fmt.Errorf("read the report: %w", err)
	}
	var cases []Case
	seen := map[string]int{}
	for _, s := range suites {
		for _, r := range s.SpecReports {
			if r.LeafNodeType != "It" {
				if r.State != "passed" {
					return nil, fmt.Errorf("%s %s: %s: %s", r.LeafNodeType, r.LeafNodeText, r.State, r.Failure.Message)
				}
				continue
			}
			c := Case{Name: r.LeafNodeText}
			if seen[c.Name]++; seen[c.Name] > 1 {
				c.Name = fmt.Sprintf("%s #%d", c.Name, seen[c.Name])
			}
			switch r.State {
			case "passed":
				c.Passed = true
			case "failed", "panicked", "timedout", "interrupted":
				c.Said = fmt.Sprintf("line %d: %s: %s %s\n%s", r.Failure.Location.LineNumber, r.State, r.Failure.Message, r.Failure.ForwardedPanic,
					r.CapturedGinkgoWriterOutput)
			default:
				return nil, fmt.Errorf("%s did not run: it is %s", c.Name, r.State)
			}
			cases = append(cases, c)
		}
	}
	return cases, nil
}
