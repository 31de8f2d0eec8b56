// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/railyard-net/railyard/rdma"
	"github.com/railyard-net/railyard/rdma/topology"
)

// look reads NICs from a sysfs.
type look struct {
	sys     fs.FS
	devices []rdma.Device
	routed  []string
}

const (
	pciDevices = "bus/pci/devices"
	auxDevices = "bus/auxiliary/devices"

	etherType      = "1"  // ARPHRD_ETHER
	infinibandType = "32" // ARPHRD_INFINIBAND
)

func (l look) function(f topology.Function) (NIC, error) {
	dir := path.Join(pciDevices, string(f.Addr))
	n := NIC{
		Addr: f.Addr, Kind: Physical, PF: f.Addr, NUMA: f.NUMA,
		Vendor: fmt.Sprintf("%04x", f.Vendor), Device: fmt.Sprintf("%04x", f.Device),
	}
	var errs []error
	if f.PhysFn != "" {
		n.Kind = Virtual
		pf, index, _, err := rdma.PhysFn(l.sys, f.Addr)
		errs = append(errs, err)
		n.PF, n.Index = pf, index
		if pf == "" {
			n.PF = f.PhysFn
		}
	}
	if f.Code>>8 == 0x0207 { // an InfiniBand controller; an interface says better
		n.LinkType = "infiniband"
	}
	errs = append(errs, l.common(&n, dir))
	n.ACPIIndex, _ = l.text(path.Join(dir, "acpi_index"))
	return n, errors.Join(errs...)
}

// subfunctions are those of mlx5: module.sf.N on the auxiliary bus, below the function of their card.
func (l look) subfunctions(cards []NIC) ([]NIC, error) {
	entries, err := fs.ReadDir(l.sys, auxDevices)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var subs []NIC
	var errs []error
	for _, e := range entries {
		parts := strings.Split(e.Name(), ".")
		if len(parts) != 3 || parts[1] != "sf" {
			continue
		}
		addr, err := rdma.ParseBusAddr(e.Name())
		if err != nil {
			continue
		}
		n, err := l.subfunction(addr, cards)
		if err != nil {
			errs = append(errs, fmt.Errorf("NIC %s: %w", addr, err))
			continue
		}
		subs = append(subs, n)
	}
	return subs, errors.Join(errs...)
}

func (l look) subfunction(addr rdma.BusAddr, cards []NIC) (NIC, error) {
	dir := path.Join(auxDevices, string(addr))
	target, err := fs.ReadLink(l.sys, dir)
	if err != nil {
		return NIC{}, err
	}
	card := rdma.BusAddr(path.Base(path.Dir(target)))
	i := slices.IndexFunc(cards, func(n NIC) bool { return n.Addr == card })
	if i < 0 {
		return NIC{}, fmt.Errorf("%s is below %.64q, which is no NIC", dir, card)
	}
	n := cards[i]
	n = NIC{Addr: addr, Kind: Subfunction, PF: n.Addr, NUMA: n.NUMA, Vendor: n.Vendor, Device: n.Device}
	if num, ok := l.text(path.Join(dir, "sfnum")); ok {
		if n.Index, err = strconv.Atoi(num); err != nil {
			return NIC{}, fmt.Errorf("%s/sfnum holds %.64q, not a number", dir, num)
		}
	}
	err = l.common(&n, dir)
	return n, err
}

// common reads what all kinds have, from the folder of the function.
func (l look) common(n *NIC, dir string) error {
	var errs []error
	var err error
	if n.NetDevs, err = rdma.NetDevs(l.sys, n.Addr); err != nil {
		errs = append(errs, err)
	}
	if driver, err := fs.ReadLink(l.sys, path.Join(dir, "driver")); err == nil {
		n.Driver = path.Base(driver)
	}
	n.RDMA = rdma.Of(l.devices, n.Addr)
	names := n.RDMANames()
	// The verbs device stays below its function, whoever has the RDMA device now.
	for _, verbs := range l.list(path.Join(dir, "infiniband_verbs")) {
		if name, ok := l.text(path.Join("class/infiniband_verbs", verbs, "ibdev")); ok && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	n.Capable = len(names) > 0 || len(l.list(path.Join(dir, "infiniband"))) > 0
	for _, name := range names {
		files, err := rdma.CharDevsOf(l.sys, name)
		errs = append(errs, err)
		if n.Files.Verbs == "" {
			n.Files.Verbs, n.Files.CM = files.Verbs, files.CM
		}
		n.Files.UMAD, n.Files.ISSM = append(n.Files.UMAD, files.UMAD...), append(n.Files.ISSM, files.ISSM...)
	}
	l.port(n, dir)
	l.physical(n)
	return errors.Join(errs...)
}

// port reads what the interface and the first port say.
func (l look) port(n *NIC, dir string) {
	for _, dev := range n.NetDevs {
		// An interface in a bond has a link to it.
		master, _ := fs.ReadLink(l.sys, path.Join(dir, "net", dev, "master"))
		n.DefaultRoute = n.DefaultRoute || slices.Contains(l.routed, dev) || slices.Contains(l.routed, path.Base(master))
		switch kind, _ := l.text(path.Join(dir, "net", dev, "type")); kind {
		case etherType:
			n.LinkType = "ether"
		case infinibandType:
			n.LinkType = "infiniband"
		}
		// EINVAL while the interface is down, -1 if the driver does not know.
		if text, ok := l.text(path.Join(dir, "net", dev, "speed")); ok {
			if speed, err := strconv.ParseInt(text, 10, 64); err == nil && speed > 0 {
				n.Speed = max(n.Speed, speed)
			}
		}
	}
	for _, d := range n.RDMA {
		for _, p := range d.Ports {
			switch {
			case n.LinkType != "":
			case p.LinkLayer == rdma.InfiniBand:
				n.LinkType = "infiniband"
			case p.LinkLayer == rdma.Ethernet:
				n.LinkType = "ether"
			}
		}
		base := path.Join("class/infiniband", d.Name, "ports/1")
		if text, ok := l.text(path.Join(base, "rate")); ok && n.Speed == 0 { // "400 Gb/sec (4X NDR)"
			if gb, err := strconv.ParseFloat(strings.Fields(text + " 0")[0], 64); err == nil && gb > 0 && gb < 1e6 {
				n.Speed = int64(gb * 1000)
			}
		}
		if n.LinkType == "infiniband" && n.PKey == "" {
			n.PKey, _ = l.text(path.Join(base, "pkeys/0"))
		}
	}
}

// physical reads the name and the link of the physical function, which stay on the host with it.
func (l look) physical(n *NIC) {
	dir := path.Join(pciDevices, string(n.PF))
	for _, dev := range l.list(path.Join(dir, "net")) {
		// A representor of a virtual function says pf0vf3.
		if port, _ := l.text(path.Join(dir, "net", dev, "phys_port_name")); port != "" && !strings.HasPrefix(port, "p") || strings.Contains(port, "vf") || strings.Contains(port, "sf") {
			continue
		}
		if n.PFName == "" {
			n.PFName = dev
		}
		if carrier, ok := l.text(path.Join(dir, "net", dev, "carrier")); ok { // EINVAL while it is down
			n.Link, n.Up = true, n.Up || carrier == "1"
		} else if state, ok := l.text(path.Join(dir, "net", dev, "operstate")); ok {
			n.Link, n.Up = true, n.Up || state == "up"
		}
	}
	for _, d := range rdma.Of(l.devices, n.PF) {
		for _, p := range d.Ports {
			n.Link, n.Up = true, n.Up || p.State == rdma.StateActive
		}
	}
}

func (l look) list(dir string) []string {
	entries, err := fs.ReadDir(l.sys, dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// text reads an attribute that not every machine has, or that has no value at times.
func (l look) text(name string) (string, bool) {
	f, err := l.sys.Open(name)
	if err != nil {
		return "", false
	}
	defer f.Close()
	var buf [4096]byte
	n, err := f.Read(buf[:])
	if err != nil && !errors.Is(err, io.EOF) || errors.Is(err, syscall.EINVAL) {
		return "", false
	}
	return strings.TrimSpace(string(buf[:n])), true
}
