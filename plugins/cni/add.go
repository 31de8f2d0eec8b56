// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// attachment is one ADD: what it works on, and what it has planned.
type attachment struct {
	args dispatch.Args
	spec conf.Spec
	host *netlink.Handle
	pod  *pod

	prev    *current.Result
	rails   []*rail
	sysctls []journal.Sysctl
	file    *journal.File
	info    pciInfo       // in file
	podFile *journal.File // what the pod's programs may read, or nil
	journal journal.Journal
	// locks are those of the devices that the rails move, until they are moved.
	locks   []*journal.Lock
	devices []string // their keys
	// shared are those of settings that others may hold too, until the journal is written.
	shared []*journal.Lock
	// podLocked says that one of them is the pod's.
	podLocked bool
}

func (p *plugin) add(ctx context.Context, args dispatch.Args) (*current.Result, error) {
	spec, err := parseSpec(args, p.StateDir)
	if err != nil {
		return nil, err
	}
	dir, lock, err := p.lock(ctx, spec.StateDir, idOf(args))
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	if err := p.clearWay(ctx, dir, idOf(args)); err != nil {
		return nil, err
	}
	t := &attachment{args: args, spec: spec}
	defer t.close()
	if err := p.plan(ctx, dir, t); err != nil {
		return nil, err
	}
	p.Hit("add:planned")
	result, err := p.attach(ctx, dir, t)
	if err == nil {
		return result, nil
	}
	t.unlock()
	if undo := p.undo(ctx, dir, t.journal, args.Path); undo != nil {
		p.Log.Error("an attachment failed and not all of it could be undone; its journal is kept for DEL",
			"containerID", args.ContainerID, "ifName", args.IfName, "error", undo)
	}
	return nil, err
}

// parseSpec reads the config, and of CNI_ARGS what no field of it says.
func parseSpec(args dispatch.Args, stateDir string) (conf.Spec, error) {
	spec, err := conf.Parse(args.Stdin, stateDir)
	if err != nil {
		return conf.Spec{}, err
	}
	// As with the reference plugins, only the runtime's own wish comes before it.
	if mac := args.Extra.Get("MAC"); mac != "" && !spec.RuntimeMAC {
		if spec.MAC, err = conf.ParseMAC("CNI_ARGS MAC", mac); err != nil {
			return conf.Spec{}, err
		}
	}
	return spec, nil
}

// clearWay makes sure that the attachment does not exist: one that died midway, or whose namespace is gone, is undone;
// a complete one in a living namespace is an error and stays as it is.
func (p *plugin) clearWay(ctx context.Context, dir *journal.Dir, id journal.ID) error {
	j, err := dir.Read(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return journalError(err)
	case j.Result != nil && !j.NetNS.Gone():
		return dispatch.Errorf(dispatch.CodeAttached, "%s has %s already, on network %s: a DEL must come first", id.ContainerID, id.IfName, j.Network)
	}
	if err := p.undo(ctx, dir, j, ""); err != nil {
		return err
	}
	if _, err := dir.Read(id); !errors.Is(err, fs.ErrNotExist) {
		return dispatch.Errorf(dispatch.CodeTryAgain, "what %s had before is not all back yet: %w", id, errLater)
	}
	return nil
}

// plan looks at everything and changes nothing.
func (p *plugin) plan(ctx context.Context, dir *journal.Dir, t *attachment) error {
	var err error
	if t.prev, err = previous(t.spec, t.args.CNIVersion); err != nil {
		return err
	}
	if t.spec.Multi() && (t.spec.MAC != nil || len(t.spec.Static) > 0 || t.args.Extra.Get("IP") != "") {
		return dispatch.Errorf(dispatch.CodeConfig, "mac and ips: a network of several rails gives each its own: leave them out")
	}
	if t.host, err = openHandle(); err != nil {
		return dispatch.Errorf(dispatch.CodeLink, "%w", err)
	}
	if t.pod, err = openPod(t.args.NS); err != nil {
		return dispatch.Errorf(dispatch.CodeNetNS, "CNI_NETNS: %w", err)
	}
	names := map[string]bool{}
	for i, r := range t.spec.Rails {
		one, err := p.planRail(ctx, dir, t, r)
		switch {
		case err != nil && t.spec.Multi():
			return fmt.Errorf("rails[%d]: %w", i, err)
		case err != nil:
			return err
		}
		t.rails = append(t.rails, one)
		if names[one.name()] || conf.CheckInterface("rails.interface", one.name()) != nil {
			return &conf.FieldError{Field: "rails.interface", Detail: fmt.Sprintf("%q is the name of two rails or too long for one: name each rail's interface", one.name())}
		}
		names[one.name()] = true
	}
	if err := p.planShared(ctx, dir, t); err != nil {
		return err
	}
	t.file, t.info = planDeviceInfo(p.Sys, t.rails[0])
	t.podFile = planPodFile(t)
	t.journal = t.newJournal()
	return nil
}

func (t *attachment) newJournal() journal.Journal {
	j := journal.Journal{ContainerID: t.args.ContainerID, IfName: t.args.IfName, Network: t.args.Name, NetNS: t.args.NS, Pod: t.args.Extra.Pod()}
	for _, r := range t.rails {
		j.Steps = append(j.Steps, r.steps()...)
	}
	for i := range t.sysctls {
		j.Steps = append(j.Steps, journal.Step{Sysctl: &t.sysctls[i]})
	}
	if t.file != nil {
		j.Steps = append(j.Steps, journal.Step{File: t.file})
	}
	if t.podFile != nil {
		j.Steps = append(j.Steps, journal.Step{File: t.podFile})
	}
	return j
}

// attach does what is planned: the intent first, then the deeds, then the result.
func (p *plugin) attach(ctx context.Context, dir *journal.Dir, t *attachment) (*current.Result, error) {
	if err := dir.Write(t.journal); err != nil {
		return nil, journalError(err)
	}
	t.unlockShared()
	p.Hit("add:journaled")
	for _, r := range t.rails {
		if err := sameMode(dir, idOf(t.args), r.link); err != nil { // again, as others may have planned at once: of two, one has seen the other's journal
			return nil, err
		}
		if err := p.forceClass(r.tos); err != nil {
			return nil, err
		}
		if err := p.makeLink(ctx, t, r); err != nil {
			return nil, err
		}
		p.Hit("add:linked")
		if err := p.setToS(r.tos); err != nil {
			return nil, err
		}
	}
	t.unlock()
	// The links are there before the addresses are asked for: some IPAM plugins, dhcp for one, speak through them.
	var settings []journal.Sysctl
	for _, r := range t.rails {
		var err error
		if r.got, err = p.obtain(ctx, r.args, r.spec); err != nil {
			return nil, err
		}
		p.Hit("add:leased")
		if err := r.got.fit(r.link.MTU); err != nil {
			return nil, err
		}
		settings = append(settings, r.builtin()...)
	}
	if err := t.pod.set(append(settings, t.sysctls...)); err != nil {
		return nil, err
	}
	p.Hit("add:set")
	for _, r := range t.rails {
		if err := p.configure(ctx, dir, t, r); err != nil {
			return nil, err
		}
	}
	if t.file != nil {
		if err := writeDeviceInfo(t.file, t.info); err != nil {
			return nil, err
		}
		p.Hit("add:informed")
	}
	if t.podFile != nil {
		if err := p.writePodFile(ctx, dir, t); err != nil {
			return nil, err
		}
	}
	return p.complete(dir, t)
}

// complete writes the result to the journal.
func (p *plugin) complete(dir *journal.Dir, t *attachment) (*current.Result, error) {
	result := t.prev
	for _, r := range t.rails {
		result = r.got.appendTo(result, &current.Interface{
			Name: r.name(), Mac: r.link.MAC, Mtu: r.link.MTU, Sandbox: t.args.NetNS, PciID: r.master.pci,
		}, t.spec)
	}
	var err error
	if t.journal.Result, err = encodeResult(result); err != nil {
		return nil, err
	}
	if err := dir.Write(t.journal); err != nil {
		return nil, journalError(err)
	}
	p.Hit("add:done")
	return result, nil
}

// unlock gives the devices' locks back.
func (t *attachment) unlock() {
	for _, l := range t.locks {
		l.Unlock()
	}
	t.locks = nil
	t.unlockShared()
}

func (t *attachment) unlockShared() {
	for _, l := range t.shared {
		l.Unlock()
	}
	t.shared = nil
}

func (t *attachment) close() {
	t.unlock()
	if t.pod != nil {
		t.pod.close()
	}
	if t.host != nil {
		_ = t.host.Close()
	}
}
