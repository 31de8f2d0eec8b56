// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// guids are those of a virtual function, as its physical one tells them; empty: it does not.
type guids struct{ node, port string }

// planGUID has the physical function give the virtual one the GUID that the pod asks for, besides what vf has it do. It changes nothing.
func (p *plugin) planGUID(s conf.Spec, m master, vf *journal.VF) (*journal.VF, error) {
	const field = "runtimeConfig." + conf.CapabilityInfinibandGUID
	pf, number, err := physical(p.Sys, m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	h, err := openVFs()
	if err != nil {
		return nil, dispatch.Errorf(dispatch.CodeLink, "%w", err)
	}
	defer h.Close()
	link, _, err := vfInfo(h, p.Sys, pf, number)
	if err != nil {
		return nil, err
	}
	if link.Attrs().EncapType != "infiniband" {
		return nil, &conf.FieldError{Field: field, Detail: fmt.Sprintf("%s is a function of %s, which is no InfiniBand link (%s): leave the pod's infiniband-guid out", m.name(), link.Attrs().Name, link.Attrs().EncapType)}
	}
	is, err := readGUIDs(link, number)
	if err != nil {
		return nil, dispatch.Errorf(dispatch.CodeLink, "%s: read those of virtual function %d of %s: %w", field, number, link.Attrs().Name, err)
	}
	if is == (guids{}) {
		return nil, dispatch.Errorf(dispatch.CodeLink, "%s: the driver of %s does not tell what it is, so it could not be given back: leave the pod's infiniband-guid out", field, link.Attrs().Name)
	}
	return withGUID(vf, journal.VF{PF: pf, Number: number}, s.GUID, is), nil
}

// withGUID adds to what a physical function is to set the GUIDs that differ; fresh is for one that is to set nothing else. Nil: nothing.
func withGUID(vf *journal.VF, fresh journal.VF, want net.HardwareAddr, is guids) *journal.VF {
	guid := want.String()
	if guid == is.node && guid == is.port {
		return vf
	}
	if vf == nil {
		vf = &fresh
	}
	if guid != is.node {
		vf.Set.NodeGUID, vf.Old.NodeGUID = guid, is.node
	}
	if guid != is.port {
		vf.Set.PortGUID, vf.Old.PortGUID = guid, is.port
	}
	return vf
}

// missingGUIDs takes from s those that the virtual function has.
func missingGUIDs(s journal.VFState, is guids) journal.VFState {
	if s.NodeGUID == is.node {
		s.NodeGUID = ""
	}
	if s.PortGUID == is.port {
		s.PortGUID = ""
	}
	return s
}

// guidsFor reads the GUIDs where the state has some, which Ethernet's never have.
func guidsFor(s journal.VFState, pf netlink.Link, number int) (guids, error) {
	if s.NodeGUID == "" && s.PortGUID == "" {
		return guids{}, nil
	}
	return readGUIDs(pf, number)
}

// applyGUIDs sets those that are not empty, and tells set what came of each.
func applyGUIDs(h *netlink.Handle, pf netlink.Link, n int, s journal.VFState, set func(string, error)) {
	for _, one := range []struct {
		text string
		kind int
	}{{s.NodeGUID, nl.IFLA_VF_IB_NODE_GUID}, {s.PortGUID, nl.IFLA_VF_IB_PORT_GUID}} {
		if one.text == "" {
			continue
		}
		guid, err := net.ParseMAC(one.text)
		if err == nil {
			err = h.LinkSetVfGUID(pf, n, guid, one.kind)
		}
		set(conf.CapabilityInfinibandGUID, err)
	}
}

// readGUIDs asks the physical function; netlink's library does not read them. It runs in the host's namespace.
func readGUIDs(pf netlink.Link, number int) (guids, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(pf.Attrs().Index)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(nl.RTEXT_FILTER_VF)))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return guids{}, err
	}
	if len(msgs) != 1 || len(msgs[0]) < unix.SizeofIfInfomsg {
		return guids{}, fmt.Errorf("the kernel's answer has %d parts", len(msgs))
	}
	return parseGUIDs(msgs[0][unix.SizeofIfInfomsg:], number)
}

// parseGUIDs finds the GUIDs of a virtual function among a link's attributes (rtnl_fill_vfinfo in net/core/rtnetlink.c).
func parseGUIDs(attrs []byte, number int) (guids, error) {
	var out guids
	err := eachAttr(attrs, unix.IFLA_VFINFO_LIST, func(list []byte) error {
		return eachAttr(list, nl.IFLA_VF_INFO, func(info []byte) error {
			return errors.Join(
				eachAttr(info, nl.IFLA_VF_IB_NODE_GUID, func(b []byte) error { return takeGUID(&out.node, b, number) }),
				eachAttr(info, nl.IFLA_VF_IB_PORT_GUID, func(b []byte) error { return takeGUID(&out.port, b, number) }))
		})
	})
	return out, err
}

// eachAttr calls f with the value of every attribute of the kind. The kernel pads each of them, and ParseRouteAttr panics where the last
// is not.
func eachAttr(b []byte, kind uint16, f func([]byte) error) error {
	if len(b)%unix.RTA_ALIGNTO != 0 {
		return fmt.Errorf("attributes of %d bytes", len(b))
	}
	list, err := nl.ParseRouteAttr(b)
	if err != nil {
		return err
	}
	for _, a := range list {
		if a.Attr.Type&^unix.NLA_F_NESTED != kind {
			continue
		}
		if err := f(a.Value); err != nil {
			return err
		}
	}
	return nil
}

// takeGUID reads a struct ifla_vf_guid into text, if it is of that virtual function.
func takeGUID(text *string, b []byte, number int) error {
	if len(b) < nl.SizeofVfGUID {
		return fmt.Errorf("a GUID of %d bytes", len(b))
	}
	if int(nl.NativeEndian().Uint32(b)) == number {
		*text = net.HardwareAddr(binary.BigEndian.AppendUint64(nil, nl.NativeEndian().Uint64(b[8:]))).String()
	}
	return nil
}
