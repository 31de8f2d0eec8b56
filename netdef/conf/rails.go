// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

const (
	// maxRails bounds a list of rails; machines have eight or sixteen.
	maxRails = 32
	// firstTable is the routing table of the first rail that names none.
	firstTable = 1000
	// maxTable is the highest table below those that the kernel keeps for itself: 253 to 255 are, and so is 0.
	maxTable = 1<<31 - 1
)

// rails gives each rail with what it inherits, or the one rail that a config without a list is.
func (c Config) rails(k Known) ([]RailSpec, error) {
	kind := cmp.Or(c.Kind, KindMacvlan)
	own := RailSpec{Master: c.Master, Device: c.Device, MTU: c.MTU, Pool: k.Pool}
	var tos error
	own.ToS, tos = parseToS("roceToS", c.RoCEToS, c.RDMA)
	if len(c.Rails) == 0 {
		return []RailSpec{own}, errors.Join(tos, own.check("", kind))
	}
	errs := []error{tos}
	if len(c.Rails) > maxRails {
		errs = append(errs, fieldErrorf("rails", "has %d entries: use at most %d", len(c.Rails), maxRails))
		c.Rails = c.Rails[:maxRails]
	}
	if kind == KindChained {
		errs = append(errs, fieldErrorf("rails", "means nothing to kind %s: the plugin before makes the interfaces", KindChained))
	}
	out := make([]RailSpec, 0, len(c.Rails))
	names, tables := map[string]bool{}, map[int]bool{}
	for i, r := range c.Rails {
		at := fmt.Sprintf("rails[%d].", i)
		s := own
		if i > 0 {
			s.IfName = fmt.Sprintf("-%d", i+1)
		}
		s.Table, s.AutoTable = firstTable+i, r.Table == 0
		override(&s.IfName, r.Interface)
		override(&s.Master, r.Master)
		override(&s.Device, r.Device)
		if r.Label != "" || r.Auto {
			s.Master, s.Device, s.Label, s.Auto = "", "", r.Label, r.Auto
			errs = append(errs, r.checkChoice(at))
		}
		if r.RoCEToS != nil {
			var tos error
			s.ToS, tos = parseToS(at+"roceToS", r.RoCEToS, c.RDMA)
			errs = append(errs, tos)
		}
		override(&s.Pool, r.Pool)
		override(&s.MTU, r.MTU)
		override(&s.Table, r.Table)
		errs = append(errs, s.check(at, kind))
		if r.Interface != "" {
			errs = append(errs, CheckInterface(at+"interface", r.Interface))
		}
		if r.Pool != "" && k.IPAMType != IPAMType {
			errs = append(errs, fieldErrorf(at+"pool", "needs an ipam section of type %s", IPAMType))
		}
		if names[s.IfName] {
			errs = append(errs, fieldErrorf(at+"interface", "is that of another rail: give each its own"))
		}
		if tables[s.Table] {
			errs = append(errs, fieldErrorf(at+"table", "%d is that of another rail: give each its own", s.Table))
		}
		names[s.IfName], tables[s.Table] = true, true
		out = append(out, s)
	}
	return out, errors.Join(errs...)
}

// CheckInterface refuses what no interface can be called.
func CheckInterface(field, name string) error {
	if !IsInterface(name) || name[0] == '-' || strings.ContainsRune(name, '%') || name == "all" || name == "default" {
		return fieldErrorf(field, "%.80q is no interface's name: write one like net1, of up to 15 bytes", name)
	}
	return nil
}

func (r RailSpec) check(at, kind string) error {
	errs := []error{CheckMaster(at+"master", r.Master), CheckMaster(at+"device", r.Device)}
	if r.MTU != 0 && (r.MTU < minMTU || r.MTU > maxMTU) {
		errs = append(errs, fieldErrorf(at+"mtu", "is %d: write %d to %d, or 0 for the master's", r.MTU, minMTU, maxMTU))
	}
	if r.Table < 0 || r.Table > maxTable || r.Table >= 253 && r.Table <= 255 {
		errs = append(errs, fieldErrorf(at+"table", "is %d: write 1 to 252, or 256 to %d", r.Table, maxTable))
	}
	if at != "" && OnMaster(kind) && r.Device != "" {
		errs = append(errs, fieldErrorf(at+"device", "means nothing to a %s: write master", kind))
	}
	if at != "" && Moves(kind) && r.Master != "" {
		errs = append(errs, fieldErrorf(at+"master", "means nothing to a %s: write device", kind))
	}
	return errors.Join(errs...)
}

func override[T comparable](what *T, by T) {
	var zero T
	if by != zero {
		*what = by
	}
}

// checkChoice refuses a rail with more than one answer to which NIC it is.
func (r Rail) checkChoice(at string) error {
	if r.Master != "" || r.Device != "" || r.Label != "" && r.Auto {
		return fieldErrorf(at+"label", "stands beside another of master, device, label and auto: write one of them")
	}
	if r.Label == "" {
		return nil
	}
	return CheckLabel(at+"label", r.Label)
}

// CheckLabel refuses what no label of a rail can be.
func CheckLabel(field, label string) error {
	const most = 63
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r)
	}
	if label == "" || len(label) > most || strings.ContainsFunc(label, func(r rune) bool { return !plain(r) }) {
		return fieldErrorf(field, "%.80q is no label: write one like leaf-3, up to %d letters, digits, dots, dashes and underscores", label, most)
	}
	return nil
}

// parseToS reads a type of service. Nil: none was written.
func parseToS(field string, n *int, rdma string) (*uint8, error) {
	switch {
	case n == nil:
		return nil, nil //nolint:nilnil // none is an answer
	case *n < 0 || *n > 255:
		return nil, fieldErrorf(field, "is %d: write 0 to 255, four times the DSCP plus 2 for ECN, e.g. 106 for DSCP 26", *n)
	case rdma == RDMAOff:
		return nil, fieldErrorf(field, "means nothing where rdma is %s: leave one of them out", RDMAOff)
	}
	return new(uint8(*n)), nil
}

// noNullRails refuses null as an entry of the list of rails, which would be a rail with all defaults otherwise.
func noNullRails(data []byte) error {
	var c struct {
		Rails []json.RawMessage `json:"rails"`
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return nil //nolint:nilerr // told where the whole is decoded
	}
	for i, r := range c.Rails {
		if null(r) {
			return fieldErrorf(fmt.Sprintf("rails[%d]", i), "is null: write an object, {} for a rail with all defaults")
		}
	}
	return nil
}
