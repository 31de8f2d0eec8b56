// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/plugins/dispatch"
)

// smallDisk is a tmpfs that is mounted nowhere, of a megabyte beside the store, and its file.
func smallDisk(t testing.TB) (path string, mount int) {
	t.Helper()
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	must(t, err)
	defer unix.Close(fs)
	must(t, errors.Join(unix.FsconfigSetString(fs, "size", "2m"), unix.FsconfigCreate(fs)))
	mount, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(mount) })
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), mount), mount
}

// fillDisk fills the lab's small disk until it takes not a byte more, and gives what makes room again.
func (l *lab) fillDisk() (empty func()) {
	l.t.Helper()
	path := filepath.Join(l.dir, "filler")
	f, err := os.Create(path)
	must(l.t, err)
	defer f.Close()
	for size := 1 << 16; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else {
			must(l.t, err)
		}
	}
	return func() { must(l.t, os.Remove(path)) }
}

// TestStatusOfDisk: STATUS says that no journal can be written, as an ADD would.
func TestStatusOfDisk(t *testing.T) {
	path, mount := smallDisk(t)
	l, pod := newLabOn(t, path), newSpace(t)
	status, add := call{verb: "STATUS"}, call{verb: "ADD", id: "c1", ifName: "net1", netns: pod.path}
	l.mustRun(status)
	empty := l.fillDisk()
	l.mustFail(dispatch.CodeNotReady, "no space left", status)
	l.mustFail(dispatch.CodeIO, "no space left", add)
	empty()
	l.mustRun(status)
	must(t, unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}))
	l.mustFail(dispatch.CodeNotReady, "read-only", status)
	l.mustFail(dispatch.CodeIO, "read-only", add)
	must(t, unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}))
	l.mustRun(status)
	l.mustRun(add)
}
