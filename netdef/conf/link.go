// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

func kinds() []string {
	return []string{KindMacvlan, KindIPvlan, KindHostDevice, KindSRIOV, KindIPoIB, KindChained}
}

// modes are those of a kind, the default first; none where the kind has no modes.
func modes(kind string) []string {
	switch kind {
	case KindMacvlan:
		return []string{ModeBridge, ModePrivate, ModeVEPA, ModePassthru}
	case KindIPvlan:
		return []string{ModeL2, ModeL3, ModeL3S}
	case KindIPoIB:
		return []string{"", ModeDatagram, ModeConnected}
	}
	return nil
}

// OnMaster says that the kind makes a link on a master that stays on the host.
func OnMaster(kind string) bool {
	return kind == KindMacvlan || kind == KindIPvlan || kind == KindIPoIB
}

// Moves says that the kind moves a link of the host into the pod.
func Moves(kind string) bool { return kind == KindHostDevice || kind == KindSRIOV }

// checkLink checks what makes the link, and fills in the defaults.
func (s *Spec) checkLink(c Config) error {
	if s.Kind == "" {
		s.Kind = KindMacvlan
	}
	var errs []error
	known := kinds()
	if !slices.Contains(known, s.Kind) {
		errs = append(errs, fieldErrorf("kind", "%.80q is unknown: write one of %s", s.Kind, strings.Join(known, ", ")))
	}
	list := modes(s.Kind)
	switch {
	case s.Mode == "" && len(list) > 0:
		s.Mode = list[0]
	case s.Mode != "" && len(list) == 0 && slices.Contains(known, s.Kind):
		errs = append(errs, fieldErrorf("mode", "is %.80q: a %s has no modes, leave it out", s.Mode, s.Kind))
	case s.Mode != "" && !slices.Contains(list, s.Mode):
		errs = append(errs, fieldErrorf("mode", "%.80q is unknown: write one of %s", s.Mode, strings.TrimPrefix(strings.Join(list, ", "), ", ")))
	}
	switch s.RDMA {
	case "":
		s.RDMA = RDMAAuto
	case RDMAAuto, RDMARequired, RDMAOff:
	default:
		errs = append(errs, fieldErrorf("rdma", "%.80q is unknown: write %s, %s or %s", s.RDMA, RDMAAuto, RDMARequired, RDMAOff))
	}
	var vf, pkey, hw error
	s.VF, vf = c.vf()
	s.PKey, pkey = c.pkey()
	if c.HWAddr != "" {
		s.HWAddr, hw = ParseMAC("hwaddr", c.HWAddr)
	}
	return errors.Join(append(errs, vf, pkey, hw, s.misplaced(c))...)
}

// misplaced refuses keys that another kind has: whoever wrote them expects something of them.
func (s *Spec) misplaced(c Config) error {
	var errs []error
	only := func(field string, set bool, of ...string) {
		if set && slices.Contains(kinds(), s.Kind) && !slices.Contains(of, s.Kind) {
			errs = append(errs, fieldErrorf(field, "means nothing to a %s: it is a key of %s", s.Kind, strings.Join(of, " and ")))
		}
	}
	only("master", c.Master != "", KindMacvlan, KindIPvlan, KindIPoIB)
	only("device", c.Device != "", KindHostDevice, KindSRIOV)
	only("hwaddr", c.HWAddr != "", KindHostDevice, KindSRIOV)
	only("bcqueuelen", c.BCQueueLen != 0, KindMacvlan)
	only("pkey", c.PKey != "", KindIPoIB)
	only("roceToS", c.RoCEToS != nil, KindMacvlan, KindIPvlan, KindHostDevice, KindSRIOV, KindChained)
	for field, set := range map[string]bool{
		"vlan": c.VLAN != nil, "vlanQoS": c.VLANQoS != nil, "vlanProto": c.VLANProto != "", "spoofchk": c.SpoofChk != "",
		"trust": c.Trust != "", "link_state": c.LinkState != "", "min_tx_rate": c.MinTxRate != nil, "max_tx_rate": c.MaxTxRate != nil,
	} {
		only(field, set, KindSRIOV)
	}
	if c.LinkInContainer {
		errs = append(errs, fieldErrorf("linkInContainer", "is true: a rail stands on a link of the host, leave it out"))
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

func (c Config) vf() (VF, error) {
	v := VF{VLAN: c.VLAN, QoS: c.VLANQoS, MinRate: c.MinTxRate, MaxRate: c.MaxTxRate, LinkState: c.LinkState}
	var errs []error
	inRange := func(field string, n *int, most int) {
		if n != nil && (*n < 0 || *n > most) {
			errs = append(errs, fieldErrorf(field, "is %d: write 0 to %d", *n, most))
		}
	}
	inRange("vlan", c.VLAN, 4094)
	inRange("vlanQoS", c.VLANQoS, 7)
	inRange("min_tx_rate", c.MinTxRate, 1<<31-1)
	inRange("max_tx_rate", c.MaxTxRate, 1<<31-1)
	onOff := func(field, text string) *bool {
		if text != "" && text != "on" && text != "off" {
			errs = append(errs, fieldErrorf(field, "is %.80q: write on or off", text))
		}
		if text == "" {
			return nil
		}
		on := text == "on"
		return &on
	}
	v.SpoofChk, v.Trust = onOff("spoofchk", c.SpoofChk), onOff("trust", c.Trust)
	if (c.VLANQoS != nil && *c.VLANQoS != 0 || c.VLANProto != "") && (c.VLAN == nil || *c.VLAN == 0) {
		errs = append(errs, fieldErrorf("vlan", "is needed for vlanQoS and vlanProto: write 1 to 4094"))
	}
	switch strings.ToLower(c.VLANProto) {
	case "", "802.1q", "802.1ad":
		v.Proto = strings.ToLower(c.VLANProto)
	default:
		errs = append(errs, fieldErrorf("vlanProto", "is %.80q: write 802.1Q or 802.1ad", c.VLANProto))
	}
	switch c.LinkState {
	case "", "auto", "enable", "disable":
	default:
		errs = append(errs, fieldErrorf("link_state", "is %.80q: write auto, enable or disable", c.LinkState))
	}
	if c.MinTxRate != nil && c.MaxTxRate != nil && *c.MaxTxRate != 0 && *c.MinTxRate > *c.MaxTxRate {
		errs = append(errs, fieldErrorf("min_tx_rate", "is %d, more than max_tx_rate %d: write at most that", *c.MinTxRate, *c.MaxTxRate))
	}
	return v, errors.Join(errs...)
}

func (c Config) pkey() (uint16, error) {
	if c.PKey == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(c.PKey, 0, 16)
	if err != nil || n&0x7fff == 0 {
		return 0, fieldErrorf("pkey", "is %.80q: write a partition key like 0x8001", c.PKey)
	}
	return uint16(n), nil
}
