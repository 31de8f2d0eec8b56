// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// gcLockWait is short: an attachment on which somebody works at this moment is alive.
const gcLockWait = 50 * time.Millisecond

// gc undoes the attachments of the network that the runtime does not list, and then has the address management do
// the same for leases without an attachment. Other networks are not touched.
func (p *plugin) gc(ctx context.Context, args dispatch.Args) error {
	known, err := conf.ParseKnown(args.Stdin, p.StateDir)
	if err != nil {
		return err
	}
	valid, err := conf.ParseValidAttachments(args.Stdin)
	if err != nil {
		return err
	}
	keep := map[journal.ID]bool{}
	for _, v := range valid {
		keep[journal.ID{ContainerID: v.ContainerID, IfName: v.IfName}] = true
	}
	dir, err := p.open(known.StateDir)
	if err != nil {
		return err
	}
	all, unreadable := dir.List()
	errs := []error{}
	if unreadable != nil {
		errs = append(errs, journalError(unreadable))
	}
	for _, j := range all {
		if j.Network == args.Name && !keep[j.ID()] {
			errs = append(errs, p.collect(ctx, dir, j.ID(), args))
		}
	}
	return errors.Join(append(errs, p.retain(ctx, dir, known, args, keep))...)
}

// collect undoes one attachment, unless somebody works on it.
func (p *plugin) collect(ctx context.Context, dir *journal.Dir, id journal.ID, args dispatch.Args) error {
	ctxLock, cancel := context.WithTimeout(ctx, gcLockWait)
	defer cancel()
	lock, err := dir.Lock(ctxLock, id)
	switch {
	case errors.Is(err, journal.ErrLocked):
		return nil
	case err != nil:
		return dispatch.Errorf(dispatch.CodeIO, "%w", err)
	}
	defer lock.Unlock()
	j, err := dir.Read(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return journalError(err)
	case j.Network != args.Name:
		return nil
	}
	return p.undo(ctx, dir, j, args.Path)
}

// retain passes the GC on to the address management. Railyard's own keeps what the runtime lists and what has a
// journal by now, looked at while nobody can attach: an ADD that began since then is not robbed of its lease.
func (p *plugin) retain(ctx context.Context, dir *journal.Dir, known conf.Known, args dispatch.Args, keep map[journal.ID]bool) error {
	switch known.IPAMType {
	case "":
		return nil
	case conf.IPAMType:
	default:
		_, err := p.foreignCall(args, known.IPAMType).run(ctx)
		return err
	}
	ctxLock, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	lock, err := dir.LockAll(ctxLock)
	switch {
	case errors.Is(err, journal.ErrLocked):
		return dispatch.Errorf(dispatch.CodeTryAgain, "the node attaches pods without a pause: %w", err)
	case err != nil:
		return dispatch.Errorf(dispatch.CodeIO, "%w", err)
	}
	defer lock.Unlock()
	all, err := dir.List()
	if err != nil {
		return journalError(err)
	}
	keys := []ipam.Key{}
	for _, j := range all {
		keep[j.ID()] = true
		for _, s := range j.Steps {
			if s.Lease != nil && s.Lease.IfName != "" && j.Network == args.Name {
				keys = append(keys, leaseKey(args.Name, railID(j.ID(), s.Lease.IfName)))
			}
		}
	}
	rails := []conf.RailSpec{{}}
	if spec, err := conf.Parse(args.Stdin, p.StateDir); err == nil {
		rails = spec.Rails // also those of attachments whose journals are lost
	}
	for id := range keep {
		keys = append(keys, leaseKey(args.Name, id))
		for _, r := range rails {
			keys = append(keys, leaseKey(args.Name, journal.ID{ContainerID: id.ContainerID, IfName: r.Name(id.IfName)}))
		}
	}
	_, err = p.Leaser(known.Paths).Retain(ctx, args.Name, keys)
	return err
}

// status says whether an ADD could succeed now.
func (p *plugin) status(ctx context.Context, args dispatch.Args) error {
	spec, err := parseSpec(args, p.StateDir)
	if err != nil {
		return err
	}
	host, err := openHandle()
	if err != nil {
		return dispatch.Errorf(dispatch.CodeNotReady, "%w", err)
	}
	defer host.Close()
	t := &attachment{spec: spec, host: host}
	for _, r := range spec.Rails {
		if err := p.railReady(t, r); err != nil {
			return dispatch.Errorf(dispatch.CodeNotReady, "%w", err)
		}
	}
	if err := writable(spec.StateDir); err != nil {
		return dispatch.Errorf(dispatch.CodeNotReady, "stateDir: %w", err)
	}
	switch spec.IPAMType {
	case "":
		return nil
	case conf.IPAMType:
		pools := map[string]bool{}
		for _, r := range spec.Rails {
			if pools[r.Pool] {
				continue
			}
			pools[r.Pool] = true
			if err := p.Leaser(spec.Paths).Ready(ctx, r.Pool); err != nil {
				return dispatch.StatusError(err)
			}
		}
		return nil
	default:
		if _, err := find(spec.IPAMType, args.Path); err != nil {
			return dispatch.Errorf(dispatch.CodeNotReady, "ipam.type: %w", err)
		}
		_, err := p.foreignCall(args, spec.IPAMType).run(ctx)
		return err
	}
}

// writable says whether a journal could be written to the folder.
func writable(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return &fs.PathError{Op: "write to", Path: dir, Err: err}
	}
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if s.Blocks > 0 && s.Bavail == 0 || s.Files > 0 && s.Ffree == 0 { // a file system without bounds has no blocks, or no files
		return &fs.PathError{Op: "write to", Path: dir, Err: unix.ENOSPC}
	}
	return nil
}

// railReady says whether the host has what the rail stands on. A device is known only to the call that brings it, or that chooses it.
func (p *plugin) railReady(t *attachment, r conf.RailSpec) error {
	s := t.spec
	if conf.OnMaster(s.Kind) {
		m, err := p.chooseMaster(t, r)
		if err != nil {
			return err
		}
		t.rails = append(t.rails, &rail{master: m}) // which keeps the next one from choosing it
		if _, err = m.checkMTU(s.Mode, r.MTU); err != nil {
			return err
		}
		return p.rdmaReady(s, r, m)
	}
	r, err := p.labelled(s, r)
	if err != nil || !conf.Moves(s.Kind) || r.Device == "" {
		return err
	}
	m, err := findDevice(t.host, p.Sys, s, r)
	switch {
	case err == nil:
		return p.rdmaReady(s, r, m)
	case p.taken(s, r): // a pod has it at this moment, which is as it should be
		return nil
	}
	return err
}

// rdmaReady says whether the rail could have its RDMA device, with the type of service that it is to have.
func (p *plugin) rdmaReady(s conf.Spec, r conf.RailSpec, m master) error {
	plan, err := p.planRDMA(s, m, "")
	if err != nil || r.ToS == nil {
		return err
	}
	list, err := tosOf(&rail{rdma: plan, wantToS: r.ToS})
	for _, one := range list {
		err = errors.Join(err, p.readToS(one))
	}
	return err
}

// taken says that an attachment has the rail's device.
func (p *plugin) taken(s conf.Spec, r conf.RailSpec) bool {
	dir, err := p.open(s.StateDir)
	return err == nil && p.holder(dir, s, r) != nil
}
