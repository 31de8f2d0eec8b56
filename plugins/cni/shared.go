// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// A few settings are not the attachment's own: a pod's lasting sysctl, the type of service of an RDMA device that pods share.
// Whoever has one in its journal holds it. All holders want one value, and each of them keeps what was there before the first. The
// last to let go restores that, whatever the order in which they go. A lock makes a look at all journals and what follows of it one:
// in ADD until the attachment's own journal is written, in undoing until its hold is gone from it.

// sharedLock takes the lock of a shared setting.
func (p *plugin) sharedLock(ctx context.Context, dir *journal.Dir, what string) (*journal.Lock, error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	lock, err := dir.Lock(ctx, journal.ID{IfName: "setting " + what})
	switch {
	case errors.Is(err, journal.ErrLocked):
		return nil, dispatch.Errorf(dispatch.CodeTryAgain, "another call works on the %s: %w", what, err)
	case err != nil:
		return nil, dispatch.Errorf(dispatch.CodeIO, "%w", err)
	}
	return lock, nil
}

// podLock names the lock of what the attachments of a pod share: lasting settings, and the choice of routing tables.
func podLock(ns ipam.NetNS) string { return fmt.Sprintf("sysctls of %d:%d", ns.Dev, ns.Ino) }

// lockPod takes it for an ADD, once.
func (t *attachment) lockPod(ctx context.Context, p *plugin, dir *journal.Dir) error {
	if t.podLocked {
		return nil
	}
	lock, err := p.sharedLock(ctx, dir, podLock(t.args.NS))
	if err != nil {
		return err
	}
	t.shared, t.podLocked = append(t.shared, lock), true
	return nil
}

// samePod says that the attachment is one of the pod's: an inode is used again.
func samePod(j journal.Journal, ns ipam.NetNS) bool {
	return j.NetNS.Dev == ns.Dev && j.NetNS.Ino == ns.Ino && !j.NetNS.Gone()
}

// tosLock is one for all devices: it is held for an instant.
const tosLock = "type of service of RDMA devices"

// others are the journals of the other attachments. One that cannot be read holds nothing.
func others(dir *journal.Dir, id journal.ID) []journal.Journal {
	all, _ := dir.List()
	return slices.DeleteFunc(all, func(j journal.Journal) bool { return j.ID() == id })
}

// sysctlHolder is another attachment's hold on a lasting setting of the same pod, or nil.
func sysctlHolder(others []journal.Journal, ns ipam.NetNS, path string) *journal.Sysctl {
	for _, j := range others {
		if !samePod(j, ns) {
			continue
		}
		for _, s := range j.Steps {
			if s.Sysctl != nil && s.Sysctl.Old != nil && s.Sysctl.Path == path {
				return s.Sysctl
			}
		}
	}
	return nil
}

// tosHolder is another attachment's hold on a port, or nil; one of a living pod before those of dead ones.
func tosHolder(others []journal.Journal, want *journal.ToS) (holder *journal.ToS, of *journal.Journal) {
	for i, j := range others {
		for _, s := range j.Steps {
			if s.ToS != nil && s.ToS.SamePort(want) && (holder == nil || !j.NetNS.Gone()) {
				holder, of = s.ToS, &others[i]
			}
		}
	}
	return holder, of
}

// planShared plans the settings that others may hold too. It changes nothing; the locks are kept until the journal is written.
func (p *plugin) planShared(ctx context.Context, dir *journal.Dir, t *attachment) error {
	if err := p.planToS(ctx, dir, t); err != nil {
		return err
	}
	if err := p.planSysctls(ctx, dir, t); err != nil {
		return err
	}
	return p.planTables(ctx, dir, t)
}

// planSysctls decides on the settings of the config, and reads the old values of those that outlive the interfaces.
func (p *plugin) planSysctls(ctx context.Context, dir *journal.Dir, t *attachment) error {
	var lasting []int
	for _, s := range t.spec.Sysctls {
		if !s.OfInterface() { // it outlives the interfaces
			lasting = append(lasting, len(t.sysctls))
			t.sysctls = append(t.sysctls, journal.Sysctl{Path: s.Path(""), Value: s.Value})
			continue
		}
		for _, r := range t.rails {
			if r.link.Kind == conf.KindChained { // and so may another plugin's interface
				lasting = append(lasting, len(t.sysctls))
			}
			t.sysctls = append(t.sysctls, journal.Sysctl{Path: s.Path(r.name()), Value: s.Value})
		}
	}
	if len(lasting) == 0 {
		return nil
	}
	if err := t.lockPod(ctx, p, dir); err != nil {
		return err
	}
	all := others(dir, idOf(t.args))
	return t.pod.do(func() error {
		for _, i := range lasting {
			s := &t.sysctls[i]
			old, err := readSysctl(s.Path)
			if err != nil {
				return dispatch.Errorf(dispatch.CodeSysctl, "sysctl: read %s: %w", s.Path, err)
			}
			s.Old = &old
			switch h := sysctlHolder(all, t.args.NS, s.Path); {
			case h == nil:
			case h.Value != s.Value:
				return &conf.FieldError{Field: "sysctl." + s.Path, Detail: fmt.Sprintf("is %q, and another attachment of the pod has set it to %q: it has one value for the whole pod, so write the same in both networks", s.Value, h.Value)}
			default:
				s.Old = h.Old // what was there before both
			}
		}
		return nil
	})
}

// letGo ends the attachment's hold on a shared setting: the last one calls restore. The hold leaves the journal under the lock, so
// that of two that let go at once one is the last.
func (u *undoing) letGo(ctx context.Context, lock string, held func([]journal.Journal) bool, own func(journal.Step) bool, restore func() error) error {
	l, err := u.sharedLock(ctx, u.dir, lock)
	if err != nil {
		return err
	}
	defer l.Unlock()
	if !held(others(u.dir, u.journal.ID())) {
		return restore()
	}
	u.journal.Steps = slices.DeleteFunc(slices.Clone(u.journal.Steps), own)
	if err := u.dir.Write(u.journal); err != nil {
		return journalError(err)
	}
	return nil
}

// restoreSysctl gives a lasting setting its old value back, unless another attachment of the pod has it too.
func (u *undoing) restoreSysctl(ctx context.Context, s *journal.Sysctl) error {
	return u.letGo(ctx, podLock(u.journal.NetNS),
		func(all []journal.Journal) bool { return sysctlHolder(all, u.journal.NetNS, s.Path) != nil },
		func(o journal.Step) bool { return o.Sysctl == s },
		func() error { return u.pod.restore(*s) })
}
