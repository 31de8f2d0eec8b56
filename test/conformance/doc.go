// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package conformance has the list of what railyard must do as a CNI plugin, and tells of each point what the tests say.
//
// A [Case] names its tests. Their outcome comes from the events of a test run ("go test -json") and from nowhere else: a case without
// a test shows as one that has none yet, and a test that a case names and the run does not have is an error. The
// program in table writes docs/dev/conformance.md:
//
//	go test -json ./... >events.json
//	go run ./test/conformance/table -o docs/dev/conformance.md events.json
//
// Events of several runs may be given, also of those in virtual machines, whose packages have the machine's name after an @. Cases
// that only a virtual machine can show name tests below test/vm; without events of it they show as not run.
//
// The tests of this package hold the table in the repository to the list, and the list to the tests that there are.
package conformance
