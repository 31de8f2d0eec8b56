//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestRDMAMode(t *testing.T) {
	for name, s := range map[string]*space{"machine": machine(t), "pod": newSpace(t)} {
		t.Run(name, func(t *testing.T) {
			mode, err := s.link.RdmaSystemGetNetnsMode()
			must(t, err)
			if want := vm("_RDMA"); mode != want {
				t.Errorf("the mode is %q, want %q", mode, want)
			}
		})
	}
}

// The mode can be set only while there is no namespace but the first, and never on a node that runs pods.
func TestRDMAModeIsSetBeforePods(t *testing.T) {
	host := machine(t)
	newSpace(t)
	other := "exclusive"
	if exclusive() {
		other = "shared"
	}
	if err := host.link.RdmaSystemSetNetnsMode(other); !errors.Is(err, unix.EBUSY) {
		t.Errorf("set %s beside another namespace: %v, want EBUSY", other, err)
	}
}

func TestRXEParents(t *testing.T) {
	for kind, add := range parents() {
		t.Run(kind, func(t *testing.T) {
			host := machine(t)
			add(host, "r0")
			host.rxe("rxe0", "r0")
			host.address("r0", "10.9.0.1/24")
			host.address("r0", "fd00:9::1/64")
			if !host.hasRDMA("rxe0") {
				t.Error("netlink does not list it")
			}
			parent, err := os.ReadFile(filepath.Join(class, "rxe0/parent"))
			must(t, err)
			if got := strings.TrimSpace(string(parent)); got != "r0" {
				t.Errorf("its parent is %q", got)
			}
			for _, a := range []string{"10.9.0.1", "fd00:9::1"} {
				if g := waitGID(t, "rxe0", a); g.link != "r0" {
					t.Errorf("the GID %s is of %q, want r0", a, g.link)
				}
			}
		})
	}
}

// Only a device of hardware's kind may carry an rxe.
func TestRXEOnVLAN(t *testing.T) {
	host := machine(t)
	a := attrs("v0")
	a.ParentIndex = host.add(&netlink.Dummy{LinkAttrs: attrs("r0")}).Attrs().Index
	host.add(&netlink.Vlan{LinkAttrs: a, VlanId: 100})
	if err := host.link.RdmaLinkAdd("rxe0", "rxe", "v0"); !errors.Is(err, unix.EPERM) {
		t.Errorf("an rxe on a vlan: %v, want EPERM", err)
	}
}

// In shared mode every namespace sees every device, in exclusive mode only its own.
func TestRDMAVisibility(t *testing.T) {
	host, pod := machine(t), newSpace(t)
	host.add(&netlink.Dummy{LinkAttrs: attrs("r0")})
	host.rxe("rxe0", "r0")
	if got, want := pod.hasRDMA("rxe0"), !exclusive(); got != want {
		t.Errorf("a pod sees the host's device: %t, want %t", got, want)
	}
}

// Whoever makes an rxe in a pod gets it in the machine's namespace.
func TestRXEOfPodIsInMachine(t *testing.T) {
	host, pod := machine(t), newSpace(t)
	pod.add(&netlink.Dummy{LinkAttrs: attrs("net1")})
	pod.rxe("rxe0", "net1")
	if !host.hasRDMA("rxe0") {
		t.Error("the machine does not have it")
	}
	if exclusive() && pod.hasRDMA("rxe0") {
		t.Error("the pod has it")
	}
}

func TestRXEEndsWhenItsLinkMoves(t *testing.T) {
	host, pod := machine(t), newSpace(t)
	l := host.add(&netlink.Dummy{LinkAttrs: attrs("r0")})
	host.rxe("rxe0", "r0")
	must(t, host.link.LinkSetNsFd(l, int(pod.ns.Fd())))
	eventually(t, func() error {
		if host.hasRDMA("rxe0") || pod.hasRDMA("rxe0") {
			return errors.New("it is still there")
		}
		return nil
	})
	if !pod.has("r0") {
		t.Error("its link has not arrived")
	}
}

// refusal is why an rxe can't be moved in this machine, nil if it can.
func refusal() error {
	if !exclusive() || vm("_KERNEL") == "6.12" {
		return unix.EOPNOTSUPP
	}
	return nil
}

func TestRXEMove(t *testing.T) {
	host, pod := machine(t), newSpace(t)
	host.add(&netlink.Dummy{LinkAttrs: attrs("r0")})
	host.rxe("rxe0", "r0")
	if err := host.moveRDMA("rxe0", pod); !errors.Is(err, refusal()) {
		t.Fatalf("move it: %v, want %v", err, refusal())
	}
	if refusal() != nil {
		if !host.hasRDMA("rxe0") {
			t.Error("a refused move took it away")
		}
		return
	}
	if host.hasRDMA("rxe0") || !pod.hasRDMA("rxe0") {
		t.Fatalf("machine has it: %t, pod has it: %t", host.hasRDMA("rxe0"), pod.hasRDMA("rxe0"))
	}
	if _, err := os.Stat(filepath.Join(class, "rxe0")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the machine's /sys still has it: %v", err)
	}
	must(t, pod.moveRDMA("rxe0", host))
	if !host.hasRDMA("rxe0") || pod.hasRDMA("rxe0") {
		t.Errorf("after the way back: machine has it: %t, pod has it: %t", host.hasRDMA("rxe0"), pod.hasRDMA("rxe0"))
	}
}

// The socket's namespace does not count, the thread's does.
func TestRXEMoveFromOutside(t *testing.T) {
	needExclusive(t)
	needMovableRXE(t)
	host, pod := machine(t), newSpace(t)
	host.add(&netlink.Dummy{LinkAttrs: attrs("r0")})
	host.rxe("rxe0", "r0")
	must(t, host.moveRDMA("rxe0", pod))
	if err := pod.moveRDMAFromOutside("rxe0", host); !errors.Is(err, unix.ENODEV) {
		t.Errorf("a thread elsewhere moves it: %v, want ENODEV", err)
	}
}

func TestRXEReturnsFromDeadPod(t *testing.T) {
	needExclusive(t)
	needMovableRXE(t)
	host, pod := machine(t), newSpace(t)
	host.add(&netlink.Dummy{LinkAttrs: attrs("r0")})
	host.rxe("rxe0", "r0")
	must(t, host.moveRDMA("rxe0", pod))
	pod.kill()
	eventually(t, func() error {
		if !host.hasRDMA("rxe0") {
			return errors.New("it has not come back")
		}
		return nil
	})
}

// A link that ends takes its rxe along, wherever that is.
func TestMovedRXEEndsWithItsLink(t *testing.T) {
	needExclusive(t)
	needMovableRXE(t)
	host, pod := machine(t), newSpace(t)
	l := host.add(&netlink.Dummy{LinkAttrs: attrs("r0")})
	host.rxe("rxe0", "r0")
	must(t, host.moveRDMA("rxe0", pod))
	must(t, host.link.LinkDel(l))
	eventually(t, func() error {
		if pod.hasRDMA("rxe0") {
			return errors.New("the pod still has it")
		}
		return nil
	})
}

// In shared mode the addresses of macvlans in pods are in the table of the device on their parent, with the name the link has in its pod,
// and leave it with the pod.
func TestMacvlanGIDs(t *testing.T) {
	needShared(t)
	host, pod := machine(t), newSpace(t)
	host.add(&netlink.Dummy{LinkAttrs: attrs("r0")})
	host.address("r0", "10.9.0.1/24")
	host.rxe("rxe0", "r0")
	host.macvlan("r0", "net1", pod)
	pod.address("net1", "10.9.0.11/24")
	pod.address("net1", "fd00:9::11/64")
	for _, a := range []string{"10.9.0.11", "fd00:9::11"} {
		if g := waitGID(t, "rxe0", a); g.link != "net1" {
			t.Errorf("the GID %s is of %q, want net1", a, g.link)
		}
	}
	pod.kill()
	eventually(t, func() error {
		all, err := gids("rxe0")
		for _, g := range all {
			if g.link == "net1" {
				err = errors.Join(err, fmt.Errorf("%v is still there", g))
			}
		}
		return err
	})
}
