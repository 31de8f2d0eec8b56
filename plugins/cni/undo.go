// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// undo undoes a journal's steps, the last one first, and removes it. A step that fails does not keep the others from
// being undone; it keeps the journal, for the next call to try again. The lock must be held. The cniPath is
// where other plugins are now; the folder of the ADD is tried after it. The caller has the locks of the devices held.
func (p *plugin) undo(ctx context.Context, dir *journal.Dir, j journal.Journal, cniPath string, held ...string) error {
	u := undoing{plugin: p, dir: dir, journal: j, path: cniPath, held: held}
	return u.run(ctx)
}

func (u *undoing) run(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx) // what is begun is ended
	p, dir, j := u.plugin, u.dir, u.journal
	defer u.close()
	u.openPod()
	var errs []error
	for i := len(j.Steps) - 1; i >= 0; i-- {
		p.Hit(fmt.Sprintf("undo:%d", i))
		if err := u.step(ctx, j.Steps[i]); err != nil {
			errs = append(errs, err)
		}
	}
	switch err := errors.Join(errs...); {
	case err != nil && onlyLater(errs):
		p.Log.Warn("an attachment is undone but for a device that is still on its way back; its journal is kept", "attachment", j.ID().String(), "error", err)
		return nil
	case err != nil:
		return err
	}
	p.Hit("undo:done")
	if err := dir.Remove(j.ID()); err != nil {
		return dispatch.Errorf(dispatch.CodeIO, "%w", err)
	}
	p.Hit("undo:removed")
	return nil
}

// errLater: a device could not be given back yet, and no repetition of the DEL would help: whoever has it must end first.
var errLater = errors.New("the device is not back yet")

func onlyLater(errs []error) bool {
	return !slices.ContainsFunc(errs, func(err error) bool { return !errors.Is(err, errLater) })
}

func knownKind(l *journal.Link) bool {
	return l.Kind == conf.KindChained || conf.OnMaster(l.Kind) || conf.Moves(l.Kind) && l.Host != nil
}

type undoing struct {
	*plugin
	dir     *journal.Dir
	journal journal.Journal
	path    string
	held    []string // keys of devices whose locks the caller has
	// outlived says that the namespace may never go: then no lease can be left to the agent.
	outlived bool
	host     *netlink.Handle // opened when needed
	// pod is nil where the namespace is gone; then openErr is nil too. It says why a living one cannot be used.
	pod     *pod
	openErr error
}

func (u *undoing) openPod() {
	if u.journal.NetNS.Path == "" {
		return
	}
	pod, err := openPod(u.journal.NetNS)
	switch {
	case err == nil:
		u.pod = pod
	case !u.journal.NetNS.Gone() && !errors.Is(err, fs.ErrNotExist):
		u.openErr = dispatch.Errorf(dispatch.CodeNetNS, "%w", err)
	}
}

func (u *undoing) close() {
	if u.pod != nil {
		u.pod.close()
	}
	if u.host != nil {
		_ = u.host.Close()
	}
}

func (u *undoing) hostHandle() (*netlink.Handle, error) {
	if u.host == nil {
		h, err := openHandle()
		if err != nil {
			return nil, dispatch.Errorf(dispatch.CodeLink, "%w", err)
		}
		u.host = h
	}
	return u.host, nil
}

// giveBackLocked keeps an ADD from the device until it is what it was.
func (u *undoing) giveBackLocked(ctx context.Context, l *journal.Link) error {
	key := cmp.Or(l.Host.Bus, l.Host.Name)
	if slices.Contains(u.held, key) {
		return u.giveBack(ctx, l)
	}
	lock, err := u.deviceLock(ctx, u.dir, key)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	return u.giveBack(ctx, l)
}

// unaddress takes the routes and addresses from an interface that another plugin made.
func unaddress(h *netlink.Handle, l *journal.Link) error {
	if len(l.Addresses)+len(l.Routes) == 0 {
		return nil
	}
	link, err := findLink(h, l)
	if link == nil || err != nil {
		return err
	}
	for _, r := range l.Routes {
		if err := h.RouteDel(kernelRoute(link, r)); err != nil && !errors.Is(err, unix.ESRCH) {
			return dispatch.Errorf(dispatch.CodeRoute, "take the route to %s from %s: %w", &r.Dst, l.Name, err)
		}
	}
	for _, text := range l.Addresses {
		addr, err := netlink.ParseAddr(text)
		if err == nil {
			err = h.AddrDel(link, addr)
		}
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
			return dispatch.Errorf(dispatch.CodeAddress, "take the address %s from %s: %w", text, l.Name, err)
		}
	}
	return nil
}

func (u *undoing) step(ctx context.Context, s journal.Step) error {
	switch {
	case !s.Known(), s.Link != nil && !knownKind(s.Link):
		return dispatch.Errorf(dispatch.CodeJournal, "%w: a step of %s is unknown to this program: call the version that made it", journal.ErrNewer, u.journal.ID())
	case s.Lease != nil:
		return u.release(ctx, *s.Lease)
	case s.Delegate != nil:
		return u.delegate(ctx, *s.Delegate)
	case s.File != nil && s.File.Container != "":
		return u.removePodFile(ctx, s.File)
	case s.File != nil:
		return removeFile(s.File)
	case s.Link != nil && s.Link.Host != nil:
		return u.giveBackLocked(ctx, s.Link)
	case s.ToS != nil:
		return u.restoreToS(ctx, s.ToS)
	case u.pod == nil: // the rest lives in the pod, and died with it
		return u.openErr
	case s.Link != nil && s.Link.Kind == conf.KindChained:
		return unaddress(u.pod.link, s.Link)
	case s.Link != nil:
		return delLink(u.pod.link, s.Link)
	case s.Rule != nil:
		return removeRules(u.pod.link, s.Rule)
	case s.RDMA != nil:
		return u.returnRDMA(ctx, s.RDMA)
	case s.Sysctl.Old == nil:
		return nil
	}
	return u.restoreSysctl(ctx, s.Sysctl)
}

// restore gives a setting its old value back. One that has it is not written: what a pod may only read has failed
// its ADD, and must not fail the DEL too.
func (p *pod) restore(s journal.Sysctl) error {
	var is string
	err := p.do(func() (err error) {
		is, err = readSysctl(s.Path)
		return err
	})
	if err == nil && is == *s.Old || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return p.set([]journal.Sysctl{{Path: s.Path, Value: *s.Old}})
}

// release ends the lease, or leaves it to the agent, which ends it when the namespace is gone. It fails only where that may
// never be.
func (u *undoing) release(ctx context.Context, l journal.Lease) error {
	ctx, cancel := context.WithTimeout(ctx, releaseWait)
	defer cancel()
	paths := conf.Paths{StateDir: l.StateDir, AgentSocket: l.AgentSocket}
	err := u.Leaser(paths).Release(ctx, leaseKey(u.journal.Network, railID(u.journal.ID(), l.IfName)))
	switch {
	case err != nil && u.outlived:
		return err
	case err != nil:
		u.Log.Warn("a lease could not be released; the agent will when the namespace is gone",
			"network", u.journal.Network, "containerID", u.journal.ContainerID, "ifName", u.journal.IfName, "error", err)
	}
	return nil
}

func (u *undoing) delegate(ctx context.Context, d journal.Delegate) error {
	call := foreign{
		name: d.Type, verb: "DEL", path: u.path, args: d.Args, stdin: d.Config, environ: u.Environ,
		containerID: u.journal.ContainerID, netns: u.journal.NetNS.Path, ifName: cmp.Or(d.IfName, u.journal.IfName),
	}
	if _, err := find(d.Type, call.path); err != nil {
		call.path = d.Path
	}
	_, err := call.run(ctx)
	return err
}
