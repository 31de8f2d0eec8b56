// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

//go:build vm

package rdma

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKernelAnswers needs a kernel with RDMA, but no device.
func TestKernelAnswers(t *testing.T) {
	h, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	mode, err := h.Mode()
	if err != nil {
		t.Error(err)
	}
	refs, err := h.List()
	if err != nil {
		t.Error(err)
	}
	t.Logf("mode %v, devices %+v", mode, refs)
	// The index is that of no device.
	if err := h.nl.setNetNS(1<<30, newNS(t)); !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %v for a move of no device, want EINVAL", err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}

// TestKernelContract is the contract on a real kernel, in a VM that has an RDMA device (rdma link add rxe0 type rxe netdev eth0) and is
// thrown away: devices are moved. It takes the first device that both sysfs and netlink show.
func TestKernelContract(t *testing.T) {
	home, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	homeNS, err := threadNS()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(homeNS)
	devices, err := Discover(os.DirFS("/sys"))
	if err != nil || len(devices) == 0 {
		t.Fatalf("devices of this machine: %v, %v", devices, err)
	}
	// Fails where the byte order of the GUIDs differs between the two.
	id, err := home.Identify(devices[0])
	if err != nil {
		t.Fatal(err)
	}
	podNS := newNS(t)
	var pod *Handle
	if err := inNS(podNS, func() (err error) {
		pod, err = Open()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer pod.Close()
	moved := contract(t, world{home: home, pod: pod, homeNS: homeNS, podNS: podNS, id: id})
	t.Logf("%+v: moved: %v", devices[0], moved)
	for _, p := range devices[0].Ports {
		gids, err := GIDs(os.DirFS("/sys"), devices[0].Name, p.Number)
		if err != nil {
			t.Error(err)
		}
		t.Logf("port %d: %+v", p.Number, gids)
	}
	if _, err := os.Stat(ConfigFS + "/rdma_cm"); err != nil {
		t.Skip("rdma_cm is not loaded")
	}
	old, err := SetDefaultRoCEToS(ConfigFS, devices[0].Name, 1, 106)
	if err != nil {
		t.Fatal(err)
	}
	if tos, err := DefaultRoCEToS(ConfigFS, devices[0].Name, 1); tos != 106 || err != nil {
		t.Errorf("set to 106, it is %d, %v", tos, err)
	}
	if was, err := SetDefaultRoCEToS(ConfigFS, devices[0].Name, 1, old); was != 106 || err != nil {
		t.Errorf("it was %d, %v", was, err)
	}
}
