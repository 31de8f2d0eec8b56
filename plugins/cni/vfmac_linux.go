// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"net"

	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// setUpVF has the physical function do what is planned for a virtual one, if anything is, and gives that its MAC.
func (p *plugin) setUpVF(l *journal.Link, m master) error {
	vf := l.Host.VF
	if vf == nil {
		return nil
	}
	if err := p.setVF(vf); err != nil {
		return err
	}
	if l.MAC == l.Host.MAC {
		return nil
	}
	mac, err := net.ParseMAC(l.MAC)
	if err == nil {
		err = p.setOwnMAC(vf, m.link.Attrs().Index, mac)
	}
	if err != nil {
		return dispatch.Errorf(dispatch.CodeLink, "mac: set %s on %s: %w", l.MAC, l.Host.Name, err)
	}
	return nil
}

// setOwnMAC sets the address of a virtual function's link on the host. Some drivers refuse that once the physical function has set
// one, be it the same, unless it trusts the virtual one: so it does, for this moment. The journal has what it did before.
func (p *plugin) setOwnMAC(vf *journal.VF, index int, mac net.HardwareAddr) error {
	set := change{index: index, mac: mac}.apply
	err := set()
	if err == nil || vf == nil {
		return err
	}
	h, open := openVFs()
	if open != nil {
		return errors.Join(err, open)
	}
	defer h.Close()
	pf, is, lost := vfInfo(h, p.Sys, vf.PF, vf.Number)
	if lost != nil || is.Trust == 1 || h.LinkSetVfTrust(pf, vf.Number, true) != nil {
		return err
	}
	p.Hit("vf:trusted")
	return errors.Join(set(), h.LinkSetVfTrust(pf, vf.Number, false))
}
