// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// openHandle is the one place where netlink sockets are opened: in the namespace of the calling thread, repeating
// dumps that a change interrupted, and without the lists of virtual functions.
func openHandle() (*netlink.Handle, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	return h.RetryInterrupted().DisableVFInfoCollection(), nil
}

// pod is a pod's network namespace, open.
type pod struct {
	path string
	ns   *os.File
	// link is a handle inside of the namespace.
	link *netlink.Handle
}

// openPod opens the namespace want. If another one is behind its path by now, the error is fs.ErrNotExist.
func openPod(want ipam.NetNS) (*pod, error) {
	f, err := os.OpenFile(want.Path, unix.O_NONBLOCK, 0) // a pipe that is there by now must not stop a DEL
	if err != nil {
		return nil, err
	}
	p := &pod{path: want.Path, ns: f}
	var s unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &s); err != nil {
		return nil, errors.Join(fmt.Errorf("stat %s: %w", want.Path, err), f.Close())
	}
	if s.Dev != want.Dev || s.Ino != want.Ino {
		return nil, errors.Join(fmt.Errorf("%w: the namespace at %s is another one by now", fs.ErrNotExist, want.Path), f.Close())
	}
	err = p.do(func() error {
		p.link, err = openHandle()
		return err
	})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return p, nil
}

func (p *pod) close() {
	if p.link != nil {
		_ = p.link.Close()
	}
	_ = p.ns.Close()
}

// do calls f in the namespace, on the caller's thread: a goroutine of its own would cost two switches of threads.
func (p *pod) do(f func() error) (err error) {
	runtime.LockOSThread()
	host, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return dispatch.Errorf(dispatch.CodeNetNS, "open the thread's own namespace: %w", err)
	}
	defer func() {
		// A thread that is still in the pod stays locked, so that nothing else ever runs on it.
		back := unix.Setns(host, unix.CLONE_NEWNET)
		_ = unix.Close(host)
		if back != nil {
			err = errors.Join(err, dispatch.Errorf(dispatch.CodeNetNS, "leave the namespace %s: %w", p.path, back))
			return
		}
		runtime.UnlockOSThread()
	}()
	if err := unix.Setns(int(p.ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return dispatch.Errorf(dispatch.CodeNetNS, "enter the namespace %s: %w", p.path, err)
	}
	return f()
}

// procSys is where settings are; what is under net belongs to the namespace of the thread that looks.
const procSys = "/proc/sys"

func readSysctl(path string) (string, error) {
	b, err := os.ReadFile(filepath.Join(procSys, path))
	return strings.TrimRight(string(b), "\n"), err
}

func writeSysctl(path, value string) error {
	// Not an os.File: that would ask the poller about each of them first.
	fd, err := unix.Open(filepath.Join(procSys, path), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte(value+"\n")) // with its end, or an empty value would be no write at all
	return errors.Join(err, unix.Close(fd))
}

func linkGone(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}
