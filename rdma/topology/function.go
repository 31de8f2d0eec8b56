// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/railyard-net/railyard/rdma"
)

// Function is a PCI function.
type Function struct {
	Addr           rdma.BusAddr
	Vendor, Device uint16
	Code           uint32 // class code: base class, subclass, interface, a byte each

	Root  string         // host bridge, as sysfs names it: pci0000:3a
	Above []rdma.BusAddr // the bridges between it and the host bridge, from the nearest to the root port
	Port  Port

	NUMA       int    // -1: the kernel knows none
	CPUs       string // those of the node, such as 0-15,32-47; empty if not known
	IOMMUGroup int    // -1: in none, as without an IOMMU
	Link       Link
	ACS        ACS
	ATS        ATS

	PhysFn  rdma.BusAddr   // of a virtual function
	VirtFns []rdma.BusAddr // of a physical one, by address

	// Card is what the functions of one ConnectX have in common, so that a Data Direct function is known for a NIC's: the
	// keyword V3 of their vital product data. It is read on machines with Data Direct only.
	Card string
}

// IsGPU says that it is a display or 3D controller. So is the graphics chip of a server's management processor; whoever
// lists GPUs for pairing asks their driver.
func (f Function) IsGPU() bool { return f.Code>>16 == 0x03 }

// IsNIC says that it is a network controller: Ethernet or InfiniBand.
func (f Function) IsNIC() bool { return f.Code>>16 == 0x02 }

// IsBridge says that other functions are below it, or could be.
func (f Function) IsBridge() bool { return f.Code>>8 == 0x0604 }

const mellanox = 0x15b3

// isDataDirect says that it is the function by which a ConnectX-8 carries data beside a GPU (kernel-boot/rdma_topo in rdma-core).
func (f Function) isDataDirect() bool { return f.Vendor == mellanox && f.Device == 0x2100 }

// FunctionError is what could not be read of one function.
type FunctionError struct {
	Addr rdma.BusAddr
	Err  error // names the file
}

func (e *FunctionError) Error() string { return fmt.Sprintf("PCI function %s: %v", e.Addr, e.Err) }
func (e *FunctionError) Unwrap() error { return e.Err }

const devices = "bus/pci/devices"

// look reads the files of one function and keeps what goes wrong.
type look struct {
	sys  fs.FS
	dir  string
	errs []error
}

func (l *look) failed(err error) {
	if err != nil {
		l.errs = append(l.errs, err)
	}
}

// readFunction returns what could be read. Only a place that can't be made out leaves nothing.
func readFunction(sys fs.FS, addr rdma.BusAddr) (f Function, ok bool, err error) {
	l := &look{sys: sys, dir: path.Join(devices, string(addr))}
	f = Function{Addr: addr}
	target, err := fs.ReadLink(sys, l.dir)
	if err != nil {
		return Function{}, false, err
	}
	if f.Root, f.Above, err = place(target, addr); err != nil {
		return Function{}, false, fmt.Errorf("%s: %w", l.dir, err)
	}
	f.Vendor = uint16(l.number("vendor", 16, 0))
	f.Device = uint16(l.number("device", 16, 0))
	f.Code = uint32(l.number("class", 24, 0))
	f.NUMA = max(l.number("numa_node", 32, -1), -1)
	f.CPUs, _ = l.text("local_cpulist")
	f.Link = l.link()
	if base := l.base("physfn"); base != "" {
		f.PhysFn = rdma.BusAddr(base)
		if !f.PhysFn.IsPCI() {
			f.PhysFn = ""
			l.failed(fmt.Errorf("%s/physfn leads to %.64q, which is no PCI function", l.dir, base))
		}
	}
	f.IOMMUGroup = l.group()
	// A card may have hundreds of virtual functions, and each would cost dozens of transactions on the bus.
	if f.PhysFn == "" {
		l.config(&f)
	}
	return f, true, errors.Join(l.errs...)
}

// place reads the path of a function below its host bridge, each of whose elements is a bridge under the one before. What is
// above the host bridge depends on the platform.
func place(target string, addr rdma.BusAddr) (root string, above []rdma.BusAddr, err error) {
	parts := strings.Split(target, "/")
	last := len(parts) - 1
	for i := last; i >= 0; i-- {
		at := rdma.BusAddr(parts[i])
		bus, ok := strings.CutPrefix(parts[i], "pci")
		switch {
		case i == last && at != addr:
			i = 0 // it leads elsewhere
		case ok && rdma.BusAddr(bus+":00.0").IsPCI():
			return parts[i], above, nil
		case !at.IsPCI():
			i = 0
		case i < last:
			above = append(above, at)
		}
	}
	return "", nil, fmt.Errorf("leads to %.256q, which is no place below a host bridge", target)
}

// text reads an attribute; it is empty if there is none.
func (l *look) text(name string) (string, bool) {
	file := path.Join(l.dir, name)
	f, err := l.sys.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false
	}
	if err != nil {
		l.failed(err)
		return "", false
	}
	defer f.Close()
	var buf [4096]byte // a page, which is all that an attribute holds
	n, err := f.Read(buf[:])
	if err != nil && !errors.Is(err, io.EOF) {
		l.failed(readError(file, err))
		return "", false
	}
	return strings.TrimSpace(string(buf[:n])), true
}

// readError names the file by its place in the sysfs that was handed in.
func readError(file string, err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	return &fs.PathError{Op: "read", Path: file, Err: err}
}

// number reads an attribute that is a number of so many bits; it is absent's value if there is none.
func (l *look) number(name string, bits, absent int) int {
	s, ok := l.text(name)
	if !ok {
		return absent
	}
	n, err := strconv.ParseInt(s, 0, bits+1)
	if err != nil {
		l.failed(fmt.Errorf("%s/%s holds %.64q, not a number of %d bits", l.dir, name, s, bits))
		return absent
	}
	return int(n)
}

// base is the last element of what a link leads to; it is empty if there is none.
func (l *look) base(name string) string {
	target, err := fs.ReadLink(l.sys, path.Join(l.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if err != nil {
		l.failed(err)
		return ""
	}
	return path.Base(target)
}

func (l *look) group() int {
	base := l.base("iommu_group")
	if base == "" {
		return -1
	}
	n, err := strconv.ParseUint(base, 10, 31)
	if err != nil {
		l.failed(fmt.Errorf("%s/iommu_group leads to %.64q, which is no number of a group", l.dir, base))
		return -1
	}
	return int(n)
}

// config reads what is in the configuration space alone. Where it can't be opened nothing is known, which the values say.
func (l *look) config(f *Function) {
	file := path.Join(l.dir, "config")
	c, err := l.sys.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		l.failed(err)
		return
	}
	defer c.Close()
	at, ok := c.(io.ReaderAt)
	if !ok {
		l.failed(&fs.PathError{Op: "read", Path: file, Err: errors.New("this file system can't read at an offset")})
		return
	}
	space, err := parseConfig(at)
	if err != nil {
		l.failed(readError(file, err))
	}
	f.Port, f.ACS, f.ATS = space.port, space.acs, space.ats
}
