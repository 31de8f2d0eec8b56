// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package faults has tests of our programs, as they are installed, under faults of what is around them: processes that are killed, an
// API server that refuses or hangs, disks that are full or cannot be written.
package faults
