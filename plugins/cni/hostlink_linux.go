// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
)

// What a link is on the host besides its own attributes, and loses when it moves: its addresses, and its settings under /proc/sys.

// keptFlags are an address's flags that somebody chose. The others are states.
const keptFlags = unix.IFA_F_NODAD | unix.IFA_F_HOMEADDRESS | unix.IFA_F_MANAGETEMPADDR | unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN

// ownAddresses are those that somebody gave the link, in the order in which they are to be given again: the kernel lists those of IPv6
// from the last to the first (ipv6_link_dev_addr in net/ipv6/addrconf.c).
func ownAddresses(h *netlink.Handle, link netlink.Link) ([]journal.Address, error) {
	list, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	var out, six []journal.Address
	for _, a := range list {
		switch {
		case a.Flags&unix.IFA_F_PERMANENT == 0 || a.IP.IsLinkLocalUnicast():
		case a.IP.To4() == nil:
			six = append(six, detailsOf(a))
		default:
			out = append(out, detailsOf(a))
		}
	}
	slices.Reverse(six)
	return append(out, six...), nil
}

func detailsOf(a netlink.Addr) journal.Address {
	out := journal.Address{Prefix: a.IPNet.String(), Label: a.Label, Scope: a.Scope, Flags: a.Flags & keptFlags}
	if a.Peer != nil && !a.Peer.IP.Equal(a.IP) {
		out.Peer = a.Peer.String()
	}
	if a.Broadcast != nil {
		out.Broadcast = a.Broadcast.String()
	}
	return out
}

// prefixes are the addresses as a program of the version before reads them.
func prefixes(list []journal.Address) []string {
	var out []string
	for _, a := range list {
		out = append(out, a.Prefix)
	}
	return out
}

// addressesOf gives the addresses of a journal, also of one without details.
func addressesOf(was *journal.Host) []journal.Address {
	if len(was.Details) > 0 {
		return was.Details
	}
	var out []journal.Address
	for _, text := range was.Addresses {
		out = append(out, journal.Address{Prefix: text})
	}
	return out
}

// kernelAddr is the address for the link of that name. A label begins with the link's name, or it is none.
func kernelAddr(a journal.Address, name string, detailed bool) (*netlink.Addr, error) {
	out, err := netlink.ParseAddr(a.Prefix)
	if err != nil || !detailed {
		return out, err
	}
	out.Scope, out.Flags = a.Scope, a.Flags
	if strings.HasPrefix(a.Label, name) {
		out.Label = a.Label
	}
	if out.IP.To4() != nil {
		out.Broadcast = net.IPv4zero // the library's word for none
	}
	if a.Broadcast != "" {
		out.Broadcast = net.ParseIP(a.Broadcast).To4()
	}
	if a.Peer != "" {
		_, out.Peer, err = net.ParseCIDR(a.Peer)
		if err == nil {
			peer, _, _ := net.ParseCIDR(a.Peer)
			out.Peer.IP = peer
		}
	}
	return out, err
}

// ownSysctls are the link's settings that differ from those that a new link of the host gets.
func ownSysctls(link *netlink.LinkAttrs) []journal.Sysctl {
	var out []journal.Sysctl
	for _, family := range []string{"net/ipv4/conf/", "net/ipv6/conf/"} {
		own, like := settingsIn(family+link.Name), settingsIn(family+"default")
		for _, key := range slices.Sorted(maps.Keys(own)) {
			if own[key] != like[key] {
				out = append(out, journal.Sysctl{Path: family + conf.IfNamePlaceholder + "/" + key, Value: own[key]})
			}
		}
	}
	return append(out, ownGenMode(link)...)
}

// Settings that are not read like the others: see ownGenMode.
const (
	ownIPv6    = "net/ipv6/conf/" + conf.IfNamePlaceholder + "/"
	genModeKey = "addr_gen_mode"
	secretKey  = "stable_secret"
)

// ownGenMode says how the link makes its IPv6 addresses, and of which secret if it does by one: nothing where it does not have the protocol.
// The mode is asked for by netlink, and the secret read only where the mode uses it: who reads either under /proc/sys
// keeps a processor busy for as long as anybody changes a link of the machine (restart_syscall in net/ipv6/addrconf.c). The secret is
// first, since setting it sets the mode, and the mode wants it.
func ownGenMode(link *netlink.LinkAttrs) []journal.Sysctl {
	mode, err := genMode(link.Index)
	if err != nil {
		return nil
	}
	var out []journal.Sysctl
	if mode == nl.IN6_ADDR_GEN_MODE_STABLE_PRIVACY || mode == nl.IN6_ADDR_GEN_MODE_RANDOM {
		if secret, err := readSysctl(withName(ownIPv6+secretKey, link.Name)); err == nil { // or it is the host's default
			out = append(out, journal.Sysctl{Path: ownIPv6 + secretKey, Value: secret})
		}
	}
	return append(out, journal.Sysctl{Path: ownIPv6 + genModeKey, Value: strconv.Itoa(mode)})
}

// genMode is IFLA_INET6_ADDR_GEN_MODE of a link in the calling thread's namespace.
func genMode(index int) (int, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	replies, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if err != nil || len(replies) == 0 || len(replies[0]) < unix.SizeofIfInfomsg {
		return 0, errors.Join(errors.New("the kernel says nothing of the link"), err)
	}
	b := replies[0][unix.SizeofIfInfomsg:]
	for _, kind := range []uint16{unix.IFLA_AF_SPEC, unix.AF_INET6, unix.IFLA_INET6_ADDR_GEN_MODE} {
		inner, ok := attribute(b, kind)
		if !ok {
			return 0, fs.ErrNotExist
		}
		b = inner
	}
	if len(b) != 1 {
		return 0, fmt.Errorf("the kernel gives the mode %d bytes", len(b))
	}
	return int(b[0]), nil
}

// attribute is the first of that kind in a list.
func attribute(list []byte, kind uint16) ([]byte, bool) {
	all, err := nl.ParseRouteAttr(list)
	if err != nil {
		return nil, false
	}
	for _, a := range all {
		if a.Attr.Type&nl.NLA_TYPE_MASK == kind {
			return a.Value, true
		}
	}
	return nil, false
}

// notKept are settings that a link does not get again. Its MTU for IPv6 is none that would last: the kernel sets it anew whenever
// there is a carrier (addrconf_notify in net/ipv6/addrconf.c). The forwarding of multicast is the kernel's alone. The others are
// ownGenMode's.
var notKept = []string{"mtu", "mc_forwarding", genModeKey, secretKey}

// settingsIn reads a folder under /proc/sys: none where the host, or the link, does not have the protocol. There are nearly a hundred in
// each, so they are read by the shortest way, and into little room: the kernel makes and clears as much for each of them
// (proc_sys_call_handler in fs/proc/proc_sysctl.c).
func settingsIn(folder string) map[string]string {
	out := map[string]string{}
	dir, err := unix.Open(procSys+"/"+folder, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return out
	}
	defer unix.Close(dir)
	var names []string
	list := make([]byte, 16<<10)
	for {
		n, err := unix.Getdents(dir, list)
		if n <= 0 || err != nil {
			break
		}
		_, _, names = unix.ParseDirent(list[:n], -1, names)
	}
	buf := make([]byte, 128) // all of them are numbers
	for _, name := range names {
		if slices.Contains(notKept, name) {
			continue
		}
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		n, err := unix.Read(fd, buf)
		_ = unix.Close(fd)
		if err == nil && n > 0 {
			out[name] = strings.TrimRight(string(buf[:n]), "\n")
		}
	}
	return out
}

// withName is the path of a setting of the link of that name.
func withName(path, name string) string {
	return strings.Replace(path, "/"+conf.IfNamePlaceholder+"/", "/"+name+"/", 1)
}

// restoreOnHost gives the link its settings, its state and its addresses back, in this order: a setting may be what an address needs.
func (u *undoing) restoreOnHost(h *netlink.Handle, index int, was *journal.Host, refused func(string, any, error)) error {
	link, err := h.LinkByIndex(index) // for the name that it has by now
	if err != nil {
		return err
	}
	name := link.Attrs().Name
	restoreSysctls(h, link, was.Sysctls, refused)
	if was.Up {
		refused("up", true, h.LinkSetUp(link))
	}
	for _, a := range addressesOf(was) {
		addr, err := kernelAddr(a, name, len(was.Details) > 0)
		if err == nil {
			err = h.AddrAdd(link, addr)
		}
		refused("address", a.Prefix, err)
	}
	return nil
}

// restoreSysctls sets them again on the link, whatever its name is now. One that it has is not written: who restores it may only be
// let to read.
func restoreSysctls(h *netlink.Handle, link netlink.Link, list []journal.Sysctl, refused func(string, any, error)) {
	for _, s := range list {
		if mode, err := strconv.Atoi(s.Value); s.Path == ownIPv6+genModeKey && err == nil {
			refused(s.Path, s.Value, h.LinkSetIP6AddrGenMode(link, mode))
			continue
		}
		path := withName(s.Path, link.Attrs().Name)
		is, err := readSysctl(path)
		if err == nil && is == s.Value {
			continue
		}
		if !errors.Is(err, os.ErrNotExist) {
			err = writeSysctl(path, s.Value)
		}
		refused(s.Path, s.Value, err)
	}
}
