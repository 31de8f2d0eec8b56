// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"strings"
	"testing"

	"github.com/railyard-net/railyard/test/cluster"
)

func TestMigrateOptions(t *testing.T) {
	none := func(string) string { return "" }
	var out strings.Builder
	if err := run(t.Context(), []string{"migrate", "--help"}, none, &out, io.Discard); err != nil || !strings.Contains(out.String(), "-from") {
		t.Errorf("%v: %s", err, &out)
	}
	for wantErr, args := range map[string][]string{
		"-aply":                          {"--aply"},
		`"now" is not a flag`:            {"now"},
		"leave one out":                  {"--from=whereabouts", "--apply", "--dry-run"},
		"--kubeconfig":                   {"--from=whereabouts"},
		"write one of nv-ipam, whereabo": {"--from=calico"},
	} {
		err := run(t.Context(), append([]string{"migrate"}, args...), none, io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), wantErr) {
			t.Errorf("%v: %v, want %q", args, err, wantErr)
		}
	}
}

// TestMigrate runs the command on a cluster that has nothing to take over, as its administrator.
func TestMigrate(t *testing.T) {
	api := cluster.NewAPI(t, "manifests/crd", "manifests/install/multus-crd")
	for _, from := range []string{"whereabouts", "nv-ipam"} {
		var out strings.Builder
		args := []string{"migrate", "--from=" + from, "--kubeconfig=" + api.Kubeconfig(), "--settle=10ms"}
		if err := run(t.Context(), args, func(string) string { return "" }, &out, io.Discard); err != nil || !strings.Contains(out.String(), "POOL") {
			t.Errorf("%s: %v\n%s", from, err, &out)
		}
		out.Reset()
		if err := run(t.Context(), append(args, "--apply"), func(string) string { return "" }, &out, io.Discard); err != nil || !strings.Contains(out.String(), "done: 0 pools") {
			t.Errorf("%s: %v\n%s", from, err, &out)
		}
	}
}
