// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package build says which build a program is. The CNI plugins have it too, so it needs nothing but the standard library.
package build

import (
	"runtime/debug"
	"strings"
)

var version string // set by the linker

// Version is what the build was told, or else what the module or its commit says.
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := strings.Trim(info.Main.Version, "()")
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && v == "devel" && len(s.Value) >= 12 {
			v += "-" + s.Value[:12]
		}
	}
	return v
}
