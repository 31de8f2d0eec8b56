// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// Reconciler undoes the attachments whose DEL never came: the runtime was wiped, a pod was deleted by force, a device
// was still on its way back when the DEL looked. What it knows of a pod is its network namespace, by device and
// inode; no name is ever compared. It is used by one goroutine, beside any number of calls of the plugin, in the
// host's network namespace.
type Reconciler struct {
	plugin plugin
	dir    *journal.Dir
	gone   func(ipam.NetNS) bool
	grace  time.Duration
	seen   map[journal.ID]dead
}

type dead struct {
	netns ipam.NetNS
	since time.Duration
}

// NewReconciler is for the journals in stateDir. The function gone says that a namespace does not exist any more, for
// which doubt is false; the grace time is how long it has to say so.
func NewReconciler(o Options, stateDir string, gone func(ipam.NetNS) bool, grace time.Duration) (*Reconciler, error) {
	if o.Hit == nil {
		o.Hit = func(string) {}
	}
	r := &Reconciler{plugin: plugin{o}, gone: gone, grace: grace, seen: map[journal.ID]dead{}}
	var err error
	r.dir, err = r.plugin.open(stateDir)
	return r, err
}

// Look looks at every journal once, at the time now of the boot clock, and undoes those whose namespace was gone at
// every look for the grace time, and at two looks or more. It says how many there are, and how many it undid.
func (r *Reconciler) Look(ctx context.Context, now time.Duration) (attachments, undone int, err error) {
	all, err := r.dir.List()
	errs := []error{err}
	seen := map[journal.ID]dead{}
	for _, j := range all {
		if ctx.Err() != nil {
			return len(all), undone, ctx.Err()
		}
		if j.NetNS == (ipam.NetNS{}) || !r.gone(j.NetNS) || delegates(j) {
			continue
		}
		was, known := r.seen[j.ID()]
		if !known || was.netns != j.NetNS {
			was = dead{j.NetNS, now}
		} else if now-was.since >= r.grace {
			ended, err := r.end(ctx, j)
			errs = append(errs, err)
			if ended {
				undone++
				continue
			}
		}
		seen[j.ID()] = was
	}
	r.seen = seen
	return len(all), undone, errors.Join(errs...)
}

// delegates says that another IPAM plugin has a hand in the attachment. It can only be called where the runtime calls it,
// with that plugin's files at hand, which is not where an agent runs: such an attachment waits for its DEL.
func delegates(j journal.Journal) bool {
	return slices.ContainsFunc(j.Steps, func(s journal.Step) bool { return s.Delegate != nil })
}

// end undoes the attachment unless somebody works on it, or has made it anew since it was looked at. What cannot be
// given back yet is tried again at the next look.
func (r *Reconciler) end(ctx context.Context, looked journal.Journal) (bool, error) {
	id := looked.ID()
	short, cancel := context.WithTimeout(ctx, gcLockWait)
	defer cancel()
	lock, err := r.dir.Lock(short, id)
	switch {
	case errors.Is(err, journal.ErrLocked):
		return false, nil
	case err != nil:
		return false, dispatch.Errorf(dispatch.CodeIO, "%w", err)
	}
	defer lock.Unlock()
	j, err := r.dir.Read(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil:
		return false, journalError(err)
	case j.NetNS != looked.NetNS || !r.gone(j.NetNS):
		return false, nil
	}
	if err := r.plugin.undo(ctx, r.dir, j, ""); err != nil {
		return false, err
	}
	if _, err := r.dir.Read(id); !errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	r.plugin.Log.InfoContext(ctx, "attachment undone, its network namespace is gone", "network", j.Network, "containerID", id.ContainerID, "ifName", id.IfName, "netns", j.NetNS.Path)
	return true, nil
}
