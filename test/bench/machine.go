// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/railyard-net/railyard/test/bench/host"
	"github.com/railyard-net/railyard/test/bench/report"
)

// about says where and what this run measures.
func about(ctx context.Context, o options) report.About {
	a := host.About(ctx)
	a.Short = o.short
	a.Peers = map[string]string{"macvlan, host-local": peerVersion(ctx, filepath.Join(o.tools, "cni", "macvlan"))}
	return a
}

// peerVersion asks the plugin, and says how it was built.
func peerVersion(ctx context.Context, path string) string {
	built := ""
	if b, err := exec.CommandContext(ctx, "go", "version", "-m", path).Output(); err == nil {
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) >= 3 && (f[0] == "mod" || f[0] == "dep") && f[1] == "github.com/containernetworking/plugins" {
				return f[1] + " " + f[2] + built
			}
			if strings.HasPrefix(line, path+": ") {
				built = ", " + f[1]
			}
		}
	}
	return "github.com/containernetworking/plugins v1.9.1" + built
}
