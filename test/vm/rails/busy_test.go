//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// user is a program that has an RDMA device open, with a queue pair.
type user struct {
	t    testing.TB
	file *os.File
	page []byte // for the kernel's answers
}

// The commands of include/uapi/rdma/ib_user_verbs.h that it takes to have one.
const (
	cmdGetContext = 0
	cmdAllocPD    = 3
	cmdCreateCQ   = 18
	cmdCreateQP   = 24
)

// use opens the device in the namespace, as a library would.
func (s *space) use(device string) *user {
	s.t.Helper()
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	must(s.t, err)
	u := &user{t: s.t, page: page}
	must(s.t, s.do(func() error {
		u.file, err = os.OpenFile(verbsOf(s.t, device), os.O_RDWR, 0)
		return err
	}))
	s.t.Cleanup(func() {
		_ = u.file.Close()
		_ = unix.Munmap(page)
	})
	u.must(cmdGetContext, 2)
	must(s.t, unix.Close(int(u.answer(0)))) // of events
	u.must(cmdAllocPD, 1)
	pd := u.answer(0)
	u.must(cmdCreateCQ, 2, 0, 0, 16, 0, ^uint32(0), 0)
	cq := u.answer(0)
	const datagram = 4 << 8 // its type, beside three bytes that are zero
	u.must(cmdCreateQP, 8, 0, 0, pd, cq, cq, 0, 1, 1, 1, 1, 0, datagram)
	return u
}

// verbsOf is the file by which a device is opened. It is another one after each move.
func verbsOf(t testing.TB, device string) string {
	t.Helper()
	all, err := filepath.Glob("/sys/class/infiniband_verbs/uverbs*/ibdev")
	must(t, err)
	for _, f := range all {
		if text, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(text)) == device {
			return filepath.Join("/dev/infiniband", filepath.Base(filepath.Dir(f)))
		}
	}
	t.Fatalf("no file opens %s; there are %v", device, all)
	return ""
}

// command sends one with words of arguments, for an answer of so many words.
func (u *user) command(number uint32, answer int, args ...uint32) error {
	b := binary.NativeEndian.AppendUint32(nil, number)
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(args)))
	b = binary.NativeEndian.AppendUint16(b, uint16(answer))
	b = binary.NativeEndian.AppendUint64(b, uint64(uintptr(unsafe.Pointer(&u.page[0]))))
	for _, a := range args {
		b = binary.NativeEndian.AppendUint32(b, a)
	}
	_, err := u.file.Write(b)
	return err
}

func (u *user) must(number uint32, answer int, args ...uint32) {
	u.t.Helper()
	if err := u.command(number, answer, args...); err != nil {
		u.t.Fatalf("command %d: %v", number, err)
	}
}

func (u *user) answer(word int) uint32 { return binary.NativeEndian.Uint32(u.page[4*word:]) }

// lost makes sure that the device was taken from the program.
func (u *user) lost(what string) {
	u.t.Helper()
	if err := u.command(cmdAllocPD, 1); !errors.Is(err, unix.EIO) {
		u.t.Errorf("%s: a program that had the device open is told %v, want EIO", what, err)
	}
}

// resources counts what the kernel keeps for a device's users, by kind. The library does not know all kinds of newer kernels.
func (s *space) resources(device string) map[string]int {
	s.t.Helper()
	var said []byte
	must(s.t, s.do(func() (err error) {
		said, err = exec.Command("rdma", "resource", "show", device).Output()
		return err
	}))
	_, list, found := strings.Cut(string(said), device+": ")
	fields := strings.Fields(list)
	if !found || len(fields)%2 != 0 {
		s.t.Fatalf("rdma resource show %s: %s", device, said)
	}
	out := map[string]int{}
	for i := 0; i < len(fields); i += 2 {
		n, err := strconv.Atoi(fields[i+1])
		must(s.t, err)
		out[fields[i]] = n
	}
	return out
}

// Programs have the device open, on the host at ADD and in the pod at DEL. They lose it, the device moves, and nothing of theirs stays.
func TestPluginBusy(t *testing.T) {
	needExclusive(t)
	n, v, _ := rail(t)
	h := newAdapter(t)
	ib, before := h.rdma(t), h.host.state(t)
	for device, conf := range map[string]map[string]any{
		"roce0": {"kind": "sriov", "deviceID": v.pci, "rdma": "required"},
		ib:      {"kind": "host-device", "deviceID": h.pci, "rdma": "required"},
	} {
		idle := n.host.resources(device)
		here := n.host.use(device)
		if got := n.host.resources(device); got["qp"] != idle["qp"]+1 {
			t.Fatalf("%s: %v with a queue pair, %v without", device, got, idle)
		}
		a := attach(t, n.host, newSpace(t), "net1", conf)
		a.mustRun("ADD")
		here.lost(device + ", at ADD")
		a.mustRun("CHECK")
		there := a.pod.use(device)
		a.mustRun("CHECK")
		a.mustRun("DEL")
		there.lost(device + ", at DEL")
		a.mustRun("DEL")
		if diff := cmp.Diff(idle, n.host.resources(device)); diff != "" {
			t.Errorf("%s: left behind (-before +after):\n%s", device, diff)
		}
	}
	n.host.same(t, before, "both are back")
}
