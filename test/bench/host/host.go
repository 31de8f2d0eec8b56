// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package host says where a benchmark was taken: the machine, its load, the commit.
package host

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/test/bench/report"
)

// About says where and when this run measures.
func About(ctx context.Context) report.About {
	a := report.About{Machine: machine(), Commit: commit(ctx), Started: time.Now().UTC().Format(time.RFC3339)}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		a.Load = strings.Join(strings.Fields(string(b))[:3], " ")
	}
	return a
}

func machine() report.Machine {
	m := report.Machine{Cores: runtime.NumCPU(), Go: goVersion(), CPU: Field("/proc/cpuinfo", "model name", ":"), OS: strings.Trim(Field("/etc/os-release", "PRETTY_NAME", "="), "\"")}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		m.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
	}
	var s unix.Sysinfo_t
	if err := unix.Sysinfo(&s); err == nil {
		m.MemoryGB = float64(uint64(s.Totalram)*uint64(s.Unit)/1e8) / 10
	}
	m.Name = fmt.Sprintf("%s, %d cores, %s", m.CPU, m.Cores, m.Kernel)
	return m
}

// Field is the value after the first line of path that begins with name.
func Field(path, name, sep string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, sep); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

// commit is the source's, with a mark when the tree differs from it.
func commit(ctx context.Context) string {
	b, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return "not committed"
	}
	return strings.TrimSpace(string(b))
}

// goVersion is the toolchain's that built this program.
func goVersion() string {
	if i, ok := debug.ReadBuildInfo(); ok {
		return i.GoVersion
	}
	return runtime.Version()
}
