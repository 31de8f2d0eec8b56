// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const (
	dirPrefix = "railyard-test-"
	lockName  = "in-use"
)

// scratch is a temporary folder that is marked as in use by a file lock, so that the folders of killed processes can be told apart.
type scratch struct {
	dir  string
	lock *os.File
}

// newScratch makes a folder, in parent if that is named, else in the system's place for temporary files, and there removes those
// that a killed process left.
func newScratch(parent string) (*scratch, error) {
	if parent == "" {
		parent = os.TempDir()
		sweep(parent)
	}
	dir, err := os.MkdirTemp(parent, dirPrefix)
	if err != nil {
		return nil, err
	}
	// Locked before it has its name: a sweeper never sees the file unlocked.
	lock, err := lockFile(filepath.Join(dir, lockName+".new"), os.O_CREATE)
	if err == nil {
		err = os.Rename(filepath.Join(dir, lockName+".new"), filepath.Join(dir, lockName))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make temporary folder %s: %w", dir, err), os.RemoveAll(dir))
	}
	return &scratch{dir: dir, lock: lock}, nil
}

// remove deletes the folder. It may be called again.
func (s *scratch) remove() error {
	return errors.Join(os.RemoveAll(s.dir), ignoreClosed(s.lock.Close()))
}

// sweep removes folders whose process is gone. What can't be removed is left for the next time: sweeping is a courtesy.
func sweep(parent string) {
	locks, err := filepath.Glob(filepath.Join(parent, dirPrefix+"*", lockName))
	if err != nil {
		return
	}
	for _, path := range locks {
		f, err := lockFile(path, 0)
		if err != nil {
			continue
		}
		sweepCgroups(filepath.Dir(path))
		_ = os.RemoveAll(filepath.Dir(path))
		_ = f.Close()
	}
}

// Sweep removes the folders that killed processes left in the system's place for temporary files. Starting an API does it too.
func Sweep() { sweep(os.TempDir()) }

// Lock takes an exclusive lock on a file, which is made if it is missing, and fails at once when another process has it. The lock ends
// when the file is closed or the process ends.
func Lock(path string) (*os.File, error) { return lockFile(path, os.O_CREATE) }

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
