// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package dispatch is the rim between a plugin and whoever executes it: the environment, stdin and stdout of the CNI
// specification (version 1.1.0, SPEC.md) on one side, functions with arguments and errors on the other.
//
// [Run] reads the call, refuses what is wrong with it before the plugin does anything, calls the verb's function,
// and prints its result at the version that the config asked for, or its error as a JSON object. Nothing else is ever
// written to stdout. It stands where other plugins use the reference library's skel, which reads the process's
// environment by itself, insists on CNI_PATH, and looks at the namespace only after the deed is done and printed.
//
// The codes of all errors are in this package, in codes.go. An error that carries none of them is a fault of
// the program: it is reported with [CodeBug].
package dispatch
