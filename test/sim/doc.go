// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package sim runs clusters of real agents, each with its real store, on one API server in virtual time, and has happen to
// them what happens to clusters: see [Kind] and the faults of a [Plan]. After each step package check judges the whole.
//
// A [Plan] is drawn from a seed; what happens within a run is drawn from the seed as well, and one thing happens at a time, so
// that a run can be repeated. docs/design/0007-simulator.md says how, and how exactly.
package sim
