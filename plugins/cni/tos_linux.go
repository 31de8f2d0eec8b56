// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
	"github.com/railyard-net/railyard/rdma"
)

// The type of service of RoCE has two places. The kernel's default for connections by rdma_cm is in configfs; it is reset when the
// device is moved, so it is set after that, and restored when the device is back. The traffic class that some drivers force on all
// packets is in sysfs, which shows the device as long as it is on the host; so that is set before.

// planToS decides on the types of service of the rails. It changes nothing. A rail without an RDMA device needs none.
func (p *plugin) planToS(ctx context.Context, dir *journal.Dir, t *attachment) error {
	var all []*journal.ToS
	for _, r := range t.rails {
		if r.wantToS == nil {
			continue
		}
		list, err := tosOf(r)
		if err != nil {
			return err
		}
		for _, s := range list {
			at := slices.IndexFunc(all, s.SamePort)
			switch {
			case at < 0:
				all, r.tos = append(all, s), append(r.tos, s)
			case all[at].Value != s.Value:
				return &conf.FieldError{Field: "rails.roceToS", Detail: fmt.Sprintf("%d and %d are of two rails on the device %s, which has one: write the same", all[at].Value, s.Value, s.Device)}
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	lock, err := p.sharedLock(ctx, dir, tosLock)
	if err != nil {
		return err
	}
	t.shared = append(t.shared, lock)
	held := others(dir, idOf(t.args))
	for _, s := range all {
		if err := p.readToS(s); err != nil {
			return err
		}
		if err := inheritToS(s, held); err != nil {
			return err
		}
	}
	return nil
}

// tosOf are the RoCE ports of the rail's devices, with the value that they shall have. A rail without an RDMA device has none.
func tosOf(r *rail) ([]*journal.ToS, error) {
	if len(r.rdma.devices()) == 0 {
		return nil, nil
	}
	h, err := rdma.Open()
	if err != nil {
		return nil, dispatch.Errorf(dispatch.CodeRDMA, "roceToS: %w", err)
	}
	defer h.Close()
	var out []*journal.ToS
	for _, d := range r.rdma.devices() {
		id, err := h.Identify(d)
		if err != nil {
			return nil, dispatch.Errorf(dispatch.CodeRDMA, "roceToS: %w", err)
		}
		for _, port := range rocePorts(d) {
			out = append(out, &journal.ToS{Device: d.Name, ID: id, Bus: string(d.Bus), Moved: r.rdma.move != nil, Port: port, Value: *r.wantToS})
		}
	}
	if len(out) == 0 {
		d, is := r.rdma.devices()[0], "InfiniBand"
		if d.IWARP() {
			is = "iWARP"
		}
		return nil, dispatch.Errorf(dispatch.CodeConfig, "roceToS: %s has no RoCE port, it is %s: leave it out", d.Name, is)
	}
	return out, nil
}

func rocePorts(d rdma.Device) []int {
	var out []int
	for _, p := range d.Ports {
		if d.RoCE(p) {
			out = append(out, p.Number)
		}
	}
	return out
}

// readToS fills in what is there now.
func (p *plugin) readToS(s *journal.ToS) error {
	var err error
	if s.Old, err = rdma.DefaultRoCEToS(p.ConfigFS, s.Device, s.Port); err != nil {
		return dispatch.Errorf(dispatch.CodeRDMA, "roceToS: read that of %s: %w", s.Device, err)
	}
	switch class, err := rdma.TrafficClass(p.Sys, s.Device, s.Port); {
	case err == nil:
		s.OldClass = &class
	case !errors.Is(err, rdma.ErrUnsupported):
		return dispatch.Errorf(dispatch.CodeRDMA, "roceToS: read the traffic class of %s: %w", s.Device, err)
	}
	return nil
}

// inheritToS takes over from the other holders of the port what was there before all of them. It refuses another value than a living
// one has: the port has one, and who came first keeps it.
func inheritToS(s *journal.ToS, others []journal.Journal) error {
	holder, of := tosHolder(others, s)
	switch {
	case holder == nil:
		return nil
	case holder.Value != s.Value && !of.NetNS.Gone():
		return dispatch.Errorf(dispatch.CodeRDMA, "roceToS: is %d, and %s of network %s has set %d on %s: pods that share a device have one value, "+
			"so write the same in both networks, or give each a device of its own", s.Value, of.ID(), of.Network, holder.Value, s.Device)
	}
	s.Old, s.OldClass = holder.Old, holder.OldClass
	return nil
}

// forceClass sets the traffic classes of drivers that have them.
func (p *plugin) forceClass(list []*journal.ToS) error {
	for _, s := range list {
		if s.OldClass == nil {
			continue
		}
		if err := rdma.SetTrafficClass(p.SysDir, s.Device, s.Port, int(s.Value)); err != nil {
			return dispatch.Errorf(dispatch.CodeRDMA, "roceToS: set the traffic class of %s to %d: %w", s.Device, s.Value, err)
		}
		p.Hit("add:class")
	}
	return nil
}

// setToS sets the defaults of rdma_cm.
func (p *plugin) setToS(list []*journal.ToS) error {
	for _, s := range list {
		if _, err := rdma.SetDefaultRoCEToS(p.ConfigFS, s.Device, s.Port, s.Value); err != nil {
			return dispatch.Errorf(dispatch.CodeRDMA, "roceToS: set that of %s to %d: %w", s.Device, s.Value, err)
		}
		p.Hit("add:tos")
	}
	return nil
}

// checkToS compares the port with what was set. A device in the pod has its name there.
func (c *checking) checkToS(s *journal.ToS) error {
	name, err := c.nameOf(s)
	if err != nil {
		return dispatch.Errorf(dispatch.CodeDrift, "roceToS: %w", err)
	}
	tos, err := rdma.DefaultRoCEToS(c.ConfigFS, name, s.Port)
	if err != nil {
		return dispatch.Errorf(dispatch.CodeDrift, "roceToS: read that of %s: %w", name, err)
	}
	if tos != s.Value {
		return dispatch.Errorf(dispatch.CodeDrift, "roceToS: that of %s is %d, it was set to %d", name, tos, s.Value)
	}
	if s.OldClass == nil || s.Moved { // the host's sysfs does not show what is in a pod
		return nil
	}
	class, err := rdma.TrafficClass(c.Sys, name, s.Port)
	switch {
	case err != nil:
		return dispatch.Errorf(dispatch.CodeDrift, "roceToS: read the traffic class of %s: %w", name, err)
	case class != int(s.Value):
		return dispatch.Errorf(dispatch.CodeDrift, "roceToS: the traffic class of %s is %d, it was set to %d", name, class, s.Value)
	}
	return nil
}

func (c *checking) nameOf(s *journal.ToS) (string, error) {
	open := rdma.Open
	if s.Moved {
		open = c.pod.openRDMA
	}
	h, err := open()
	if err != nil {
		return "", err
	}
	defer h.Close()
	ref, err := h.ByID(s.ID)
	return ref.Name, err
}

// restoreToS gives the port back what it had, unless another attachment holds it too.
func (u *undoing) restoreToS(ctx context.Context, s *journal.ToS) error {
	if s.Moved && u.openErr != nil {
		return u.openErr // the device is in a living pod
	}
	return u.letGo(ctx, tosLock,
		func(all []journal.Journal) bool { holder, _ := tosHolder(all, s); return holder != nil },
		func(o journal.Step) bool { return o.ToS == s },
		func() error { return u.resetToS(ctx, s) })
}

// resetToS sets what was there before. A device that is gone, or whose driver was loaded anew, has forgotten it, and so has
// rdma_cm when it is unloaded.
func (u *undoing) resetToS(ctx context.Context, s *journal.ToS) error {
	name, err := u.onHostRDMA(ctx, s)
	if name == "" || err != nil {
		return err
	}
	if s.OldClass != nil {
		err := rdma.SetTrafficClass(u.SysDir, name, s.Port, *s.OldClass)
		if err != nil && !errors.Is(err, rdma.ErrUnsupported) {
			return dispatch.Errorf(dispatch.CodeRDMA, "restore the traffic class of %s: %w", name, err)
		}
	}
	_, err = rdma.SetDefaultRoCEToS(u.ConfigFS, name, s.Port, s.Old)
	if err == nil || errors.Is(err, rdma.ErrNotFound) || errors.Is(err, rdma.ErrUnsupported) && !errors.Is(err, rdma.ErrNotMounted) {
		u.Hit("undo:tos")
		return nil
	}
	return dispatch.Errorf(dispatch.CodeRDMA, "restore the type of service of %s: %w", name, err)
}

// onHostRDMA is the name that the device has on the host, or empty where it is gone. One that is on its way back from a dead pod is
// waited for; one that does not come is errLater.
func (u *undoing) onHostRDMA(ctx context.Context, s *journal.ToS) (string, error) {
	h, err := rdma.Open()
	switch {
	case errors.Is(err, rdma.ErrNoRDMA):
		return "", nil
	case err != nil:
		return "", dispatch.Errorf(dispatch.CodeRDMA, "restore the type of service of %s: %w", s.Device, err)
	}
	defer h.Close()
	ctx, cancel := context.WithTimeout(ctx, deadLinkWait)
	defer cancel()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		ref, err := h.ByID(s.ID)
		switch {
		case err == nil:
			return ref.Name, nil
		case !errors.Is(err, rdma.ErrNotFound):
			return "", dispatch.Errorf(dispatch.CodeRDMA, "restore the type of service of %s: %w", s.Device, err)
		case !s.Moved || !u.onBus(s.Bus): // a software device died with its link
			return "", nil
		}
		if anew, _ := rdma.DiscoverAt(u.Sys, rdma.BusAddr(s.Bus)); len(anew) > 0 {
			return "", nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%w: the RDMA device %s (%s) is in no namespace that can be seen", errLater, s.Device, s.Bus)
		case <-time.After(wait):
		}
	}
}
