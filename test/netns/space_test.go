// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/test/thread"
)

// What runs in this process enters namespaces too, the reconciler for one: not on the main thread, which others see as the
// process.
func init() { runtime.LockOSThread() }

// space is a network namespace that lives until the test ends, or until kill.
type space struct {
	t    testing.TB
	ns   *os.File
	path string
	link *netlink.Handle
}

func newSpace(t testing.TB) *space {
	t.Helper()
	s := &space{t: t}
	var err error
	s.ns, err = thread.NewNetNS(func() (err error) {
		s.link, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	must(t, err)
	s.path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.ns.Fd())
	t.Cleanup(s.kill)
	return s
}

// kill ends the namespace, and with it its path.
func (s *space) kill() {
	if s.ns != nil {
		_ = s.link.Close()
		_ = s.ns.Close()
		s.ns = nil
	}
}

// do calls f on a thread inside of the namespace.
func (s *space) do(f func() error) error { return thread.In(s.ns, f) }

func (s *space) sysctl(path string) string {
	s.t.Helper()
	var b []byte
	must(s.t, s.do(func() (err error) {
		b, err = os.ReadFile("/proc/sys/" + path)
		return err
	}))
	return strings.TrimSpace(string(b))
}

func (s *space) setSysctl(path, value string) {
	s.t.Helper()
	must(s.t, s.do(func() error { return os.WriteFile("/proc/sys/"+path, []byte(value), 0) }))
}

func (s *space) get(name string) netlink.Link {
	s.t.Helper()
	l, err := s.link.LinkByName(name)
	must(s.t, err)
	return l
}

func (s *space) has(name string) bool {
	_, err := s.link.LinkByName(name)
	return err == nil
}

// capture gives what a port of the fabric receives: call the returned function to stop and get the frames.
func (l *lab) capture(name string) (frames func() [][]byte) {
	l.t.Helper()
	var fd int
	must(l.t, l.fabric.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ALL)))
		return err
	}))
	port := l.fabric.get(name).Attrs().Index
	must(l.t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: port}))
	return func() [][]byte {
		defer unix.Close(fd)
		var out [][]byte
		for {
			b := make([]byte, 2048)
			n, from, err := unix.Recvfrom(fd, b, 0)
			if err != nil {
				return out
			}
			if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING {
				out = append(out, b[:n])
			}
		}
	}
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
