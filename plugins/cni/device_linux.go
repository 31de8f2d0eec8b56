// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"slices"
	"strings"

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

// placeOf is the folder of a piece of hardware, on whichever bus: PCI, auxiliary, virtio. Empty: there is no such one.
func placeOf(sys fs.FS, name string) string {
	if name == "" {
		return ""
	}
	buses, err := fs.ReadDir(sys, "bus")
	if err != nil {
		return ""
	}
	for _, b := range buses {
		dir := path.Join("bus", b.Name(), "devices", name)
		if _, err := fs.Stat(sys, dir); err == nil {
			return dir
		}
	}
	return ""
}

// portOf tells the interfaces on one piece of hardware apart, as far as their driver does: by the port's name, or else its number.
func portOf(sys fs.FS, link string) string {
	for _, file := range []string{"phys_port_name", "dev_port"} {
		text, err := fs.ReadFile(sys, path.Join("class/net", link, file))
		if port := strings.TrimSpace(string(text)); err == nil && port != "" {
			return port
		}
	}
	return ""
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
func planDevice(h *netlink.Handle, sys fs.FS, s conf.Spec, r conf.RailSpec, m master, id journal.ID) (*journal.Link, error) {
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
		Tag: tagOf(id), Bus: m.bus, Port: portOf(sys, a.Name), Name: a.Name, MAC: a.HardwareAddr.String(), MTU: a.MTU, Up: a.Flags&net.FlagUp != 0,
		AltNames: slices.DeleteFunc(slices.Clone(a.AltNames), func(n string) bool { return strings.HasPrefix(n, tagPrefix) }),
	}
	if host.Details, err = ownAddresses(h, m.link); err != nil {
		return refuse("could not be looked at: %w", err)
	}
	host.Addresses, host.Sysctls = prefixes(host.Details), ownSysctls(a)
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

// foreignTag is the tag on the device of another attachment than the journal's, or empty.
func foreignTag(a *netlink.LinkAttrs, tag string) string {
	for _, n := range a.AltNames {
		if strings.HasPrefix(n, tagPrefix) && n != tag {
			return n
		}
	}
	return ""
}

// tagDevice marks the device as the attachment's, before anything else is done to it or for it.
func (p *plugin) tagDevice(h *netlink.Handle, l *journal.Link, m master) error {
	if !slices.Contains(m.link.Attrs().AltNames, l.Host.Tag) { // as an ADD that died left it
		if err := h.LinkAddAltName(m.link, l.Host.Tag); err != nil {
			return dispatch.Errorf(dispatch.CodeLink, "give %s an alternative name, which needs Linux 5.5: %w", l.Host.Name, err)
		}
	}
	p.Hit("add:tagged")
	return nil
}

// takeDevice moves the device into the pod, where it has its name and settings at once.
func takeDevice(pod *pod, l *journal.Link, m master) error {
	failed := func(err error) error {
		return dispatch.Errorf(dispatch.CodeLink, "move %s into the pod as %s: %w", l.Host.Name, l.Name, err)
	}
	c := change{index: m.link.Attrs().Index, netns: int(pod.ns.Fd()), name: l.Name}
	if l.MTU != l.Host.MTU {
		c.mtu = l.MTU
	}
	if l.MAC != l.Host.MAC && l.Host.VF == nil { // or it has it already
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
