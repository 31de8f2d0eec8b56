// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/test/thread"
)

// space is a set of namespaces that only our file descriptors keep alive: they end with this process, however it ends.
type space struct {
	net, mnt, uts *os.File // nil where the host's is shared
}

// newSpace makes new namespaces of the kinds in flags (CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUTS) and runs setup inside of them.
// In a new mount namespace nothing that is mounted spreads to the host.
func newSpace(flags int, setup func() error) (*space, error) {
	s := &space{}
	err := thread.Do(func() error {
		if err := unix.Unshare(flags | unix.CLONE_FS); err != nil {
			return fmt.Errorf("make namespaces (this needs root): %w", err)
		}
		if flags&unix.CLONE_NEWNS != 0 {
			if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return fmt.Errorf("make the mounts private: %w", err)
			}
		}
		for _, ns := range []struct {
			flag int
			file **os.File
			name string
		}{{unix.CLONE_NEWNET, &s.net, "net"}, {unix.CLONE_NEWNS, &s.mnt, "mnt"}, {unix.CLONE_NEWUTS, &s.uts, "uts"}} {
			if flags&ns.flag == 0 {
				continue
			}
			f, err := os.Open("/proc/thread-self/ns/" + ns.name)
			if err != nil {
				return err
			}
			*ns.file = f
		}
		if setup == nil {
			return nil
		}
		return setup()
	})
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// close lets the namespaces go; they end when the last process in them does. It may be called again.
func (s *space) close() error {
	var errs []error
	for _, f := range []*os.File{s.net, s.mnt, s.uts} {
		if f != nil {
			errs = append(errs, ignoreClosed(f.Close()))
		}
	}
	return errors.Join(errs...)
}

// enter moves the calling thread, which must be locked, into the namespaces. There is no way back from it.
func (s *space) enter() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("enter namespaces: %w", err)
	}
	for _, ns := range []struct {
		file *os.File
		flag int
	}{{s.uts, unix.CLONE_NEWUTS}, {s.net, unix.CLONE_NEWNET}, {s.mnt, unix.CLONE_NEWNS}} {
		if ns.file == nil {
			continue
		}
		if err := unix.Setns(int(ns.file.Fd()), ns.flag); err != nil {
			return fmt.Errorf("enter namespace: %w", err)
		}
	}
	return nil
}

// do runs f on a thread inside of the namespaces. What f starts in other goroutines is outside.
func (s *space) do(f func() error) error {
	return thread.Do(func() error {
		if err := s.enter(); err != nil {
			return err
		}
		return f()
	})
}

// nsPath names an open namespace so that another process can open it, as long as we live.
func nsPath(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }
