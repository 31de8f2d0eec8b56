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
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// tagPrefix begins the alternative names by which moved links are known. With the rest they are longer than a name
// may be, so that none is ever taken for one.
const tagPrefix = "railyard-"

// spareName is numbered by the kernel: for a device whose name the host has given away. Nobody names links so.
const spareName = "ryspare%d"

// tagOf is the tag of what the attachment's interface moves.
func tagOf(id journal.ID) string {
	sum := id.Sum()
	return fmt.Sprintf("%s%x", tagPrefix, sum[:])
}

// findDevice resolves what a rail moves.
func findDevice(h *netlink.Handle, sys fs.FS, s conf.Spec, r conf.RailSpec) (master, error) {
	field, name := "device", r.Device
	switch {
	case name == "" && s.DeviceID != "":
		field, name = "deviceID", s.DeviceID
	case name == "" && s.HWAddr != nil:
		return byHWAddr(h, sys, s.HWAddr)
	case name == "":
		return master{}, &conf.FieldError{Field: "device", Detail: "is empty, and the call brings no deviceID: name a link, or have the pod request the network's resource"}
	}
	link, err := lookUp(h, sys, field, name)
	if err != nil {
		return master{}, err
	}
	return newMaster(link, sys), nil
}

// lookUp finds a link of the host by PCI address, auxiliary device, name or alternative name.
func lookUp(h *netlink.Handle, sys fs.FS, field, name string) (netlink.Link, error) {
	bus := ""
	if conf.IsPCI(name) {
		bus = "pci"
	} else if _, err := fs.Stat(sys, path.Join("bus/auxiliary/devices", name)); err == nil {
		bus = "auxiliary"
	}
	if bus != "" {
		var err error
		if name, err = byBus(sys, bus, field, name); err != nil {
			return nil, err
		}
	}
	link, err := h.LinkByName(name)
	switch {
	case linkGone(err):
		return nil, dispatch.Errorf(dispatch.CodeMaster, "%s: the host has no link %s: write a link's name, an alternative name, a PCI address or an auxiliary device of this node", field, name)
	case err != nil:
		return nil, dispatch.Errorf(dispatch.CodeMaster, "%s: look for %s: %w", field, name, err)
	}
	return link, nil
}

func byHWAddr(h *netlink.Handle, sys fs.FS, mac net.HardwareAddr) (master, error) {
	all, err := h.LinkList()
	if err != nil {
		return master{}, dispatch.Errorf(dispatch.CodeMaster, "hwaddr: list the host's links: %w", err)
	}
	var found []string
	var m master
	for _, link := range all {
		a := link.Attrs()
		if a.HardwareAddr.String() == mac.String() || a.PermHWAddr.String() == mac.String() {
			found, m = append(found, a.Name), newMaster(link, sys)
		}
	}
	if len(found) != 1 {
		return master{}, dispatch.Errorf(dispatch.CodeMaster, "hwaddr: the host has the links %v with the address %s: name one by device", found, mac)
	}
	return m, nil
}

// planDevice decides how the device goes into the pod and what it is to be again afterwards. It changes nothing.
func planDevice(h *netlink.Handle, s conf.Spec, r conf.RailSpec, m master, id journal.ID) (*journal.Link, error) {
	a := m.link.Attrs()
	refuse := func(format string, args ...any) (*journal.Link, error) {
		return nil, dispatch.Errorf(dispatch.CodeMaster, "device: %s %w", a.Name, fmt.Errorf(format, args...))
	}
	switch {
	case a.Flags&net.FlagLoopback != 0:
		return refuse("is the host's loopback")
	case a.MasterIndex != 0:
		return refuse("is a port of a bridge, bond or VRF (link %d): take it out first", a.MasterIndex)
	case s.MAC != nil && a.EncapType != "ether":
		return nil, &conf.FieldError{Field: "mac", Detail: fmt.Sprintf("%s is no Ethernet link: leave it out", a.Name)}
	}
	def, err := hasDefaultRoute(h, a.Index)
	switch {
	case err != nil:
		return refuse("could not be looked at: %w", err)
	case def:
		return refuse("has the host's default route: the node would lose its network")
	}
	l := &journal.Link{Kind: s.Kind, Name: id.IfName, MAC: a.HardwareAddr.String(), MTU: a.MTU}
	if s.MAC != nil {
		l.MAC = s.MAC.String()
	}
	if r.MTU != 0 {
		l.MTU = r.MTU
	}
	host := &journal.Host{
		Tag: tagOf(id), Bus: m.bus, Name: a.Name, MAC: a.HardwareAddr.String(), MTU: a.MTU, Up: a.Flags&net.FlagUp != 0,
		AltNames: slices.DeleteFunc(slices.Clone(a.AltNames), func(n string) bool { return strings.HasPrefix(n, tagPrefix) }),
	}
	if host.Addresses, err = ownAddresses(h, m.link); err != nil {
		return refuse("could not be looked at: %w", err)
	}
	l.Host = host
	return l, nil
}

func hasDefaultRoute(h *netlink.Handle, link int) (bool, error) {
	// All routes, not those over the link: the kernel does not count a next hop among several as that.
	routes, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	return slices.ContainsFunc(routes, func(r netlink.Route) bool {
		over := r.LinkIndex == link || slices.ContainsFunc(r.MultiPath, func(n *netlink.NexthopInfo) bool { return n.LinkIndex == link })
		if r.Dst == nil {
			return over
		}
		ones, _ := r.Dst.Mask.Size()
		return over && ones == 0
	}), err
}

// ownAddresses are those that somebody gave the link, and that it loses when it moves.
func ownAddresses(h *netlink.Handle, link netlink.Link) ([]string, error) {
	list, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, a := range list {
		if a.Flags&unix.IFA_F_PERMANENT != 0 && !a.IP.IsLinkLocalUnicast() {
			out = append(out, a.IPNet.String())
		}
	}
	return out, nil
}

// foreignTag is the tag on the device of another attachment than the journal's, or empty.
func foreignTag(a *netlink.LinkAttrs, tag string) string {
	for _, n := range a.AltNames {
		if strings.HasPrefix(n, tagPrefix) && n != tag {
			return n
		}
	}
	return ""
}

// takeDevice moves the device into the pod, where it has its name and settings at once.
func (p *plugin) takeDevice(h *netlink.Handle, pod *pod, l *journal.Link, m master) error {
	failed := func(err error) error {
		return dispatch.Errorf(dispatch.CodeLink, "move %s into the pod as %s: %w", l.Host.Name, l.Name, err)
	}
	if !slices.Contains(m.link.Attrs().AltNames, l.Host.Tag) { // as an ADD that died left it
		if err := h.LinkAddAltName(m.link, l.Host.Tag); err != nil {
			return failed(fmt.Errorf("give it an alternative name, which needs Linux 5.5: %w", err))
		}
	}
	p.Hit("add:tagged")
	c := change{index: m.link.Attrs().Index, netns: int(pod.ns.Fd()), name: l.Name}
	if l.MTU != l.Host.MTU {
		c.mtu = l.MTU
	}
	if l.MAC != l.Host.MAC {
		mac, err := net.ParseMAC(l.MAC)
		if err != nil {
			return failed(err)
		}
		c.mac = mac
	}
	switch err := c.apply(); {
	case errors.Is(err, unix.EINVAL) && c.mtu != 0:
		return failed(fmt.Errorf("%w: is its MTU of %d more than the device can?", err, c.mtu))
	case err != nil:
		return failed(err)
	}
	return nil
}

// change is one request that changes a link of the calling thread's namespace; zero fields leave it as it is.
type change struct {
	index int
	netns int // a file descriptor
	name  string
	mtu   int
	mac   net.HardwareAddr
}

// apply moves the link first, which brings it down, so that the rest can be set; a part that fails leaves those before
// it done (do_setlink in net/core/rtnetlink.c).
func (c change) apply() error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(c.index)
	req.AddData(msg)
	if c.netns != 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(c.netns))))
	}
	if c.name != "" {
		req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(c.name)))
	}
	if c.mtu != 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(c.mtu))))
	}
	if c.mac != nil {
		req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, c.mac))
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

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
		case !u.onBus(l.Host.Bus): // it was unplugged, or was a virtual link and died with the pod
			u.Log.Warn("a device is gone and cannot be given back", "name", l.Host.Name, "device", l.Host.Bus)
			return nil
		case u.openErr != nil:
			return u.openErr
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
	for _, link := range all {
		a := link.Attrs()
		switch {
		case l.Host.Bus != "" && a.ParentDev == l.Host.Bus:
			return link, nil
		case l.Host.Bus == "" && l.Index != 0 && a.Index == l.Index && (a.Name == l.Name || a.HardwareAddr.String() == l.MAC):
			return link, nil
		}
	}
	return nil, nil //nolint:nilnil // none is an answer
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
	link, err = lookUp(h, u.Sys, "device", was.Bus)
	if err != nil || foreignTag(link.Attrs(), was.Tag) != "" {
		return nil, nil //nolint:nilnil,nilerr // not there, or not as one link, or not ours: the caller asks again
	}
	return link, nil
}

// another says that the device is free, or another attachment's: then this one has nothing to give back.
func (u *undoing) another(was *journal.Host) bool {
	if was.Bus == "" {
		return false
	}
	if link, err := lookUp(u.host, u.Sys, "device", was.Bus); err == nil && !slices.Contains(link.Attrs().AltNames, was.Tag) {
		return true // it is on the host and has no tag of ours
	}
	all, _ := u.dir.List() // one that cannot be read claims nothing
	return slices.ContainsFunc(all, func(j journal.Journal) bool {
		return j.ID() != u.journal.ID() && j.Result != nil && slices.ContainsFunc(j.Steps, func(s journal.Step) bool {
			return s.Link != nil && s.Link.Host != nil && s.Link.Host.Bus == was.Bus
		})
	})
}

// onBus says that the machine still has the device.
func (u *undoing) onBus(bus string) bool {
	if bus == "" {
		return false
	}
	kind := "auxiliary"
	if conf.IsPCI(bus) {
		kind = "pci"
	}
	_, err := fs.Stat(u.Sys, path.Join("bus", kind, "devices", bus))
	return err == nil
}

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
	if newMAC {
		refused("mac", was.MAC, change{index: a.Index, mac: mac}.apply())
	}
	for _, n := range was.AltNames {
		if !slices.Contains(a.AltNames, n) {
			refused("altname", n, h.LinkAddAltName(link, n))
		}
	}
	if was.Up {
		refused("up", true, h.LinkSetUp(link))
	}
	for _, text := range was.Addresses {
		addr, err := netlink.ParseAddr(text)
		if err == nil {
			err = h.AddrAdd(link, addr)
		}
		refused("address", text, err)
	}
	u.Hit("undo:restored")
	if slices.Contains(a.AltNames, was.Tag) {
		if err := h.LinkDelAltName(link, was.Tag); err != nil {
			return failed(err)
		}
	}
	return nil
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
