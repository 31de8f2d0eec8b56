// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"time"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

const (
	// lockWait bounds how long a call waits for another one of the same attachment.
	lockWait = 10 * time.Second
	// releaseWait bounds what DEL spends on a lease before it leaves it to the agent.
	releaseWait = 2 * time.Second
	// deadLinkWait bounds how long ADD waits for what a dead namespace still holds.
	deadLinkWait = 2 * time.Second
	// settleWait bounds how long ADD waits for addresses to be usable.
	settleWait = 5 * time.Second
)

// Options are what the plugin needs of the world. All must be set but for StateDir, Labels and Hit.
type Options struct {
	Log *slog.Logger
	// Sys is /sys, and SysDir its path, to write to. ConfigFS is where configfs is mounted: rdma.ConfigFS.
	Sys              fs.FS
	SysDir, ConfigFS string
	// Labels is the administrator's list of the node's rails: conf.LabelFile.
	Labels string
	// StateDir is for configs that name none; empty: conf.DefaultStateDir.
	StateDir string
	// Environ is the environment of plugins that this one executes; their own CNI_ variables replace those in it.
	Environ []string
	// Leaser reaches the node's address management.
	Leaser func(conf.Paths) ipam.Leaser
	// Hit, if not nil, is called between the deeds; a test's may end the process.
	Hit func(point string)
}

// New gives the plugin's verbs.
func New(o Options) dispatch.Plugin {
	if o.Hit == nil {
		o.Hit = func(string) {}
	}
	p := &plugin{o}
	return dispatch.Plugin{Add: p.add, Del: p.del, Check: p.check, GC: p.gc, Status: p.status}
}

type plugin struct{ Options }

// open gives the journals of stateDir.
func (p *plugin) open(stateDir string) (*journal.Dir, error) {
	d, err := journal.Open(stateDir, p.Hit)
	if err != nil {
		return nil, dispatch.Errorf(dispatch.CodeIO, "%w", err)
	}
	return d, nil
}

// lock opens the journals and takes the lock of the call's attachment.
func (p *plugin) lock(ctx context.Context, stateDir string, id journal.ID) (*journal.Dir, *journal.Lock, error) {
	d, err := p.open(stateDir)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	l, err := d.Lock(ctx, id)
	switch {
	case errors.Is(err, journal.ErrLocked):
		return nil, nil, dispatch.Errorf(dispatch.CodeTryAgain, "another call works on this attachment: %w", err)
	case err != nil:
		return nil, nil, dispatch.Errorf(dispatch.CodeIO, "%w", err)
	}
	return d, l, nil
}

func idOf(a dispatch.Args) journal.ID {
	return journal.ID{ContainerID: a.ContainerID, IfName: a.IfName}
}

// journalError gives what is wrong with a journal its code.
func journalError(err error) error {
	if errors.Is(err, journal.ErrDamaged) || errors.Is(err, journal.ErrNewer) {
		return dispatch.Errorf(dispatch.CodeJournal, "%w", err)
	}
	return dispatch.Errorf(dispatch.CodeIO, "%w", err)
}
