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

// spareName is numbered by the kernel: for a device whose name the host has given away.
const spareName = "rail%d"

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
	routes, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: link, Table: unix.RT_TABLE_MAIN},
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	return slices.ContainsFunc(routes, func(r netlink.Route) bool {
		if r.Dst == nil {
			return true
		}
		ones, _ := r.Dst.Mask.Size()
		return ones == 0
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
	if err := h.LinkAddAltName(m.link, l.Host.Tag); err != nil && !errors.Is(err, unix.EEXIST) {
		return failed(fmt.Errorf("give it an alternative name, which needs Linux 5.5: %w", err))
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
// is errLater.
func (u *undoing) giveBack(ctx context.Context, l *journal.Link) error {
	host, err := u.hostHandle()
	if err != nil {
		return err
	}
	if u.pod != nil {
		u.Hit("undo:pulling")
		inPod, err := u.pod.link.LinkByName(l.Host.Tag)
		if err == nil {
			err = u.pullOut(inPod, l.Host)
		}
		if err != nil && !linkGone(err) {
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

// pullOut moves the link to the host, under its old name if that is free there.
func (u *undoing) pullOut(link netlink.Link, was *journal.Host) error {
	host, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer host.Close()
	c := change{index: link.Attrs().Index, netns: int(host.Fd()), name: was.Name}
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

// onHost finds the device by its tag, or, where it never had one or came anew with its driver, by its place on the
// bus. Nil: it is not there.
func (u *undoing) onHost(h *netlink.Handle, was *journal.Host) (netlink.Link, error) {
	link, err := h.LinkByName(was.Tag)
	if err == nil || !linkGone(err) {
		return link, err
	}
	if was.Bus == "" {
		return nil, nil //nolint:nilnil // none is an answer
	}
	link, err = lookUp(h, u.Sys, "device", was.Bus)
	switch {
	case err != nil: // not there, or not as one link; the caller asks again
		return nil, nil //nolint:nilnil,nilerr // none is an answer
	case foreignTag(link.Attrs(), was.Tag) != "":
		return nil, fmt.Errorf("%s is another attachment's by now", was.Bus)
	}
	return link, nil
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
// they differ, and takes the tag from it at the very end.
func (u *undoing) restoreDevice(h *netlink.Handle, link netlink.Link, was *journal.Host) error {
	failed := func(err error) error {
		return dispatch.Errorf(dispatch.CodeLink, "restore %s on the host: %w", was.Name, err)
	}
	a := link.Attrs()
	c := change{index: a.Index}
	if a.Name != was.Name {
		c.name = was.Name
	}
	if a.MTU != was.MTU {
		c.mtu = was.MTU
	}
	if mac, err := net.ParseMAC(was.MAC); err == nil && a.HardwareAddr.String() != was.MAC && len(mac) == 6 {
		c.mac = mac
	}
	if up := a.Flags&net.FlagUp != 0; up && (c.name != "" || c.mac != nil || !was.Up) {
		if err := h.LinkSetDown(link); err != nil {
			return failed(err)
		}
	}
	if c.name != "" || c.mtu != 0 || c.mac != nil {
		err := c.apply()
		if errors.Is(err, unix.EEXIST) && c.name != "" {
			u.Log.Warn("the host has given the name of a device to another link; the device gets a new one", "wanted", c.name, "device", was.Bus)
			c.name = spareName
			err = c.apply()
		}
		if err != nil {
			return failed(err)
		}
	}
	for _, n := range was.AltNames {
		if !slices.Contains(a.AltNames, n) {
			if err := h.LinkAddAltName(link, n); err != nil && !errors.Is(err, unix.EEXIST) {
				return failed(fmt.Errorf("alternative name %s: %w", n, err))
			}
		}
	}
	if was.Up {
		if err := h.LinkSetUp(link); err != nil {
			return failed(err)
		}
	}
	for _, text := range was.Addresses {
		addr, err := netlink.ParseAddr(text)
		if err == nil {
			err = h.AddrAdd(link, addr)
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return failed(fmt.Errorf("address %s: %w", text, err))
		}
	}
	u.Hit("undo:restored")
	if slices.Contains(a.AltNames, was.Tag) {
		if err := h.LinkDelAltName(link, was.Tag); err != nil {
			return failed(err)
		}
	}
	return nil
}
