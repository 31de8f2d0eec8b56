// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// lockHolder says, for people, which process holds the lock of the file at path: /proc/locks lists each with the
// file's device and inode. Outside of the host's PID namespace the process has no name, which is said instead.
func lockHolder(path string) string {
	const unknown = "a process that this one cannot see"
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return unknown
	}
	f, err := os.Open("/proc/locks")
	if err != nil {
		return unknown
	}
	defer func() { _ = f.Close() }() // read only
	want := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 4711 00:1b:1234 0 EOF
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[1] != "FLOCK" || fields[5] != want {
			continue
		}
		comm, err := os.ReadFile("/proc/" + fields[4] + "/comm")
		if err != nil {
			return unknown
		}
		return fmt.Sprintf("process %s (%s)", fields[4], strings.TrimSpace(string(comm)))
	}
	return unknown
}
