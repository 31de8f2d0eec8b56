// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

//go:build failpoint

package main

import (
	"strconv"
	"strings"
	"syscall"
)

// hooks of a binary for tests. RAILYARD_FAILPOINT names the point at which the process kills itself, as
// point or point#n for the n-th time it is there. RAILYARD_SYS stands for /sys, and
// RAILYARD_LABELS for the administrator's list of rails; without it there is none.
func hooks(getenv func(string) string) hook {
	h := hook{sys: "/sys", labels: getenv("RAILYARD_LABELS")}
	if dir := getenv("RAILYARD_SYS"); dir != "" {
		h.sys = dir
	}
	point, nth, _ := strings.Cut(getenv("RAILYARD_FAILPOINT"), "#")
	if point == "" {
		return h
	}
	left, err := strconv.Atoi(nth)
	if err != nil {
		left = 1
	}
	h.hit = func(at string) {
		if at != point {
			return
		}
		if left--; left == 0 {
			_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
			select {} // the signal is on its way
		}
	}
	return h
}
