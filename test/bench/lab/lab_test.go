// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/test/bench/bare"
	"github.com/railyard-net/railyard/test/bench/lab"
)

// inside marks the process of the test that lives in namespaces of its own.
const inside = "RAILYARD_TEST_INSIDE"

// TestLab makes a lab and does the floor's job in it, which the lab's checks must see.
func TestLab(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("makes network namespaces: run it as root")
	}
	if os.Getenv(inside) == "" {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestLab$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	l, err := lab.New(2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lab.New(1); err == nil {
		t.Error("a second lab in the same namespaces was made")
	}
	if err := l.SetDAD(false); err != nil {
		t.Fatal(err)
	}
	pod := l.Pods[0]
	link := bare.Link{NetNS: pod.Path, IfName: "net1", Master: lab.Master, Addresses: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.2/24"), netip.MustParsePrefix("fd00::2/64"),
	}}
	if err := pod.Check("net1", true, true); err == nil {
		t.Error("Check passes before the link is there")
	}
	if err := link.Add(); err != nil {
		t.Fatal(err)
	}
	if err := pod.Check("net1", true, true); err != nil {
		t.Error(err)
	}
	for _, want := range [][2]bool{{true, false}, {false, true}} {
		if err := pod.Check("net1", want[0], want[1]); err == nil {
			t.Errorf("Check(v4 %v, v6 %v) passes with both", want[0], want[1])
		}
	}
	if err := pod.Empty(); err == nil {
		t.Error("Empty passes with the link there")
	}
	if err := l.Pods[1].Empty(); err != nil {
		t.Error(err)
	}
	if err := link.Del(); err != nil {
		t.Fatal(err)
	}
	if err := pod.Empty(); err != nil {
		t.Error(err)
	}
}

// TestNewRefusesTheHost protects whoever calls it in the wrong place.
func TestNewRefusesTheHost(t *testing.T) {
	if os.Getenv(inside) != "" {
		t.Skip("in namespaces of its own")
	}
	if _, err := lab.New(1); err == nil {
		t.Fatal("a lab was made in the host's namespaces")
	}
}
