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
	f, err := os.Open(want.Path)
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

// do calls f on a thread that is in the namespace. A thread that cannot return to its own ends with the call.
func (p *pod) do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err, back := p.enter(f)
		if back {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// enter calls f in the namespace, and says whether the thread is back in its own.
func (p *pod) enter(f func() error) (err error, back bool) {
	host, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err, true
	}
	defer host.Close()
	if err := unix.Setns(int(p.ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the namespace %s: %w", p.path, err), true
	}
	err = f()
	return err, unix.Setns(int(host.Fd()), unix.CLONE_NEWNET) == nil
}

// procSys is where settings are; what is under net belongs to the namespace of the thread that looks.
const procSys = "/proc/sys"

func readSysctl(path string) (string, error) {
	b, err := os.ReadFile(filepath.Join(procSys, path))
	return strings.TrimRight(string(b), "\n"), err
}

func writeSysctl(path, value string) error {
	f, err := os.OpenFile(filepath.Join(procSys, path), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func linkGone(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}
