// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

// TestVersion: a person can ask which build it is, whatever the environment says; stdout has nothing else.
func TestVersion(t *testing.T) {
	for _, arg := range []string{"--version", "-version", "version"} {
		var stdout, stderr strings.Builder
		env := func(key string) string { return map[string]string{"CNI_COMMAND": "ADD"}[key] }
		rc := run(t.Context(), []string{"railyard", arg}, env, nil, strings.NewReader(""), &stdout, &stderr)
		if name, version, _ := strings.Cut(strings.TrimSpace(stdout.String()), " "); rc != 0 || name != "railyard" || version == "" || stderr.Len() != 0 {
			t.Errorf("%s: rc %d, %q, %q", arg, rc, stdout.String(), stderr.String())
		}
	}
}

// TestUsage: it explains itself on stderr, as stdout is the runtime's.
func TestUsage(t *testing.T) {
	var stdout, stderr strings.Builder
	rc := run(t.Context(), []string{"railyard", "--help"}, func(string) string { return "" }, nil, strings.NewReader(""), &stdout, &stderr)
	if rc != 0 || stdout.Len() != 0 || !strings.Contains(stderr.String(), "--version") {
		t.Errorf("rc %d, %q, %q", rc, stdout.String(), stderr.String())
	}
}
