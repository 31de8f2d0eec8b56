// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package daemon is what Railyard's long-running programs have in common, so that whoever knows one knows the other:
// flags with environment equivalents and one form of --help, one structured logger, one HTTP listener for metrics
// and health, the way to the API server, and the version.
package daemon
