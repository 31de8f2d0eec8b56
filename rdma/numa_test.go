// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"errors"
	"testing"
)

func TestNUMANode(t *testing.T) {
	sys := tree{}
	const port = "devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0"
	sys.file(port+"/numa_node", "1\n")
	sys.file(port+"/mlx5_core.sf.4/sfnum", "88\n")
	sys.file("devices/pci0000:00/0000:00:02.0/numa_node", "-1\n")
	sys.file("devices/virtual/x/uevent", "")
	sys.link("bus/pci/devices/0000:3b:00.0", port)
	sys.link("bus/pci/devices/0000:00:02.0", "devices/pci0000:00/0000:00:02.0")
	sys.link("bus/auxiliary/devices/mlx5_core.sf.4", port+"/mlx5_core.sf.4")
	for a, want := range map[BusAddr]int{"0000:3b:00.0": 1, "mlx5_core.sf.4": 1, "0000:00:02.0": -1} {
		if got, err := NUMANode(sys, a); got != want || err != nil {
			t.Errorf("%s: %d, %v, want %d", a, got, err, want)
		}
	}
	if _, err := NUMANode(sys, "0000:ff:00.0"); !errors.Is(err, ErrNotFound) {
		t.Errorf("no such function: %v", err)
	}
	if _, err := NUMANode(sys, "../x"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("what is no address: %v", err)
	}
}
