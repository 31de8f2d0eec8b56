// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
	"github.com/railyard-net/railyard/rdma"
)

// A rail may say which NIC it is by a label, which the node's lists give to one, or leave the choice to the plugin. The choice is the
// same for the same state of the node: the first by PCI address of those that are fit. What was chosen is in the journal like
// any master or device, so nothing but ADD ever chooses.

// labelled gives a rail with a label the NIC that it stands for.
func (p *plugin) labelled(s conf.Spec, r conf.RailSpec) (conf.RailSpec, error) {
	if r.Label == "" {
		return r, nil
	}
	files := []string{p.Labels, filepath.Join(s.StateDir, conf.LabelName)}
	for _, file := range files {
		if file == "" {
			continue
		}
		b, err := os.ReadFile(file)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return r, dispatch.Errorf(dispatch.CodeIO, "label: %w", err)
		}
		labels, err := conf.ParseLabels(b)
		if err != nil {
			return r, dispatch.Errorf(dispatch.CodeMaster, "label: %s: %w", file, err)
		}
		nic := labels[r.Label]
		switch {
		case nic == "":
		case conf.Moves(s.Kind):
			r.Device, r.Label = nic, ""
			return r, nil
		default:
			r.Master, r.Label = nic, ""
			return r, nil
		}
	}
	return r, dispatch.Errorf(dispatch.CodeMaster, "label: no NIC of this node has the label %s: write it to %s", r.Label, strings.Join(slices.DeleteFunc(files, func(f string) bool { return f == "" }), " or "))
}

// chooseMaster finds the master of a rail that stands on one.
func (p *plugin) chooseMaster(t *attachment, s conf.RailSpec) (master, error) {
	s, err := p.labelled(t.spec, s)
	if err != nil {
		return master{}, err
	}
	if !s.Auto {
		return findMaster(t.host, p.Sys, t.spec, s)
	}
	fit, err := p.fitNICs(t.host, t.spec, p.takenNICs(t))
	if err != nil {
		return master{}, err
	}
	return fit[0], nil
}

// claimDevice finds and locks the device of a rail that moves one. Of several that would do it takes the first that no other call
// takes at this moment.
func (p *plugin) claimDevice(ctx context.Context, dir *journal.Dir, t *attachment, r *rail, s conf.RailSpec) error {
	s, err := p.labelled(t.spec, s)
	if err != nil {
		return err
	}
	if !s.Auto {
		return p.lockDevice(ctx, dir, t, r, s)
	}
	fit, err := p.fitNICs(t.host, t.spec, p.takenNICs(t))
	if err != nil {
		return err
	}
	for _, m := range fit {
		s.Device = m.name()
		err = p.lockDevice(ctx, dir, t, r, s)
		if code := dispatch.Code(err); err == nil || code != dispatch.CodeMaster && code != dispatch.CodeTryAgain {
			return err
		}
	}
	return err
}

// takenNICs are those of the other rails, by their links' indices: what was chosen for those before, and what those behind name.
func (p *plugin) takenNICs(t *attachment) map[int]bool {
	taken := map[int]bool{}
	for _, r := range t.rails {
		if r.master.link != nil {
			taken[r.master.link.Attrs().Index] = true
		}
	}
	find := findMaster
	if conf.Moves(t.spec.Kind) {
		find = findDevice
	}
	for _, s := range t.spec.Rails {
		s, err := p.labelled(t.spec, s)
		if err != nil || s.Auto {
			continue
		}
		if m, err := find(t.host, p.Sys, t.spec, s); err == nil { // or its own rail says what is wrong
			taken[m.link.Attrs().Index] = true
		}
	}
	return taken
}

// fitNICs are the NICs of the host on which a rail can be, by PCI address: at least one, or an error that says of each why not.
func (p *plugin) fitNICs(h *netlink.Handle, s conf.Spec, taken map[int]bool) ([]master, error) {
	links, err := h.LinkList()
	if err != nil {
		return nil, dispatch.Errorf(dispatch.CodeMaster, "auto: list the host's links: %w", err)
	}
	var fit []master
	var why []string
	for _, link := range links {
		m := newMaster(link, p.Sys)
		if m.pci == "" {
			continue
		}
		reason, err := p.unfit(h, s, m)
		switch {
		case err != nil:
			return nil, err
		case taken[link.Attrs().Index]:
			reason = "is another rail's"
		case reason == "":
			fit = append(fit, m)
			continue
		}
		why = append(why, m.name()+" "+reason)
	}
	if len(fit) == 0 {
		const most = 16
		slices.Sort(why)
		if more := len(why) - most; more > 0 {
			why = append(why[:most], fmt.Sprintf("and %d more", more))
		}
		return nil, dispatch.Errorf(dispatch.CodeMaster, "auto: no NIC of this node is fit and free (%s): name one by master or device, or ask for fewer rails", cmp.Or(strings.Join(why, ", "), "there is none"))
	}
	slices.SortFunc(fit, func(a, b master) int { return cmp.Or(cmp.Compare(a.bus, b.bus), cmp.Compare(a.name(), b.name())) })
	return fit, nil
}

// unfit says what keeps a rail from the NIC, or nothing. A virtual function is for the kind that is made for them, and a physical one for
// the others.
func (p *plugin) unfit(h *netlink.Handle, s conf.Spec, m master) (string, error) {
	a := m.link.Attrs()
	_, _, virtual, err := rdma.PhysFn(p.Sys, rdma.BusAddr(m.pci))
	if err != nil && !errors.Is(err, rdma.ErrNotFound) {
		return "", dispatch.Errorf(dispatch.CodeMaster, "auto: look at %s: %w", a.Name, err)
	}
	switch {
	case a.EncapType != "ether":
		return "is no Ethernet link", nil
	case virtual && s.Kind != conf.KindSRIOV:
		return "is a virtual function", nil
	case !virtual && s.Kind == conf.KindSRIOV:
		return "is no virtual function", nil
	case a.MasterIndex != 0:
		return "is a port of a bridge, bond or VRF", nil
	case a.Flags&net.FlagUp != 0 && a.RawFlags&unix.IFF_LOWER_UP == 0:
		return "has no carrier", nil // one that is down may get one when it is brought up
	}
	def, err := hasDefaultRoute(h, a.Index)
	switch {
	case err != nil:
		return "", dispatch.Errorf(dispatch.CodeMaster, "auto: look at the routes of %s: %w", a.Name, err)
	case def:
		return "has the host's default route", nil
	case s.RDMA != conf.RDMARequired:
		return "", nil
	}
	found, _ := p.rdmaDevices(s, m, "")
	if devices, unfit := serving(s.Kind, found); len(devices) == 0 && unfit != "" {
		return "has no RDMA device that serves: " + unfit, nil
	} else if len(devices) == 0 {
		return "has no RDMA device", nil
	}
	return "", nil
}
