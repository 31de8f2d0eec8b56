//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/rdma"
)

// mountConfigFS mounts what comes with the module of RDMA, after the machine has booted.
func mountConfigFS(t testing.TB) {
	t.Helper()
	if err := unix.Mount("none", rdma.ConfigFS, "configfs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		t.Fatal(err)
	}
}

// tos is the type of service of the device's one port.
func tos(t testing.TB, device string) int {
	t.Helper()
	got, err := rdma.DefaultRoCEToS(rdma.ConfigFS, device, 1)
	must(t, err)
	return int(got)
}

func wantToS(t testing.TB, device string, want int, when string) {
	t.Helper()
	if got := tos(t, device); got != want {
		t.Fatalf("%s: the type of service is %d, want %d", when, got, want)
	}
}

// sharers are attachments of different pods on the rail r0, whose device rxe0 has the type of service 40.
func sharers(t *testing.T, count int) []*attachment {
	t.Helper()
	host, fabric := machine(t), newSpace(t)
	host.cable("r0", fabric, "port0")
	host.rxe("rxe0", "r0")
	mountConfigFS(t)
	_, err := rdma.SetDefaultRoCEToS(rdma.ConfigFS, "rxe0", 1, 40)
	must(t, err)
	dir := t.TempDir()
	var out []*attachment
	for i := range count {
		a := attach(t, host, newSpace(t), "net1", map[string]any{"master": "r0", "roceToS": 106, "stateDir": dir})
		a.id = fmt.Sprintf("c%d", i)
		t.Cleanup(func() { a.mustRun("DEL") })
		out = append(out, a)
	}
	return out
}

// Pods that share a device share its type of service. Who goes last restores it, and a dead pod's value comes back with nobody.
func TestPluginToSShared(t *testing.T) {
	needShared(t)
	for _, order := range [][]int{{0, 1}, {1, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			all := sharers(t, 3)
			all[0].mustRun("ADD")
			wantToS(t, "rxe0", 106, "ADD")
			all[1].mustRun("ADD")
			all[2].conf["roceToS"] = 26
			all[2].fails("ADD", codeRDMA, "has set 106 on rxe0")
			wantToS(t, "rxe0", 106, "another value was refused")
			all[order[0]].mustRun("DEL")
			all[order[0]].mustRun("DEL")
			wantToS(t, "rxe0", 106, "one of two is gone")
			all[order[1]].mustRun("CHECK")
			_, err := rdma.SetDefaultRoCEToS(rdma.ConfigFS, "rxe0", 1, 7)
			must(t, err)
			all[order[1]].fails("CHECK", 109, "is 7, it was set to 106")
			all[order[1]].mustRun("DEL")
			wantToS(t, "rxe0", 40, "both are gone")
		})
	}
	t.Run("dead", func(t *testing.T) {
		all := sharers(t, 2)
		all[0].mustRun("ADD")
		all[0].pod.kill()
		all[1].conf["roceToS"] = 26
		all[1].mustRun("ADD")
		all[0].mustRun("DEL")
		wantToS(t, "rxe0", 26, "the dead one is undone")
		all[1].mustRun("DEL")
		wantToS(t, "rxe0", 40, "both are gone")
	})
}

// SIGKILL at every step.
func TestPluginToSKilled(t *testing.T) {
	needShared(t)
	a := sharers(t, 1)[0]
	for _, point := range []string{"add:journaled", "add:linked", "add:tos", "add:done"} {
		a.dies("ADD", point)
		a.mustRun("DEL")
		wantToS(t, "rxe0", 40, "ADD died at "+point)
	}
	for _, point := range []string{"undo:1", "undo:tos", "undo:0", "undo:done"} {
		delete(a.conf, "prevResult")
		a.mustRun("ADD")
		a.dies("DEL", point)
		a.mustRun("DEL")
		wantToS(t, "rxe0", 40, "DEL died at "+point)
	}
}

// Without configfs the setting cannot be had, and the error says what to do; a network that does not ask for it does not mind.
func TestPluginToSWithoutConfigFS(t *testing.T) {
	needShared(t)
	a := sharers(t, 1)[0]
	must(t, unix.Unmount(rdma.ConfigFS, 0))
	t.Cleanup(func() { mountConfigFS(t) })
	a.fails("ADD", codeRDMA, "mount -t configfs")
	a.fails("STATUS", 50, "mount -t configfs")
	if a.pod.has("net1") {
		t.Error("the refused ADD left a link")
	}
	delete(a.conf, "roceToS")
	a.mustRun("STATUS")
	a.mustRun("ADD")
	a.mustRun("DEL")
}

// A device that moves forgets its type of service on each way: it has the config's in the pod, and its own when it is back.
func TestPluginToSExclusive(t *testing.T) {
	needExclusive(t)
	needMovableRXE(t)
	host := machine(t)
	_, all := chain(t, host, "rxe")
	a := all[0]
	mountConfigFS(t)
	_, err := rdma.SetDefaultRoCEToS(rdma.ConfigFS, "rxe0", 1, 40)
	must(t, err)
	a.conf["roceToS"] = 106
	prev := a.conf["prevResult"]
	a.mustRun("ADD")
	wantToS(t, "rxe0", 106, "ADD")
	a.mustRun("CHECK")
	a.mustRun("DEL")
	wantToS(t, "rxe0", 40, "DEL")
	for _, point := range []string{"add:moved", "add:rdma", "add:tos", "add:done"} {
		a.conf["prevResult"] = prev
		a.dies("ADD", point)
		a.mustRun("DEL")
		if !host.hasRDMA("rxe0") {
			t.Fatalf("ADD died at %s: the device is not back", point)
		}
		wantToS(t, "rxe0", 40, "ADD died at "+point)
	}
	a.conf["prevResult"] = prev
	a.mustRun("ADD")
	a.dies("DEL", "undo:rdma")
	a.mustRun("DEL")
	wantToS(t, "rxe0", 40, "DEL died at undo:rdma")
}
