// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"io/fs"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// attachment is one ADD: what it works on, and what it has planned.
type attachment struct {
	args   dispatch.Args
	spec   conf.Spec
	host   *netlink.Handle
	pod    *pod
	master master

	prev    *current.Result
	link    *journal.Link
	sysctls []journal.Sysctl
	file    *journal.File
	device  string // PCI address in file
	journal journal.Journal
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
	if err := p.plan(t); err != nil {
		return nil, err
	}
	p.Hit("add:planned")
	result, err := p.attach(ctx, dir, t)
	if err == nil {
		return result, nil
	}
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
	if mac := args.Extra.Get("MAC"); mac != "" && spec.MAC == nil {
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
	return p.undo(ctx, dir, j, "")
}

// plan looks at everything and changes nothing.
func (p *plugin) plan(t *attachment) error {
	var err error
	if t.prev, err = previous(t.spec, t.args.CNIVersion); err != nil {
		return err
	}
	source, err := planAddresses(t.args, &t.spec)
	if err != nil {
		return err
	}
	if t.host, err = openHandle(); err != nil {
		return dispatch.Errorf(dispatch.CodeLink, "%w", err)
	}
	if t.master, err = findMaster(t.host, p.Sys, t.spec); err != nil {
		return err
	}
	if t.link, err = planMacvlan(t.spec, t.master, idOf(t.args)); err != nil {
		return err
	}
	if t.pod, err = openPod(t.args.NS); err != nil {
		return dispatch.Errorf(dispatch.CodeNetNS, "CNI_NETNS: %w", err)
	}
	if _, err := t.pod.link.LinkByName(t.args.IfName); !linkGone(err) {
		if err != nil {
			return dispatch.Errorf(dispatch.CodeLink, "look for %s in the pod: %w", t.args.IfName, err)
		}
		return interfaceExists(t.args.IfName)
	}
	if t.sysctls, err = t.pod.planSysctls(t.spec.Sysctls, t.args.IfName); err != nil {
		return err
	}
	t.file, t.device = planDeviceInfo(t.spec, t.master)
	t.journal = t.newJournal(source)
	return nil
}

// planSysctls reads the old values of the settings that outlive the interface.
func (p *pod) planSysctls(list []conf.Sysctl, ifName string) ([]journal.Sysctl, error) {
	var out []journal.Sysctl
	var lasting []int
	for i, s := range list {
		out = append(out, journal.Sysctl{Path: s.Path(ifName), Value: s.Value})
		if !s.OfInterface() {
			lasting = append(lasting, i)
		}
	}
	if len(lasting) == 0 {
		return out, nil
	}
	return out, p.do(func() error {
		for _, i := range lasting {
			old, err := readSysctl(out[i].Path)
			if err != nil {
				return dispatch.Errorf(dispatch.CodeSysctl, "sysctl: read %s: %w", out[i].Path, err)
			}
			out[i].Old = &old
		}
		return nil
	})
}

func (t *attachment) newJournal(source *journal.Step) journal.Journal {
	j := journal.Journal{ContainerID: t.args.ContainerID, IfName: t.args.IfName, Network: t.args.Name, NetNS: t.args.NS}
	if source != nil {
		j.Steps = append(j.Steps, *source)
	}
	j.Steps = append(j.Steps, journal.Step{Link: t.link})
	for i := range t.sysctls {
		j.Steps = append(j.Steps, journal.Step{Sysctl: &t.sysctls[i]})
	}
	if t.file != nil {
		j.Steps = append(j.Steps, journal.Step{File: t.file})
	}
	return j
}

// attach does what is planned: the intent first, then the deeds, then the result.
func (p *plugin) attach(ctx context.Context, dir *journal.Dir, t *attachment) (*current.Result, error) {
	if err := dir.Write(t.journal); err != nil {
		return nil, journalError(err)
	}
	p.Hit("add:journaled")
	if err := t.master.bringUp(t.host); err != nil {
		return nil, err
	}
	if err := addMacvlan(ctx, t.host, t.pod, t.link, t.master, t.spec.BCQueueLen); err != nil {
		return nil, err
	}
	p.Hit("add:linked")
	// The link is there before the addresses are asked for: some IPAM plugins, dhcp for one, speak through it.
	a, err := p.obtain(ctx, t.args, t.spec)
	if err != nil {
		return nil, err
	}
	p.Hit("add:leased")
	if err := a.fit(t.link.MTU); err != nil {
		return nil, err
	}
	if err := t.pod.set(append(builtin(t.link.Name, a.has6()), t.sysctls...)); err != nil {
		return nil, err
	}
	p.Hit("add:set")
	link, err := t.pod.link.LinkByName(t.link.Name)
	if err != nil {
		return nil, dispatch.Errorf(dispatch.CodeLink, "look for %s in the pod: %w", t.link.Name, err)
	}
	t.link.Index = link.Attrs().Index
	if a.install, err = p.configure(ctx, t.pod, link, a); err != nil {
		return nil, err
	}
	if t.file != nil {
		if err := writeDeviceInfo(t.file, t.device); err != nil {
			return nil, err
		}
		p.Hit("add:informed")
	}
	return p.complete(dir, t, a)
}

// complete writes the result to the journal.
func (p *plugin) complete(dir *journal.Dir, t *attachment, a addresses) (*current.Result, error) {
	result := a.appendTo(t.prev, &current.Interface{
		Name: t.link.Name, Mac: t.link.MAC, Mtu: t.link.MTU, Sandbox: t.args.NetNS, PciID: t.master.pci,
	}, t.spec)
	t.link.Routes = a.install
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

func (t *attachment) close() {
	if t.pod != nil {
		t.pod.close()
	}
	if t.host != nil {
		_ = t.host.Close()
	}
}
