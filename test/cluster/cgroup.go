// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cgroupMount = "/sys/fs/cgroup"
	cgroupsFile = "cgroups" // in the folder of what they belong to, for whoever cleans up after a killed process
)

// cgroups is a branch of the tree of cgroups: one folder in each v1 hierarchy, below where this process is, or one in v2's.
type cgroups struct {
	controllers []string // of v1, each with a folder of dirs; none for v2
	dirs        []string
}

// newCgroups makes a branch, and writes into the folder record which one it is. v2's hangs below the root, as nothing else that has
// processes may have controllers below it.
func newCgroups(name, record string) (*cgroups, error) {
	membership, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupMount, &st); err != nil {
		return nil, fmt.Errorf("look at the cgroups in %s: %w", cgroupMount, err)
	}
	c := &cgroups{}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		c.dirs = []string{filepath.Join(cgroupMount, name)}
	} else {
		c.controllers, c.dirs = v1Branch(string(membership), name, func(dir string) bool {
			_, err := os.Stat(dir)
			return err == nil
		})
	}
	if len(c.dirs) == 0 {
		return nil, fmt.Errorf("no cgroups are mounted in %s: mount those of the kernel", cgroupMount)
	}
	// Before they are made: a record of what is not there harms nobody.
	if err := os.WriteFile(filepath.Join(record, cgroupsFile), []byte(strings.Join(c.dirs, "\n")+"\n"), 0o600); err != nil {
		return nil, err
	}
	for i, dir := range c.dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, errors.Join(err, c.remove())
		}
		if len(c.controllers) > 0 && c.controllers[i] == "cpuset" {
			if err := inheritCPUs(dir); err != nil {
				return nil, errors.Join(err, c.remove())
			}
		}
	}
	return c, nil
}

// v1Branch gives the hierarchies that are mounted, from the text of /proc/self/cgroup, and the folder that name has in each.
func v1Branch(membership, name string, mounted func(string) bool) (controllers, dirs []string) {
	for line := range strings.Lines(membership) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || f[1] == "" {
			continue // v2, which has no controllers beside v1
		}
		root := filepath.Join(cgroupMount, strings.TrimPrefix(f[1], "name="))
		if !mounted(root) {
			continue
		}
		controllers = append(controllers, f[1])
		dirs = append(dirs, filepath.Join(root, f[2], name))
	}
	return controllers, dirs
}

// inheritCPUs gives a new v1 cpuset what its parent has: without, no process may enter it.
func inheritCPUs(dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		data, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// add moves a process in.
func (c *cgroups) add(pid int) error {
	for _, dir := range c.dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("move process %d into %s: %w", pid, dir, err)
		}
	}
	return nil
}

// empty removes what the processes made below the branch; they must have been killed. It may be called again.
func (c *cgroups) empty() error {
	var below []string
	for _, dir := range c.dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if e.IsDir() {
				below = append(below, filepath.Join(dir, e.Name()))
			}
		}
	}
	return removeCgroups(below)
}

// remove removes the branch, whose processes must have been killed. It may be called again.
func (c *cgroups) remove() error { return removeCgroups(c.dirs) }

// removeCgroups waits a little for the dead to be gone.
func removeCgroups(dirs []string) error {
	var errs []error
	deadline := time.Now().Add(10 * time.Second)
	for _, dir := range dirs {
		for {
			err := removeBranch(dir)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
				errs = append(errs, err)
				break
			}
			time.Sleep(5 * time.Millisecond) // there is no event for a cgroup that becomes empty, in v1
		}
	}
	return errors.Join(errs...)
}

// removeBranch removes a cgroup and those below it. One that is not there is removed already.
func removeBranch(dir string) error {
	var below []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			below = append(below, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	for i := len(below) - 1; i >= 0; i-- {
		if err := unix.Rmdir(below[i]); err != nil && !errors.Is(err, unix.ENOENT) {
			return &fs.PathError{Op: "rmdir", Path: below[i], Err: err}
		}
	}
	return nil
}

// sweepCgroups removes what the records in the folders below dir name. For after a kill: what can't be removed is left.
func sweepCgroups(dir string) {
	records, err := filepath.Glob(filepath.Join(dir, "*", cgroupsFile))
	if err != nil {
		return
	}
	for _, record := range records {
		data, err := os.ReadFile(record)
		if err != nil {
			continue
		}
		_ = removeCgroups(strings.Fields(string(data)))
	}
}
