// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"fmt"
	"strconv"
	"strings"
)

// Rate is the speed of a lane, in megatransfers a second: 32000 is PCIe 5.0. Zero is not known.
type Rate int

func (r Rate) String() string {
	if r == 0 {
		return "unknown"
	}
	return strconv.FormatFloat(float64(r)/1000, 'f', -1, 64) + " GT/s"
}

// Link is the link between a function and the port above it: as it is, and as the function could have it. Zeros are not
// known, as for functions inside of a processor and for virtual ones.
type Link struct {
	Rate, MaxRate   Rate
	Width, MaxWidth int // lanes
}

func (l Link) String() string {
	if l.Rate == 0 || l.Width == 0 {
		return "unknown"
	}
	return fmt.Sprintf("x%d %v", l.Width, l.Rate)
}

func (l *look) link() Link {
	return Link{
		Rate: l.rate("current_link_speed"), MaxRate: l.rate("max_link_speed"),
		Width: l.width("current_link_width"), MaxWidth: l.width("max_link_width"),
	}
}

// rate reads "32.0 GT/s PCIe", or "8 GT/s" by kernels before 5.7 (pci_speed_string in drivers/pci/probe.c).
func (l *look) rate(name string) Rate {
	s, ok := l.text(name)
	if !ok || strings.HasPrefix(s, "Unknown") {
		return 0
	}
	digits, unit, _ := strings.Cut(s, " ")
	r, err := strconv.ParseFloat(digits, 64)
	if err != nil || !strings.HasPrefix(unit, "GT/s") || !(r > 0 && r < 1e6) {
		l.failed(fmt.Errorf("%s/%s holds %.64q, not the speed of a link", l.dir, name, s))
		return 0
	}
	return Rate(r*1000 + 0.5)
}

// width reads a number of lanes; the kernel has 0 and 255 for those it does not know (enum pcie_link_width in include/linux/pci.h).
func (l *look) width(name string) int {
	n := l.number(name, 8, 0)
	if n < 0 || n == 0xff {
		return 0
	}
	return n
}
