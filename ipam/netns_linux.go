// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// NetNS identifies a network namespace by the file that keeps it alive: the path, and the device and inode that
// were behind it. The anchor is the folder through which it was seen; a process whose view of that folder is not
// the same folder cannot tell a dead namespace from a missing mount, and so knows nothing. No part of the path up
// to the file is a symbolic link, because /proc/self, and in a container /var/run, lead each process elsewhere.
type NetNS struct {
	Path      string `json:"path"`
	Dev       uint64 `json:"dev"`
	Ino       uint64 `json:"ino"`
	AnchorDev uint64 `json:"anchorDev"`
	AnchorIno uint64 `json:"anchorIno"`
}

// StatNetNS identifies the namespace at path. A path that is no network namespace is an ErrInvalid; a missing one
// is fs.ErrNotExist.
func StatNetNS(path string) (NetNS, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return NetNS{}, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	// NS_GET_NSTYPE means nothing to a file outside of nsfs (ENOTTY), ioctl_nsfs(2).
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return NetNS{}, fmt.Errorf("%w: %s is not a network namespace", ErrInvalid, path)
	}
	var s, a unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil {
		return NetNS{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return NetNS{}, err
	}
	path = filepath.Join(dir, filepath.Base(path))
	if err := unix.Stat(anchor(path), &a); err != nil {
		return NetNS{}, &fs.PathError{Op: "stat", Path: anchor(path), Err: err}
	}
	return NetNS{Path: path, Dev: s.Dev, Ino: s.Ino, AnchorDev: a.Dev, AnchorIno: a.Ino}, nil
}

// Gone reports that the namespace no longer exists: its folder is the one it was seen in, and the file is missing
// or another. Every doubt is an answer of false.
func (n NetNS) Gone() bool {
	if n.Path == "" {
		return false
	}
	var a, s unix.Stat_t
	if unix.Stat(anchor(n.Path), &a) != nil || a.Dev != n.AnchorDev || a.Ino != n.AnchorIno {
		return false
	}
	switch err := unix.Stat(n.Path, &s); {
	case err == nil:
		return s.Dev != n.Dev || s.Ino != n.Ino
	default:
		return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
	}
}

// anchor is the folder of path, or /proc itself for /proc/<pid>/ns/net, whose folder dies with the process.
func anchor(path string) string {
	if strings.HasPrefix(filepath.Clean(path), "/proc/") {
		return "/proc"
	}
	return filepath.Dir(path)
}
