// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"reflect"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
	"github.com/railyard-net/railyard/rdma"
)

// openVFs opens a handle that also reads what physical functions know of their virtual ones.
func openVFs() (*netlink.Handle, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	return h.RetryInterrupted(), nil
}

// planVF decides what the physical function is to set: all that the config names. It changes nothing; nil: nothing.
func planVF(sys fs.FS, s conf.Spec, m master) (*journal.VF, error) {
	pf, number, err := physical(sys, m)
	if err != nil {
		return nil, err
	}
	h, err := openVFs()
	if err != nil {
		return nil, dispatch.Errorf(dispatch.CodeLink, "%w", err)
	}
	defer h.Close()
	_, is, err := vfInfo(h, sys, pf, number)
	if err != nil {
		return nil, err
	}
	set := s.VF
	vf := &journal.VF{PF: pf, Number: number}
	if s.MAC != nil {
		vf.Set.MAC, vf.Old.MAC = s.MAC.String(), is.Mac.String()
	}
	trusted := is.Trust == 1
	if set.VLAN != nil {
		want := journal.VLAN{ID: *set.VLAN, Proto: unix.ETH_P_8021Q}
		if set.QoS != nil {
			want.QoS = *set.QoS
		}
		if set.Proto == "802.1ad" {
			want.Proto = unix.ETH_P_8021AD
		}
		old := vlanOf(is)
		vf.Set.VLAN, vf.Old.VLAN = &want, &old
	}
	if set.MinRate != nil || set.MaxRate != nil {
		old := journal.Rate{Min: int(is.MinTxRate), Max: int(is.MaxTxRate)}
		want := old
		if set.MinRate != nil {
			want.Min = *set.MinRate
		}
		if set.MaxRate != nil {
			want.Max = *set.MaxRate
		}
		vf.Set.Rate, vf.Old.Rate = &want, &old
	}
	vf.Set.SpoofChk, vf.Old.SpoofChk = wished(set.SpoofChk, is.Spoofchk)
	vf.Set.Trust, vf.Old.Trust = wished(set.Trust, trusted)
	if s.MAC != nil {
		vf.Old.Trust = &trusted // see setOwnMAC
	}
	if set.LinkState != "" {
		want := map[string]uint32{"auto": nl.IFLA_VF_LINK_STATE_AUTO, "enable": nl.IFLA_VF_LINK_STATE_ENABLE, "disable": nl.IFLA_VF_LINK_STATE_DISABLE}[set.LinkState]
		vf.Set.LinkState, vf.Old.LinkState = wished(&want, is.LinkState)
	}
	if vf.Set == (journal.VFState{}) && s.MAC == nil {
		return nil, nil //nolint:nilnil // nothing is an answer
	}
	return vf, nil
}

// vlanOf is the virtual function's VLAN; its protocol is 0 where the kernel does not tell.
func vlanOf(is netlink.VfInfo) journal.VLAN {
	return journal.VLAN{ID: is.Vlan, QoS: is.Qos, Proto: is.VlanProto}
}

// sameVLAN compares what is on the wire: without a VLAN neither priority nor protocol means anything, and a protocol
// that is not known may be any.
func sameVLAN(a, b journal.VLAN) bool {
	return a.ID == 0 && b.ID == 0 || a.ID == b.ID && a.QoS == b.QoS && (a.Proto == b.Proto || a.Proto == 0 || b.Proto == 0)
}

// wished is what is to be set and what it was, also where both are the same: CHECK is to find that it is so still.
func wished[T any](want *T, is T) (set, old *T) {
	if want == nil {
		return nil, nil
	}
	return want, &is
}

// unlike is want, or nil if it is so.
func unlike[T comparable](want *T, is T) *T {
	if want == nil || *want == is {
		return nil
	}
	return want
}

// physical is the physical function of the virtual one, and the latter's number on it.
func physical(sys fs.FS, m master) (pf string, number int, err error) {
	addr, number, virtual, err := rdma.PhysFn(sys, rdma.BusAddr(m.pci))
	if err == nil && virtual {
		return string(addr), number, nil
	}
	switch {
	case m.pci == "" && m.bus != "":
		err = fmt.Errorf("it is on %s, and that is no PCI function: write kind %s for it", m.bus, conf.KindHostDevice)
	case err == nil || m.pci == "":
		err = fmt.Errorf("write kind %s for it", conf.KindHostDevice)
	}
	return "", 0, dispatch.Errorf(dispatch.CodeMaster, "device: %s is no virtual function: %w", m.name(), err)
}

// vfInfo gives the physical function's link and what it knows of the virtual one. An error with the link says that there is no such one.
func vfInfo(h *netlink.Handle, sys fs.FS, pf string, number int) (netlink.Link, netlink.VfInfo, error) {
	link, err := lookUp(h, sys, "device", pf)
	if err != nil {
		return nil, netlink.VfInfo{}, err
	}
	for _, is := range link.Attrs().Vfs {
		if is.ID == number {
			return link, is, nil
		}
	}
	return link, netlink.VfInfo{}, dispatch.Errorf(dispatch.CodeMaster, "device: %s has no virtual function %d any more", link.Attrs().Name, number)
}

// setVF has the physical function do what is planned, if anything is. What is so already is not touched: a driver that cannot set it
// need not.
func (p *plugin) setVF(vf *journal.VF) error {
	if vf == nil {
		return nil
	}
	h, err := openVFs()
	if err != nil {
		return dispatch.Errorf(dispatch.CodeLink, "%w", err)
	}
	defer h.Close()
	link, is, err := vfInfo(h, p.Sys, vf.PF, vf.Number)
	if err != nil {
		return err
	}
	return applyVF(h, link, vf.Number, missing(vf.Set, is))
}

// applyVF sets what is not nil. It goes on after an error, for undoing.
func applyVF(h *netlink.Handle, pf netlink.Link, n int, s journal.VFState) error {
	var errs []error
	set := func(key string, err error) {
		switch {
		case errors.Is(err, unix.EOPNOTSUPP):
			errs = append(errs, dispatch.Errorf(dispatch.CodeLink, "%s: the driver of %s cannot set it for virtual function %d: leave it out: %w", key, pf.Attrs().Name, n, err))
		case err != nil:
			errs = append(errs, dispatch.Errorf(dispatch.CodeLink, "%s: set it on virtual function %d of %s: %w", key, n, pf.Attrs().Name, err))
		}
	}
	if s.MAC != "" {
		mac, err := net.ParseMAC(s.MAC)
		if err == nil {
			err = h.LinkSetVfHardwareAddr(pf, n, mac)
		}
		set("mac", err)
	}
	if v := s.VLAN; v != nil {
		if v.Proto == unix.ETH_P_8021AD {
			set("vlanProto", h.LinkSetVfVlanQosProto(pf, n, v.ID, v.QoS, unix.ETH_P_8021AD))
		} else {
			set("vlan", h.LinkSetVfVlanQos(pf, n, v.ID, v.QoS))
		}
	}
	if s.Rate != nil {
		set("max_tx_rate", h.LinkSetVfRate(pf, n, s.Rate.Min, s.Rate.Max))
	}
	if s.SpoofChk != nil {
		set("spoofchk", h.LinkSetVfSpoofchk(pf, n, *s.SpoofChk))
	}
	if s.Trust != nil {
		set("trust", h.LinkSetVfTrust(pf, n, *s.Trust))
	}
	if s.LinkState != nil {
		set("link_state", h.LinkSetVfState(pf, n, *s.LinkState))
	}
	applyGUIDs(h, pf, n, s, set)
	return errors.Join(errs...)
}

// checkVF compares what the physical function knows with what was set.
func (c *checking) checkVF(vf *journal.VF) error {
	if vf == nil {
		return nil
	}
	h, err := openVFs()
	if err != nil {
		return dispatch.Errorf(dispatch.CodeLink, "%w", err)
	}
	defer h.Close()
	link, is, err := vfInfo(h, c.Sys, vf.PF, vf.Number)
	if err != nil {
		return err
	}
	ids, err := guidsFor(vf.Set, link, vf.Number)
	if err != nil {
		return dispatch.Errorf(dispatch.CodeLink, "read the GUIDs of virtual function %d of %s: %w", vf.Number, vf.PF, err)
	}
	if left := missingGUIDs(missing(vf.Set, is), ids); left != (journal.VFState{}) {
		return dispatch.Errorf(dispatch.CodeDrift, "virtual function %d of %s is not as it was set: %+v", vf.Number, vf.PF, left)
	}
	return nil
}

// restoreVF has the physical function set again what it was, if that was anything else. One that is gone, or has lost its virtual
// functions, has nothing to restore; one that is merely away, in a pod for one, or without its driver, is errLater.
func (u *undoing) restoreVF(vf *journal.VF) error {
	if vf == nil || reflect.DeepEqual(vf.Set, vf.Old) {
		return nil
	}
	h, err := openVFs()
	if err != nil {
		return dispatch.Errorf(dispatch.CodeLink, "%w", err)
	}
	defer h.Close()
	link, is, err := vfInfo(h, u.Sys, vf.PF, vf.Number)
	switch {
	case err != nil && link == nil && u.hasVF(vf):
		return fmt.Errorf("%w: what %s had set for virtual function %d: %w", errLater, vf.PF, vf.Number, err)
	case err != nil:
		u.Log.Warn("a physical function is gone, or has lost its virtual ones, and with them what it had set for one", "pf", vf.PF, "vf", vf.Number, "error", err)
		return nil
	}
	ids, err := guidsFor(vf.Old, link, vf.Number)
	if err != nil {
		return dispatch.Errorf(dispatch.CodeLink, "read the GUIDs of virtual function %d of %s: %w", vf.Number, vf.PF, err)
	}
	// What is as it was is not touched: an ADD that died half-way has set only a part, and a driver that refuses
	// a setting refuses it here too.
	return applyVF(h, link, vf.Number, missingGUIDs(missing(vf.Old, is), ids))
}

// hasVF says that the machine still has the physical function, and that the virtual one.
func (u *undoing) hasVF(vf *journal.VF) bool {
	_, err := fs.Stat(u.Sys, path.Join("bus/pci/devices", vf.PF, fmt.Sprint("virtfn", vf.Number)))
	return err == nil
}

// missing is the part of s that the virtual function does not have.
func missing(s journal.VFState, is netlink.VfInfo) journal.VFState {
	if s.MAC == is.Mac.String() {
		s.MAC = ""
	}
	if s.VLAN != nil && sameVLAN(*s.VLAN, vlanOf(is)) {
		s.VLAN = nil
	}
	if s.Rate != nil && *s.Rate == (journal.Rate{Min: int(is.MinTxRate), Max: int(is.MaxTxRate)}) {
		s.Rate = nil
	}
	s.SpoofChk = unlike(s.SpoofChk, is.Spoofchk)
	s.Trust = unlike(s.Trust, is.Trust == 1)
	s.LinkState = unlike(s.LinkState, is.LinkState)
	return s
}
