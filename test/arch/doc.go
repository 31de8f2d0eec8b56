// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package arch holds the repository to its own rules: who may import whom, where things lie, and what every file begins with.
//
// A rule is a [Check], a function of a [Tree] of files. The tests run all of them on the repository, and each of them on small
// trees in testdata that break it, so that a check that can no longer fail is noticed. A [Problem] says what to do, for the person
// who meets the rule by breaking it; docs/design/0001-architecture.md says why the rules are as they are.
//
// Lint rules of the same content (depguard in .golangci.yaml) tell it earlier, in the editor; this package has the last word.
package arch

import (
	"cmp"
	"fmt"
	"slices"
)

// Problem is one breach of one rule.
type Problem struct {
	Path string // file or folder
	Line int    // 0: all of it
	Text string // what is wrong
	Fix  string // why that matters and what to do
}

func (p Problem) String() string {
	where := p.Path
	if p.Line > 0 {
		where = fmt.Sprintf("%s:%d", p.Path, p.Line)
	}
	return fmt.Sprintf("%s: %s. %s", where, p.Text, p.Fix)
}

// Check is a rule by name.
type Check struct {
	Name string
	Run  func(*Tree) []Problem
}

// Checks are all rules that can be judged from the files alone. What a program links in the end is for [Linked].
func Checks() []Check {
	return []Check{
		{"folders", checkFolders},
		{"layers", checkLayers},
		{"licence", checkLicence},
		{"packagedoc", checkPackageDoc},
		{"main", checkMain},
		{"crd", checkCRDs},
		{"unfinished", checkUnfinished},
		{"machine", checkMachine},
	}
}

func sorted(problems []Problem) []Problem {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Line, b.Line))
	})
	return problems
}
