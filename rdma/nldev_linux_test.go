// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// TestNoRDMA is for machines like the one that most of this was written on.
func TestNoRDMA(t *testing.T) {
	h, err := Open()
	if err == nil {
		h.Close()
		t.Skip("this kernel has RDMA")
	}
	if !errors.Is(err, ErrNoRDMA) || !errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Errorf("got %v, want ErrNoRDMA", err)
	}
	if _, err := os.Stat("/sys/class/infiniband"); err == nil {
		return
	}
	if devices, err := Discover(os.DirFS("/sys")); len(devices) > 0 || err != nil {
		t.Errorf("got %v, %v, want no devices", devices, err)
	}
	if _, err := DefaultRoCEToS(ConfigFS, "mlx5_0", 1); !errors.Is(err, ErrUnsupported) {
		t.Errorf("got %v, want ErrUnsupported", err)
	}
}

func message(attrs ...*nl.RtAttr) []byte {
	var b []byte
	for _, a := range attrs {
		b = append(b, a.Serialize()...)
	}
	return b
}

func u64(n uint64) []byte { return binary.NativeEndian.AppendUint64(nil, n) }

func TestParseRef(t *testing.T) {
	index := nl.NewRtAttr(nl.RDMA_NLDEV_ATTR_DEV_INDEX, nl.Uint32Attr(4))
	name := nl.NewRtAttr(nl.RDMA_NLDEV_ATTR_DEV_NAME, nl.ZeroTerminated("mlx5_10"))
	guid := nl.NewRtAttr(nl.RDMA_NLDEV_ATTR_NODE_GUID, u64(0x506b4b0300a1b2c3))
	firmware := nl.NewRtAttr(nl.RDMA_NLDEV_ATTR_FW_VERSION, nl.ZeroTerminated("22.31.1014"))
	short := nl.NewRtAttr(nl.RDMA_NLDEV_ATTR_NODE_GUID, []byte{1, 2, 3, 4})
	want := Ref{ID{4, 0x506b4b0300a1b2c3}, "mlx5_10"}
	if got, err := parseRef(message(index, name, firmware, guid)); got != want || err != nil {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for what, msg := range map[string][]byte{
		"no index": message(name, guid), "no name": message(index, guid), "no GUID": message(index, name),
		"short GUID": message(index, name, short), "nothing": nil, "cut": message(index, name, guid)[:30],
	} {
		if got, err := parseRef(msg); err == nil {
			t.Errorf("%s: no error, but %+v", what, got)
		}
	}
}

func TestParseMode(t *testing.T) {
	mode := func(v ...byte) []byte { return message(nl.NewRtAttr(nl.RDMA_NLDEV_SYS_ATTR_NETNS_MODE, v)) }
	for msg, want := range map[string]Mode{string(mode(0)): Exclusive, string(mode(1)): Shared, "": 0, string(mode()): 0} {
		if got, err := parseMode([]byte(msg)); got != want || err != nil {
			t.Errorf("%q: got %v, %v, want %v", msg, got, err, want)
		}
	}
	if got, err := parseMode(mode(2)); err == nil {
		t.Errorf("no error for an unknown mode, but %v", got)
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add(message(nl.NewRtAttr(nl.RDMA_NLDEV_ATTR_DEV_NAME, nl.ZeroTerminated("mlx5_0"))))
	f.Add(message(nl.NewRtAttr(nl.RDMA_NLDEV_SYS_ATTR_NETNS_MODE, []byte{1})))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if r, err := parseRef(msg); err == nil && r.Name == "" {
			t.Errorf("%x is a device without a name", msg)
		}
		_, _ = parseMode(msg) // must not panic
	})
}

// newNS makes a network namespace.
func newNS(t *testing.T) int {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	made := make(chan int)
	fail := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			fail <- err
			return
		}
		fd, err := threadNS()
		if err != nil {
			fail <- err
			return
		}
		made <- fd
	}()
	select {
	case fd := <-made:
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	case err := <-fail:
		t.Fatal(err)
		return -1
	}
}

// TestInNS sees where the work is done, and that nobody is left there.
func TestInNS(t *testing.T) {
	ns := newNS(t)
	home, err := threadNS()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(home)
	broken := errors.New("broken")
	for range 50 {
		err := inNS(ns, func() error {
			here, err := threadNS()
			if err != nil {
				return err
			}
			defer unix.Close(here)
			if same, err := sameFile(here, ns); err != nil || !same {
				t.Errorf("the thread is elsewhere (%v)", err)
			}
			return broken
		})
		if !errors.Is(err, broken) {
			t.Fatalf("got %v", err)
		}
		here, err := threadNS()
		if err != nil {
			t.Fatal(err)
		}
		if same, err := sameFile(here, home); err != nil || !same {
			t.Fatalf("a thread was left in the namespace (%v)", err)
		}
		unix.Close(here)
	}
	if err := inNS(-1, func() error { t.Error("called"); return nil }); !errors.Is(err, unix.EBADF) {
		t.Errorf("got %v for a namespace that is none", err)
	}
}

// TestSetNetNS is what can be known without a device: the target is looked at before the kernel is asked.
func TestSetNetNS(t *testing.T) {
	ns := newNS(t)
	file, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	s := &socket{ns: ns}
	if err := s.setNetNS(0, int(file.Fd())); err == nil {
		t.Error("no error for a target that is a directory")
	}
	if err := s.setNetNS(0, -1); err == nil {
		t.Error("no error for a target that is not open")
	}
	if err := s.setNetNS(0, ns); err != nil {
		t.Errorf("move to where it is: %v", err)
	}
}
