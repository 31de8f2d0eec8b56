// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// lockDevice finds the device and keeps every other call from it until it is moved. One that a dead attachment still
// has is taken from it first.
func (p *plugin) lockDevice(ctx context.Context, dir *journal.Dir, t *attachment, r *rail, s conf.RailSpec) error {
	m, err := findDevice(t.host, p.Sys, r.spec, s)
	if err != nil {
		return p.whoHas(dir, r.spec, s, err)
	}
	tag := tagOf(idOf(r.args))
	if foreign := foreignTag(m.link.Attrs(), tag); foreign != "" {
		if err := p.reclaim(ctx, dir, t, m, foreign); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(t.rails, func(o *rail) bool { return o.master.link.Attrs().Index == m.link.Attrs().Index }) {
		return &conf.FieldError{Field: "rails.device", Detail: fmt.Sprintf("%s is that of another rail too: give each its own", m.name())}
	}
	if !slices.Contains(t.devices, m.key()) { // two ports of one device share its lock
		lock, err := p.deviceLock(ctx, dir, m.key())
		if err != nil {
			return err
		}
		t.locks, t.devices = append(t.locks, lock), append(t.devices, m.key())
	}
	r.master, err = findDevice(t.host, p.Sys, r.spec, s)
	switch {
	case err != nil:
		return p.whoHas(dir, r.spec, s, err)
	case r.master.key() != m.key() || foreignTag(r.master.link.Attrs(), tag) != "":
		return dispatch.Errorf(dispatch.CodeTryAgain, "device: another call has taken %s at this moment", m.name())
	}
	if j := standsOn(dir, r.master); j != nil {
		return dispatch.Errorf(dispatch.CodeMaster, "device: %s of network %s stands on %s, and would lose its network: keep networks of both kinds on different NICs, or wait for its DEL", j.ID(), j.Network, m.name())
	}
	return nil
}

// standsOn is the journal of a living attachment whose interface is on the link, or nil.
func standsOn(dir *journal.Dir, m master) *journal.Journal {
	all, _ := dir.List() // what cannot be read keeps no device from anybody
	a := m.link.Attrs()
	at := slices.IndexFunc(all, func(j journal.Journal) bool {
		return !j.NetNS.Gone() && slices.ContainsFunc(j.Steps, func(s journal.Step) bool {
			// An index is used again, and so the name counts too.
			return s.Link != nil && s.Link.Host == nil && s.Link.Parent == a.Index && s.Link.Master == a.Name
		})
	})
	if at < 0 {
		return nil
	}
	return &all[at]
}

// key names the device for its lock: the place on the bus, which stays, or else the name.
func (m master) key() string {
	if m.bus != "" {
		return m.bus
	}
	return m.name()
}

func (p *plugin) deviceLock(ctx context.Context, dir *journal.Dir, key string) (*journal.Lock, error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	lock, err := dir.Lock(ctx, journal.ID{IfName: "device " + key})
	switch {
	case errors.Is(err, journal.ErrLocked):
		return nil, dispatch.Errorf(dispatch.CodeTryAgain, "device: another call works on %s: %w", key, err)
	case err != nil:
		return nil, dispatch.Errorf(dispatch.CodeIO, "%w", err)
	}
	return lock, nil
}

// reclaim takes a device on the host from the attachment that tagged it, if that is dead, and the tag if there is
// no such attachment. The dead one may have been about to move more than this: the rails before have the locks of some.
func (p *plugin) reclaim(ctx context.Context, dir *journal.Dir, t *attachment, m master, tag string) error {
	all, unreadable := dir.List()
	at := slices.IndexFunc(all, func(j journal.Journal) bool { return j.HasTag(tag) })
	switch {
	case at < 0 && errors.Is(unreadable, journal.ErrNewer): // only its writer knows what the device is to be again
		return dispatch.Errorf(dispatch.CodeJournal, "device: %s may belong to an attachment of a newer program, whose DEL must come first: %w", m.name(), unreadable)
	case at < 0: // a damaged one has lost what the device was, and its DEL says so
		if err := t.host.LinkDelAltName(m.link, tag); err != nil && !errors.Is(err, unix.ENOENT) {
			return dispatch.Errorf(dispatch.CodeLink, "device: take the tag of a lost attachment from %s: %w", m.name(), err)
		}
		return nil
	}
	id := all[at].ID()
	short, cancel := context.WithTimeout(ctx, gcLockWait)
	defer cancel()
	lock, err := dir.Lock(short, id)
	if err != nil {
		return dispatch.Errorf(dispatch.CodeTryAgain, "device: %s is being attached or detached as %s: %w", m.name(), id, err)
	}
	defer lock.Unlock()
	// Only now is it sure what it is: it may have been completed, undone or made anew meanwhile.
	j, err := dir.Read(id)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && !j.HasTag(tag):
		return nil
	case err != nil:
		return journalError(err)
	case j.Result != nil && !j.NetNS.Gone():
		return dispatch.Errorf(dispatch.CodeMaster, "device: %s belongs to %s of network %s: a DEL must come first", m.name(), id, j.Network)
	}
	return p.undo(ctx, dir, j, "", t.devices...)
}

// whoHas adds to the error that a device is not on the host which attachment has it.
func (p *plugin) whoHas(dir *journal.Dir, s conf.Spec, r conf.RailSpec, err error) error {
	if j := p.holder(dir, s, r); j != nil {
		return fmt.Errorf("%w; %s of network %s has it", err, j.ID(), j.Network)
	}
	return err
}

// holder is the journal of the attachment that has the rail's device, or nil.
func (p *plugin) holder(dir *journal.Dir, s conf.Spec, r conf.RailSpec) *journal.Journal {
	all, _ := dir.List() // what cannot be read explains nothing
	for i, j := range all {
		for _, step := range j.Steps {
			if step.Link == nil || step.Link.Host == nil {
				continue
			}
			h := step.Link.Host
			named := r.Device != "" && (h.Name == r.Device || h.Bus == r.Device || slices.Contains(h.AltNames, r.Device))
			if named || s.DeviceID != "" && h.Bus == s.DeviceID || s.HWAddr != nil && h.MAC == s.HWAddr.String() {
				return &all[i]
			}
		}
	}
	return nil
}
