// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"encoding/binary"
	"errors"
	"io"
)

// Port is what a function is to PCI Express. It is read from the configuration space; where that can't be read, that of a bridge
// follows from its place: the ports of a switch are upstream and downstream by turns.
type Port uint8

// The ports that a path goes through, and what is at its ends.
const (
	Endpoint   Port = iota
	RootPort        // of a host bridge
	Upstream        // of a switch, towards the host bridge
	Downstream      // of a switch
	Bridge          // to conventional PCI, or back
)

func (p Port) String() string {
	return [...]string{"endpoint", "root port", "upstream port", "downstream port", "bridge"}[p]
}

// Presence is what is known of a capability.
type Presence uint8

// What is known. Unknown is for a configuration space that can't be read to its end, as by a process without CAP_SYS_ADMIN.
const (
	Unknown Presence = iota
	Absent
	Present
)

// ACS is Access Control Services, by which a port keeps the functions below it from each other (PCIe 6.12).
type ACS struct {
	Presence
	Supported, Enabled ACSFlags
}

// ACSFlags are those of the capability and of its control register (PCI_ACS_* in include/uapi/linux/pci_regs.h).
type ACSFlags uint16

// What matters to traffic between functions.
const (
	ACSRequestRedirect    ACSFlags = 1 << 2 // requests to a neighbour go up to the root port
	ACSCompletionRedirect ACSFlags = 1 << 3 // so do the answers
	ACSUpstreamForwarding ACSFlags = 1 << 4
	ACSEgressControl      ACSFlags = 1 << 5
	ACSDirectTranslated   ACSFlags = 1 << 6 // requests with an address from ATS are let through all the same
)

// Redirects says that traffic between the functions below this port and its neighbour's makes the detour over the root port.
func (a ACS) Redirects() bool {
	return a.Presence == Present && a.Enabled&(ACSRequestRedirect|ACSCompletionRedirect) != 0
}

// ATS is Address Translation Services, by which a function asks the IOMMU once and then keeps the answer (PCIe 10.5).
type ATS struct {
	Presence
	Enabled bool
}

// space is what we read of a configuration space.
type space struct {
	port Port
	acs  ACS
	ats  ATS
}

// Where things are (include/uapi/linux/pci_regs.h).
const (
	regVendor   = 0x00
	regStatus   = 0x04 // with the command register in the lower half
	regCapPtr   = 0x34
	headerEnd   = 0x40
	extended    = 0x100
	configEnd   = 0x1000
	hasCapList  = 1 << 20
	capExpress  = 0x10
	extACS      = 0x0d
	extATS      = 0x0f
	atsEnable   = 1 << 31
	absentWord  = 0xffffffff
	maxCap      = (extended - headerEnd) / 4
	maxExtended = (configEnd - extended) / 8
)

// errGone is what a function answers that is no longer on the bus, or sleeps too deeply.
var errGone = errors.New("the function does not answer")

// parseConfig reads no more than the header and the capabilities themselves: there is hardware that does not bear to be
// read elsewhere (Documentation/PCI/sysfs-pci.rst), and each word is a transaction on the bus. Where the space ends early, as it does
// for a process without privilege, the rest is Unknown. Hardware makes the lists, so they are not believed: no loop, nothing out of
// bounds.
func parseConfig(r io.ReaderAt) (space, error) {
	c := config{r: r}
	if c.word(regVendor) == absentWord {
		return space{}, errors.Join(c.err, errGone)
	}
	s := space{acs: ACS{Presence: Absent}, ats: ATS{Presence: Absent}}
	switch express, found := c.express(); {
	case c.short || c.err != nil:
		return space{}, c.err
	case !found:
		return s, nil // conventional PCI
	default:
		s.port = portType(c.word(express) >> 20 & 0xf)
	}
	c.walkExtended(func(id uint32, at int64) {
		switch body := c.word(at + 4); {
		case c.short:
		case id == extACS:
			s.acs = ACS{Present, ACSFlags(body), ACSFlags(body >> 16)}
		case id == extATS:
			s.ats = ATS{Present, body&atsEnable != 0}
		}
	})
	if c.short || c.err != nil {
		// What was found is so; what was not may be in the rest.
		if s.acs.Presence == Absent {
			s.acs.Presence = Unknown
		}
		if s.ats.Presence == Absent {
			s.ats.Presence = Unknown
		}
	}
	return s, c.err
}

// portType reads the device/port type of the PCI Express capability.
func portType(t uint32) Port {
	switch t {
	case 4:
		return RootPort
	case 5:
		return Upstream
	case 6:
		return Downstream
	case 7, 8:
		return Bridge
	}
	return Endpoint
}

// config reads words until something is wrong, and zeros from then on.
type config struct {
	r     io.ReaderAt
	short bool  // the space ended
	err   error // reading failed, or what was read makes no sense
}

func (c *config) word(at int64) uint32 {
	if c.short || c.err != nil {
		return 0
	}
	var b [4]byte
	n, err := c.r.ReadAt(b[:], at)
	switch {
	case n == len(b):
		return binary.LittleEndian.Uint32(b[:])
	case err == nil || errors.Is(err, io.EOF):
		c.short = true
	default:
		c.err = err
	}
	return 0
}

// express finds the capability by which a function is PCI Express.
func (c *config) express() (at int64, found bool) {
	if c.word(regStatus)&hasCapList == 0 {
		return 0, false
	}
	at = int64(c.word(regCapPtr) & 0xfc)
	for range maxCap {
		if at < headerEnd {
			return 0, false // the end of the list
		}
		w := c.word(at)
		if c.short || c.err != nil {
			return 0, false
		}
		if w&0xff == capExpress {
			return at, true
		}
		at = int64(w >> 8 & 0xfc)
	}
	c.err = errors.New("the list of capabilities runs in a circle")
	return 0, false
}

// walkExtended calls f for each extended capability. A space of 256 bytes is that of a function whose others the machine can't reach.
func (c *config) walkExtended(f func(id uint32, at int64)) {
	at := int64(extended)
	for range maxExtended {
		w := c.word(at)
		if w == 0 || w == absentWord { // none
			return
		}
		f(w&0xffff, at)
		if at = int64(w >> 20 & 0xffc); at < extended {
			return // the end of the list
		}
	}
	c.err = errors.New("the list of extended capabilities runs in a circle")
}
