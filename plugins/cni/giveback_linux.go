// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// giveBack makes the device on the host what it was: out of the pod if it is still there, or wherever the kernel
// returned it to. A device that is on its way back from a dead namespace is waited for; one that does not come
// is errLater. One that another attachment has by now is not this one's to give.
func (u *undoing) giveBack(ctx context.Context, l *journal.Link) error {
	host, err := u.hostHandle()
	if err != nil {
		return err
	}
	if u.pod != nil {
		u.Hit("undo:pulling")
		if err := u.pullOut(l); err != nil {
			return dispatch.Errorf(dispatch.CodeLink, "take %s back out of the pod: %w", l.Host.Name, err)
		}
	}
	u.Hit("undo:pulled")
	ctx, cancel := context.WithTimeout(ctx, deadLinkWait)
	defer cancel()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		link, err := u.onHost(host, l.Host)
		switch {
		case err != nil:
			return dispatch.Errorf(dispatch.CodeLink, "look for %s on the host: %w", l.Host.Name, err)
		case link != nil:
			return u.restoreDevice(host, link, l.Host)
		case u.another(l.Host):
			return nil
		case u.openErr != nil: // it may well be in the pod, which lives
			return u.openErr
		case !u.onBus(l.Host.Bus): // it was unplugged, or was a virtual link and died with the pod
			u.Log.Warn("a device is gone and cannot be given back", "name", l.Host.Name, "device", l.Host.Bus)
			return u.restoreVF(l.Host.VF)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s (%s) is in no namespace that can be seen", errLater, l.Host.Name, l.Host.Bus)
		case <-time.After(wait):
		}
	}
}

// pullOut moves the device from the pod to the host, under its old name if that is free there. None in the pod is fine. The
// pod's alternative names stay behind: one that the host has too would keep the device from coming.
func (u *undoing) pullOut(l *journal.Link) error {
	link, err := u.inPod(l)
	if link == nil || err != nil {
		return err
	}
	a := link.Attrs()
	if !slices.Contains(a.AltNames, l.Host.Tag) {
		if err := u.pod.link.LinkAddAltName(link, l.Host.Tag); err != nil {
			return err
		}
	}
	if err := dropNames(u.pod.link, link, func(name string) bool { return name == l.Host.Tag }); err != nil {
		return err
	}
	return u.toHost(a.Index, l.Host.Name)
}

// inPod finds the device by its tag, or, where the pod took that away, by its place on the bus or its index. Nil: it is
// not there.
func (u *undoing) inPod(l *journal.Link) (netlink.Link, error) {
	link, err := u.pod.link.LinkByName(l.Host.Tag)
	if err == nil || !linkGone(err) {
		return link, err
	}
	all, err := u.pod.link.LinkList()
	if err != nil {
		return nil, err
	}
	var onBus netlink.Link
	for _, link := range all {
		a := link.Attrs()
		same := l.Index != 0 && a.Index == l.Index
		switch {
		case foreignTag(a, l.Host.Tag) != "": // another rail's: a function may have several interfaces
		case l.Host.Bus == "" && same && (a.Name == l.Name || a.HardwareAddr.String() == l.MAC), l.Host.Bus != "" && a.ParentDev == l.Host.Bus && same:
			return link, nil
		case l.Host.Bus != "" && a.ParentDev == l.Host.Bus && onBus == nil:
			onBus = link
		}
	}
	return onBus, nil
}

// dropNames takes all alternative names from a link but those to keep.
func dropNames(h *netlink.Handle, link netlink.Link, keep func(string) bool) error {
	for _, name := range link.Attrs().AltNames {
		if keep(name) {
			continue
		}
		if err := h.LinkDelAltName(link, name); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("take the alternative name %s away: %w", name, err)
		}
	}
	return nil
}

// toHost moves a link of the pod to the host, under that name or a spare one.
func (u *undoing) toHost(index int, name string) error {
	host, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer host.Close()
	c := change{index: index, netns: int(host.Fd()), name: name}
	return u.pod.do(func() error {
		err := c.apply()
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
		c.name = spareName // the host has that name by now
		if err = c.apply(); errors.Is(err, unix.ENODEV) {
			return nil // the first request has moved it
		}
		return err
	})
}

// pullOutUnknown takes the device with the tag out of the pod, where the journal that knew what it was is lost: under a
// spare name, down, for an administrator to look at.
func (u *undoing) pullOutUnknown(tag string) error {
	link, err := u.pod.link.LinkByName(tag)
	switch {
	case linkGone(err):
		return nil
	case err != nil:
		return err
	}
	if err := dropNames(u.pod.link, link, func(string) bool { return false }); err != nil {
		return err
	}
	u.Log.Warn("the journal of a moved device is lost: it goes back to the host under a spare name", "name", link.Attrs().Name, "device", link.Attrs().ParentDev)
	return u.toHost(link.Attrs().Index, spareName)
}

// onHost finds the device by its tag, or, where it came anew with its driver, by its place on the bus. An ADD that died
// before it had the device never gave it a tag. Nil: it is not there.
func (u *undoing) onHost(h *netlink.Handle, was *journal.Host) (netlink.Link, error) {
	link, err := h.LinkByName(was.Tag)
	if err == nil || !linkGone(err) {
		return link, err
	}
	moved := u.journal.Result != nil || slices.ContainsFunc(u.journal.Steps, func(s journal.Step) bool { return s.RDMA != nil })
	if was.Bus == "" || !moved {
		return nil, nil //nolint:nilnil // none is an answer
	}
	if link = u.atPlace(h, was); link == nil || foreignTag(link.Attrs(), was.Tag) != "" {
		return nil, nil //nolint:nilnil // not there, or not as one link, or not ours: the caller asks again
	}
	return link, nil
}

// atPlace is the one link of the host that is on the device's piece of hardware, at its port if there are several; or nil.
func (u *undoing) atPlace(h *netlink.Handle, was *journal.Host) netlink.Link {
	entries, err := fs.ReadDir(u.Sys, path.Join(placeOf(u.Sys, was.Bus), "net"))
	if err != nil {
		return nil
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return !samePort(was.Port, portOf(u.Sys, e.Name())) })
	if len(entries) != 1 {
		return nil
	}
	link, err := h.LinkByName(entries[0].Name())
	if err != nil {
		return nil
	}
	return link
}

// samePort compares ports, of which one may not be known.
func samePort(a, b string) bool { return a == b || a == "" || b == "" }

// another says that the device is free, or another attachment's: then this one has nothing to give back.
func (u *undoing) another(was *journal.Host) bool {
	if was.Bus == "" {
		return false
	}
	if link := u.atPlace(u.host, was); link != nil && !slices.Contains(link.Attrs().AltNames, was.Tag) {
		return true // it is on the host and has no tag of ours
	}
	all, _ := u.dir.List() // one that cannot be read claims nothing
	return slices.ContainsFunc(all, func(j journal.Journal) bool {
		return j.ID() != u.journal.ID() && j.Result != nil && slices.ContainsFunc(j.Steps, func(s journal.Step) bool {
			return s.Link != nil && s.Link.Host != nil && s.Link.Host.Bus == was.Bus && samePort(s.Link.Host.Port, was.Port)
		})
	})
}

// onBus says that the machine still has the device.
func (u *undoing) onBus(place string) bool { return placeOf(u.Sys, place) != "" }

// restoreDevice gives a link on the host its name, MAC, MTU, alternative names, addresses and state back, as far as
// they differ, and takes the tag from it at the very end. What the host refuses by now, since it changed meanwhile, is
// logged and left: no later try would fare better, and the device is home.
func (u *undoing) restoreDevice(h *netlink.Handle, link netlink.Link, was *journal.Host) error {
	failed := func(err error) error {
		return dispatch.Errorf(dispatch.CodeLink, "restore %s on the host: %w", was.Name, err)
	}
	a := link.Attrs()
	refused := func(what string, value any, err error) {
		if err != nil && !errors.Is(err, unix.EEXIST) {
			u.Log.Warn("a device is back, and the host refuses a setting that it had", "name", was.Name, "device", was.Bus, "setting", what, "value", value, "error", err)
		}
	}
	known := func(name string) bool { return name == was.Tag || slices.Contains(was.AltNames, name) }
	if err := dropNames(h, link, known); err != nil {
		return failed(err)
	}
	mac, err := net.ParseMAC(was.MAC)
	newMAC := err == nil && len(mac) == 6 && a.HardwareAddr.String() != was.MAC
	if up := a.Flags&net.FlagUp != 0; up && (a.Name != was.Name || newMAC || !was.Up) {
		if err := h.LinkSetDown(link); err != nil {
			return failed(err)
		}
	}
	if err := u.rename(h, link, was); err != nil {
		return failed(err)
	}
	if a.MTU != was.MTU {
		refused("mtu", was.MTU, change{index: a.Index, mtu: was.MTU}.apply())
	}
	later := u.restoreMAC(a.Index, mac, newMAC, was, refused)
	if later != nil && !errors.Is(later, errLater) {
		return later
	}
	for _, n := range was.AltNames {
		if !slices.Contains(a.AltNames, n) {
			refused("altname", n, h.LinkAddAltName(link, n))
		}
	}
	if err := u.restoreOnHost(h, a.Index, was, refused); err != nil {
		return failed(err)
	}
	u.Hit("undo:restored")
	if later != nil {
		return later // and the tag stays, so that nobody takes the device for one that is as it was
	}
	if slices.Contains(a.AltNames, was.Tag) {
		if err := h.LinkDelAltName(link, was.Tag); err != nil {
			return failed(err)
		}
	}
	return nil
}

// restoreMAC gives the device its MAC back, and a virtual function the settings that its physical one had for it. That
// happens while the device still has the tag, so that no other attachment takes them for what they were. Drivers differ in
// when they let a virtual function set its own MAC: before, since it may be trusted, or after, since it was told none.
func (u *undoing) restoreMAC(index int, mac net.HardwareAddr, differs bool, was *journal.Host, refused func(string, any, error)) error {
	var first error
	if differs {
		first = change{index: index, mac: mac}.apply()
	}
	err := u.restoreVF(was.VF)
	if first != nil {
		refused("mac", was.MAC, u.setOwnMAC(was.VF, index, mac))
	}
	return err
}

// rename gives the link on the host its old name, or a spare one if the host has given that to another link.
func (u *undoing) rename(h *netlink.Handle, link netlink.Link, was *journal.Host) error {
	if link.Attrs().Name == was.Name {
		return nil
	}
	err := h.LinkSetName(link, was.Name)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	u.Log.Warn("the host has given the name of a device to another link; the device gets a spare one", "wanted", was.Name, "device", was.Bus)
	if strings.HasPrefix(link.Attrs().Name, strings.TrimSuffix(spareName, "%d")) {
		return nil
	}
	return h.LinkSetName(link, spareName)
}
