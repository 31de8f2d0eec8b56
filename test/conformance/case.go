// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import "strings"

// Case is one thing that must hold.
type Case struct {
	// ID is the section's letter and a number that stays the case's when others come or go.
	ID   string
	Text string
	// Tests are the tests that show it; all of them must pass. Each is a package's folder in the module, a space, and a test's name, in
	// which * stands for anything. A test that has subtests stands for all of them.
	Tests []string
}

// Section is a letter with its cases.
type Section struct {
	Letter, Title string
	Cases         []Case
}

// VM is the folder of tests that need a virtual machine, and may be missing in a run.
const VM = "test/vm"

// Sections are all cases, in order.
func Sections() []Section {
	return []Section{protocol(), add(), rollback(), del(), check(), statusAndGC(), rdma(), concurrency(), multus(), peers()}
}

// in names tests of one package.
func in(pkg string, tests ...string) []string {
	var out []string
	for _, t := range tests {
		out = append(out, pkg+" "+t)
	}
	return out
}

// vm names tests of the plugin in virtual machines.
func vm(tests ...string) []string { return in(VM+"/rails", tests...) }

// rows names subtests of one test in test/netns.
func rows(test string, names ...string) []string {
	var out []string
	for _, n := range names {
		out = append(out, "test/netns "+test+"/"+n)
	}
	return out
}

// split gives the two parts of a Case's test.
func split(test string) (pkg, name string) {
	pkg, name, _ = strings.Cut(test, " ")
	return pkg, name
}
