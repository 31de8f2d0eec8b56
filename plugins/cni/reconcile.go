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
// inode: one that is gone, or that exists and is abandoned (see Evidence). No name ever makes an attachment dead. It is
// used by one goroutine, beside any number of calls of the plugin, in the host's network namespace.
type Reconciler struct {
	plugin   plugin
	dir      *journal.Dir
	evidence Evidence
	seen     map[journal.ID]dead
}

// Evidence is by what an attachment is known to be dead. Every doubt is for the living.
type Evidence struct {
	// Gone says that a namespace does not exist any more, for which doubt is false; Grace is how long it has to say so.
	Gone  func(ipam.NetNS) bool
	Grace time.Duration
	// Kubelet says what runs on the node. A namespace that exists is abandoned when for AbandonedGrace no process is in it and the
	// kubelet knows neither the attachment's pod nor a device that it moved. Nil: a namespace that exists is alive.
	Kubelet        func(context.Context) (Running, error)
	AbandonedGrace time.Duration
}

// Report is what a look found and did.
type Report struct {
	Attachments int
	// Gone and Abandoned were undone, for that reason.
	Gone, Abandoned int
	// Empty are in a namespace that exists, without a process in it.
	Empty int
	// Doubt says why nobody can know whether those are abandoned: processes cannot be seen, or the kubelet does not answer.
	Doubt error
}

// verdict is what a look says of an attachment.
type verdict int

const (
	alive verdict = iota
	gone
	abandoned
)

func (v verdict) String() string {
	return [...]string{"alive", "its network namespace is gone", "its network namespace is abandoned: no process is in it, and the kubelet knows nothing of it"}[v]
}

type dead struct {
	netns ipam.NetNS
	by    verdict
	since time.Duration
}

// NewReconciler is for the journals in stateDir.
func NewReconciler(o Options, stateDir string, e Evidence) (*Reconciler, error) {
	if o.Hit == nil {
		o.Hit = func(string) {}
	}
	r := &Reconciler{plugin: plugin{o}, evidence: e, seen: map[journal.ID]dead{}}
	var err error
	r.dir, err = r.plugin.open(stateDir)
	return r, err
}

// Look looks at every journal once, at the time now of the boot clock, and undoes those that were dead by the same evidence
// at every look for its grace time, and at two looks or more.
func (r *Reconciler) Look(ctx context.Context, now time.Duration) (Report, error) {
	all, err := r.dir.List()
	errs := []error{err}
	seen := map[journal.ID]dead{}
	v := r.newView(ctx, leaders)
	for _, j := range all {
		if ctx.Err() != nil {
			break
		}
		by := v.judge(j)
		if by == alive {
			continue
		}
		was, known := r.seen[j.ID()]
		switch {
		case !known || was.netns != j.NetNS || was.by != by:
			was = dead{j.NetNS, by, now}
			r.suspect(ctx, j, by)
		case now-was.since >= r.grace(by):
			outcome, err := r.end(ctx, j, by)
			errs = append(errs, err)
			if outcome == ended {
				v.report.count(by)
			}
			if outcome != waits {
				continue
			}
		}
		seen[j.ID()] = was
	}
	r.seen = seen
	v.report.Attachments = len(all)
	return v.report, errors.Join(append(errs, ctx.Err())...)
}

func (r *Report) count(by verdict) {
	if by == gone {
		r.Gone++
	} else {
		r.Abandoned++
	}
}

func (r *Reconciler) grace(by verdict) time.Duration {
	if by == gone {
		return r.evidence.Grace
	}
	return r.evidence.AbandonedGrace
}

// suspect tells people in time: an abandoned namespace is still there for them to look at.
func (r *Reconciler) suspect(ctx context.Context, j journal.Journal, by verdict) {
	if by == abandoned {
		r.plugin.Log.InfoContext(ctx, "an attachment looks abandoned; it is undone if that stays so", "for", r.grace(by).String(), "network", j.Network,
			"containerID", j.ContainerID, "ifName", j.IfName, "netns", j.NetNS.Path, "pod", j.Pod.Namespace+"/"+j.Pod.Name)
	}
}

// delegates says that another IPAM plugin has a hand in the attachment. It can only be called where the runtime calls it,
// with that plugin's files at hand, which is not where an agent runs: such an attachment waits for its DEL.
func delegates(j journal.Journal) bool {
	return slices.ContainsFunc(j.Steps, func(s journal.Step) bool { return s.Delegate != nil })
}

// outcome is what became of an attachment that was to be undone.
type outcome int

const (
	waits outcome = iota // for the next look, as dead as it was
	lives                // or is made an end of by somebody else
	ended
)

// end undoes the attachment unless somebody works on it, or has made it anew since it was looked at, or it is alive after
// all. What cannot be given back yet is tried again at the next look.
func (r *Reconciler) end(ctx context.Context, looked journal.Journal, by verdict) (outcome, error) {
	id := looked.ID()
	short, cancel := context.WithTimeout(ctx, gcLockWait)
	defer cancel()
	lock, err := r.dir.Lock(short, id)
	switch {
	case errors.Is(err, journal.ErrLocked):
		return waits, nil
	case err != nil:
		return waits, dispatch.Errorf(dispatch.CodeIO, "%w", err)
	}
	defer lock.Unlock()
	j, err := r.dir.Read(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return lives, nil // no more: its DEL came after all
	case err != nil:
		return waits, journalError(err)
	case j.NetNS != looked.NetNS || r.newView(ctx, threads).judge(j) != by:
		return lives, nil
	}
	u := undoing{plugin: &r.plugin, dir: r.dir, journal: j, outlived: by == abandoned}
	if err := u.run(ctx); err != nil {
		return waits, err
	}
	if _, err := r.dir.Read(id); !errors.Is(err, fs.ErrNotExist) {
		return waits, nil
	}
	r.plugin.Log.InfoContext(ctx, "attachment undone", "reason", by.String(), "network", j.Network, "containerID", id.ContainerID, "ifName", id.IfName,
		"netns", j.NetNS.Path, "pod", j.Pod.Namespace+"/"+j.Pod.Name)
	return ended, nil
}
