// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/test/cluster"
)

const stateDir = "/run/railyard"

// smallDisk gives the node a state folder on a disk of its own.
func smallDisk(n *node) {
	n.lab.t.Helper()
	must(n.lab.t, n.Do(func() error {
		if err := os.MkdirAll(stateDir, 0o700); err != nil {
			return err
		}
		return unix.Mount("state", stateDir, "tmpfs", 0, "size=2m")
	}))
}

// fill fills the disk until it takes not a byte more, and gives what makes room again.
func fill(n *node) (empty func()) {
	n.lab.t.Helper()
	path := filepath.Join(stateDir, "filler")
	must(n.lab.t, n.Do(func() error {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer f.Close()
		for size := 1 << 16; size > 0; {
			if _, err := f.Write(make([]byte, size)); err == nil {
				continue
			} else if !errors.Is(err, unix.ENOSPC) {
				return err
			}
			size /= 2
		}
		return nil
	}))
	return func() { must(n.lab.t, n.Do(func() error { return os.Remove(path) })) }
}

// readOnly makes the disk so for whoever opens files from now on, which the agent has done, and gives what makes it writable again.
func readOnly(n *node) (writable func()) {
	n.lab.t.Helper()
	must(n.lab.t, n.Do(func() error {
		if err := unix.Mount(stateDir, stateDir, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		return unix.Mount("", stateDir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}))
	return func() { must(n.lab.t, n.Do(func() error { return unix.Unmount(stateDir, unix.MNT_DETACH) })) }
}

// The disk of the state folder is full, or cannot be written: an ADD says so with a code of its own and leaves nothing, a DEL ends what
// there was, at once or, where it cannot, when the disk can be written again; and then all is as ever.
func TestDisk(t *testing.T) {
	for name, tc := range map[string]struct {
		hurt func(*node) (heal func())
		// dels says that a DEL succeeds meanwhile, and words what an ADD says.
		dels  bool
		words string
	}{
		"full":      {fill, true, "no space left on device"},
		"read-only": {readOnly, false, "read-only file system"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, "10.42.0.0/24", 64, smallDisk, "n1")
			n := l.nodes[0]
			links := func(id string) (names []string) {
				t.Helper()
				must(t, n.InPod(id, func() error {
					entries, err := os.ReadDir("/proc/sys/net/ipv4/conf")
					for _, e := range entries {
						names = append(names, e.Name())
					}
					return err
				}))
				return names
			}
			call := func(verb, id string) answer {
				t.Helper()
				a, err := n.call(t.Context(), verb, id, cluster.PodNetNSPath(id), nil)
				must(t, err)
				return a
			}
			for _, id := range []string{"old", "new"} {
				_, err := n.NewPodNetNS(id)
				must(t, err)
			}
			cluster.Eventually(t, "the first ADD", func() error {
				if a := call("ADD", "old"); a.code != 0 {
					return errors.New(a.msg)
				}
				return nil
			})
			before, err := n.attachments()
			must(t, err)

			heal := tc.hurt(n)
			a := call("ADD", "new")
			if a.code == 0 || a.code >= 999 || !strings.Contains(a.msg, tc.words) {
				t.Errorf("ADD: code %d: %s", a.code, a.msg)
			}
			if slices.Contains(links("new"), ifName) {
				t.Error("the ADD that failed left an interface")
			}
			if after, err := n.attachments(); err != nil || !slices.Equal(before, after) {
				t.Errorf("journals %v, %v", after, err)
			}
			if a := call("DEL", "new"); tc.dels != (a.code == 0) || a.code >= 999 {
				t.Errorf("DEL of what never was: code %d: %s", a.code, a.msg)
			}
			if a := call("DEL", "old"); tc.dels != (a.code == 0) || a.code >= 999 {
				t.Errorf("DEL: code %d: %s", a.code, a.msg)
			}
			heal()

			for _, id := range []string{"old", "new"} {
				if a := call("DEL", id); a.code != 0 {
					t.Errorf("DEL %s: code %d: %s", id, a.code, a.msg)
				}
				if slices.Contains(links(id), ifName) {
					t.Errorf("%s has its interface still", id)
				}
			}
			if a := call("ADD", "new"); a.code != 0 {
				t.Errorf("ADD afterwards: code %d: %s", a.code, a.msg)
			}
			if a := call("DEL", "new"); a.code != 0 {
				t.Errorf("DEL afterwards: code %d: %s", a.code, a.msg)
			}
			l.soundBlocks()
			n.kill()
			if leases, err := n.leases(); err != nil || len(leases) > 0 {
				t.Errorf("leases %v, %v", leases, err)
			}
		})
	}
}
