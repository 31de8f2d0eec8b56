// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package peers runs other people's test suites on railyard: those of the macvlan and host-device plugins of
// github.com/containernetworking/plugins, whose work railyard's kinds of the same names take over.
//
// Their test files come from the module cache, at the version that suite/go.mod pins, and none of them is in this
// repository. The compiler sees them, by an overlay, beside a package of suite that stands where their plugin stood: it
// executes railyard for every call. A kernel without dummy links gets its masters and devices from the driver ifb,
// which is the one change that is made to a file: netlink.Dummy is read as netlink.Ifb.
//
// What does not pass is in expected.txt with the reason. It binds both ways: a case that fails and is not there, that
// is there and passes, or that fails with other words than those expected, fails the test, and so does a suite whose number of cases
// has changed. An expected failure is reported as skipped, never as passed.
//
// Whoever runs it needs root. The suites get a mount and a network namespace of their own.
package peers
