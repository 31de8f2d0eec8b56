// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/plugins/cni/journal"
)

const (
	// lockWait is for a plugin that has the lease store; an agent keeps it.
	lockWait = 3 * time.Second
	// busyWait is for an ADD that is under way; a runtime ends one after a few minutes at the latest.
	busyWait = 4 * time.Minute
	// shown bounds how many attachments an error names.
	shown = 10
	// away is what a plugin is called while it is decided whether it goes.
	away = ".removed"
)

// ErrInUse: pods of the node still have attachments or leases, or the agent still runs. Nothing was removed.
var ErrInUse = errors.New("the CNI plugins are still in use")

// Remove takes the plugins out of the folder from, and what is railyard-ipam under the names of as. It refuses with ErrInUse while the
// node whose state is in stateDir has attachments or leases, or an agent. It may be repeated, and after its death at any step too.
//
// New ADDs fail from its first step on; one that has begun is waited for, and counts.
func Remove(ctx context.Context, log *slog.Logger, from, stateDir string, as ...string) (err error) {
	if err := idle(ctx, stateDir); err != nil { // in the usual case nothing is moved for it
		return err
	}
	moved, err := moveAway(from, as)
	defer func() {
		if err != nil {
			for _, name := range moved {
				err = errors.Join(err, putBack(from, name))
			}
		}
	}()
	if err != nil {
		return explain(err)
	}
	for _, name := range moved {
		if err := notExecuted(ctx, hidden(from, name)); err != nil {
			return err
		}
	}
	if err := idle(ctx, stateDir); err != nil {
		return err
	}
	for _, name := range moved {
		switch err := os.Remove(hidden(from, name)); {
		case err == nil:
			log.InfoContext(ctx, "CNI plugin removed", "path", filepath.Join(from, name))
		case !errors.Is(err, fs.ErrNotExist):
			return explain(err)
		}
	}
	return syncDir(from)
}

// moveAway hides the plugins, and says which ones: also those that one which died before has hidden. What railyard-ipam is told from
// others' programs by goes last.
func moveAway(from string, as []string) (moved []string, err error) {
	ours, err := os.ReadFile(filepath.Join(from, "railyard-ipam"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, name := range as {
		data, err := os.ReadFile(filepath.Join(from, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return moved, err
		}
		if err == nil && !bytes.Equal(data, ours) { // another's program has the name again
			continue
		}
		if err := hide(from, name); err != nil {
			return moved, err
		}
		moved = append(moved, name)
	}
	for _, name := range Plugins() {
		if err := hide(from, name); err != nil {
			return moved, err
		}
		moved = append(moved, name)
	}
	return moved, nil
}

func hide(dir, name string) error {
	if err := os.Rename(filepath.Join(dir, name), hidden(dir, name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func hidden(dir, name string) string { return filepath.Join(dir, "."+name+away) }

// putBack undoes a move, unless a plugin has been installed meanwhile.
func putBack(dir, name string) error {
	err := os.Link(hidden(dir, name), filepath.Join(dir, name))
	if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("put %s back: %w", name, err)
	}
	if err := os.Remove(hidden(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// notExecuted waits until nobody executes the program: the kernel refuses to open one for writing that is.
func notExecuted(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, busyWait)
	defer cancel()
	for {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		switch {
		case err == nil:
			return f.Close()
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case !errors.Is(err, unix.ETXTBSY):
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s is being executed", ErrInUse, path)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// idle is nil if no attachment and no lease is on the node.
func idle(ctx context.Context, stateDir string) error {
	if _, err := os.Stat(stateDir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	dir, err := journal.Open(stateDir, nil)
	if err != nil {
		return err
	}
	journals, err := dir.List()
	if err != nil {
		return fmt.Errorf("%w: nobody can say by whom: %w", ErrInUse, err)
	}
	var users []string
	for _, j := range journals {
		users = append(users, j.ID().String())
	}
	if len(users) == 0 {
		if users, err = leases(ctx, stateDir); err != nil {
			return err
		}
	}
	if n := len(users); n > 0 {
		if n > shown {
			users = append(users[:shown], fmt.Sprintf("and %d more", n-shown))
		}
		return fmt.Errorf("%w by %s: delete the pods that have a rail on this node, wait until its leases are gone (kubectl get ipblocks), then take the agent away", ErrInUse, strings.Join(users, ", "))
	}
	return nil
}

// leases names whom the node's store has leased to. A store of another boot, or none, is nobody's.
func leases(ctx context.Context, stateDir string) (users []string, err error) {
	o, err := store.SystemOptions()
	if err != nil {
		return nil, err
	}
	o.MustExist = true
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	s, err := store.Open(ctx, filepath.Join(stateDir, "ipam.db"), o)
	switch {
	case errors.Is(err, store.ErrNoStore):
		return nil, nil
	case errors.Is(err, store.ErrLocked):
		return nil, fmt.Errorf("%w by the node's agent: take its DaemonSet away first", ErrInUse)
	case err != nil:
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	all, err := s.Leases()
	for _, l := range all {
		if l.Key.Network == ipam.ConflictNetwork { // nobody's
			continue
		}
		users = append(users, fmt.Sprintf("%s/%s (%s, %s)", l.Pod.Namespace, l.Pod.Name, l.Key.Network, l.Key.IfName))
	}
	return users, err
}
