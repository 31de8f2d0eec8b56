// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// BusAddr is the name of a piece of hardware below /sys/bus: a PCI address such as 0000:3b:00.0, or an auxiliary device such as
// the subfunction mlx5_core.sf.4. It keeps its meaning while the hardware stays where it is. Devices on other buses have the
// name that sysfs gives them.
type BusAddr string

// ParseBusAddr takes a PCI address, with its domain and in either case, or the name of an auxiliary device.
func ParseBusAddr(s string) (BusAddr, error) {
	if lower := BusAddr(strings.ToLower(s)); lower.IsPCI() {
		return lower, nil
	}
	if a := BusAddr(s); a.isAuxiliary() {
		return a, nil
	}
	return "", fmt.Errorf("%.64q is neither a PCI address like 0000:3b:00.0 nor an auxiliary device like mlx5_core.sf.4", s)
}

// IsPCI says that this is a PCI address: domain:bus:device.function in lower-case hexadecimal (pci_setup_device in
// drivers/pci/probe.c).
func (a BusAddr) IsPCI() bool {
	domain, rest, _ := strings.Cut(string(a), ":")
	if len(domain) < 4 || len(domain) > 8 || !lowerHex(domain) || len(rest) != len("3b:00.0") {
		return false
	}
	return lowerHex(rest[0:2]) && rest[2] == ':' && lowerHex(rest[3:5]) && rest[5] == '.' && rest[6] >= '0' && rest[6] <= '7'
}

// isAuxiliary says that this is module.name.id (__auxiliary_device_add in drivers/base/auxiliary.c).
func (a BusAddr) isAuxiliary() bool {
	parts := strings.Split(string(a), ".")
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" {
		return false
	}
	id, err := strconv.ParseUint(parts[2], 10, 32)
	return err == nil && strconv.FormatUint(id, 10) == parts[2] && !strings.ContainsFunc(parts[0]+parts[1], func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '_' && r != '-'
	})
}

func lowerHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// dir is where sysfs has the hardware.
func (a BusAddr) dir() (string, error) {
	switch {
	case a.IsPCI():
		return "bus/pci/devices/" + string(a), nil
	case a.isAuxiliary():
		return "bus/auxiliary/devices/" + string(a), nil
	}
	return "", fmt.Errorf("%.64q is neither a PCI address nor an auxiliary device", string(a))
}

// NetDevs returns the names of the network interfaces on a PCI function or auxiliary device that are in the namespace of the
// sysfs, sorted: none, one or several. It is an ErrNotFound if there is no such function.
func NetDevs(sys fs.FS, a BusAddr) ([]string, error) {
	dir, err := a.dir()
	if err != nil {
		return nil, err
	}
	names, err := list(sys, path.Join(dir, "net"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, mustExist(sys, dir)
	}
	return names, err
}

// PhysFn returns the physical function that a virtual function belongs to, and its number there, by which its MAC or VLAN is set
// on the physical one. ok is false for a function that is not virtual. It is an ErrNotFound if there is no such function.
func PhysFn(sys fs.FS, vf BusAddr) (pf BusAddr, index int, ok bool, err error) {
	if !vf.IsPCI() {
		return "", 0, false, fmt.Errorf("%.64q is no PCI address", string(vf))
	}
	dir := "bus/pci/devices/" + string(vf)
	target, err := fs.ReadLink(sys, path.Join(dir, "physfn"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", 0, false, mustExist(sys, dir)
	}
	if err != nil {
		return "", 0, false, err
	}
	pf = BusAddr(path.Base(target))
	if !pf.IsPCI() {
		return "", 0, false, fmt.Errorf("%s/physfn leads to %.64q, which is no PCI function", dir, target)
	}
	// virtfn0, virtfn1, ... are links (pci_iov_sysfs_link in drivers/pci/iov.c), with a gap where a function was unplugged.
	above := "bus/pci/devices/" + string(pf)
	names, err := list(sys, above)
	if err != nil {
		return "", 0, false, err
	}
	for _, name := range names {
		digits, ok := strings.CutPrefix(name, "virtfn")
		index, err := strconv.Atoi(digits)
		if !ok || err != nil {
			continue
		}
		target, err := fs.ReadLink(sys, path.Join(above, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", 0, false, err
		}
		if err == nil && path.Base(target) == string(vf) {
			return pf, index, true, nil
		}
	}
	return "", 0, false, fmt.Errorf("%s has no link to its virtual function %s: %w", above, vf, ErrNotFound)
}

// NUMANode returns the node that a PCI function or auxiliary device hangs on, or -1 if the machine doesn't say. It is an ErrNotFound if
// there is no such function.
func NUMANode(sys fs.FS, a BusAddr) (int, error) {
	dir, err := a.dir()
	if err != nil {
		return -1, err
	}
	if err := mustExist(sys, dir); err != nil {
		return -1, err
	}
	if target, err := fs.ReadLink(sys, dir); err == nil { // to where the hardware is, below what it hangs on
		dir = path.Join(path.Dir(dir), target)
	}
	return numaNode(sys, path.Join(dir, "device"))
}

// mustExist is an ErrNotFound where the directory is not there.
func mustExist(sys fs.FS, dir string) error {
	_, err := fs.Stat(sys, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", dir, ErrNotFound)
	}
	return err
}
