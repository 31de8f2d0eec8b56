// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"io/fs"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

func (p *plugin) del(ctx context.Context, args dispatch.Args) error {
	known, err := conf.ParseKnown(args.Stdin, p.StateDir)
	if err != nil {
		return err
	}
	id := idOf(args)
	dir, lock, err := p.lock(ctx, known.StateDir, id)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	p.Hit("del:locked")
	j, err := dir.Read(id)
	switch {
	case err == nil:
		return p.undo(ctx, dir, j, args.Path)
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, journal.ErrDamaged):
		p.Log.Error("a journal is damaged; it is set aside and the attachment undone as far as the call tells", "error", err)
		if err := dir.SetAside(id); err != nil {
			return dispatch.Errorf(dispatch.CodeIO, "%w", err)
		}
	default:
		return journalError(err)
	}
	p.undoUnrecorded(ctx, dir, known, args)
	if err := dir.Remove(id); err != nil {
		return dispatch.Errorf(dispatch.CodeIO, "%w", err)
	}
	return nil
}

// undoUnrecorded undoes what there may be of an attachment without a journal: it never was, or the state folder was
// lost, or it was made before a reboot, when other IPAM plugins' leases on disk have outlived it. Nothing of
// it may fail the DEL, which nobody could ever help.
func (p *plugin) undoUnrecorded(ctx context.Context, dir *journal.Dir, known conf.Known, args dispatch.Args) {
	id := idOf(args)
	all, _ := dir.List() // one that cannot be read says nothing
	for _, j := range all {
		if j.ContainerID == id.ContainerID && j.Has(id.IfName) {
			return // it is a rail of another attachment
		}
	}
	log := p.Log.With("containerID", id.ContainerID, "ifName", id.IfName)
	u := undoing{plugin: p, dir: dir, journal: journal.Journal{ContainerID: id.ContainerID, IfName: id.IfName, Network: args.Name}}
	defer u.close()
	if ns, err := ipam.StatNetNS(args.NetNS); args.NetNS != "" && err == nil {
		u.journal.NetNS = ns
		u.openPod()
	}
	if u.pod != nil {
		if err := u.pullOutUnknown(tagOf(id)); err != nil {
			log.Warn("a device without a journal could not be taken back", "error", err)
		}
		l := &journal.Link{Kind: conf.KindMacvlan, Name: id.IfName, MAC: deriveMAC(id).String()}
		if err := delLink(u.pod.link, l); err != nil {
			log.Warn("a link without a journal could not be removed", "error", err)
		}
	}
	switch known.IPAMType {
	case "":
	case conf.IPAMType:
		_ = u.release(ctx, journal.Lease{StateDir: known.StateDir, AgentSocket: known.AgentSocket})
	default:
		if _, err := p.foreignCall(args, known.IPAMType).run(ctx); err != nil {
			log.Warn("another plugin's lease without a journal could not be released", "type", known.IPAMType, "error", err)
		}
	}
}
