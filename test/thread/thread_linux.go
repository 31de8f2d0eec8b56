// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package thread runs functions of tests and their tools on threads that are not used again, so that they may change what
// belongs to a thread: its namespaces above all.
//
// A process's first thread can't be used for that: it never ends, and /proc shows its namespaces as those of the process, to
// whoever looks for the processes in a namespace.
package thread

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs f on a thread that ends with it.
func Do(f func() error) error {
	errc := make(chan error, 1)
	go ThrowAway(func() {
		err := errors.New("the function did not return (t.Fatal in it?)")
		defer func() { errc <- err }()
		err = f()
	})
	return <-errc
}

// In runs f on a thread in the network namespace. What f starts in other goroutines is outside; programs that it starts are
// inside.
func In(netns *os.File, f func() error) error {
	return Do(func() error {
		if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace: %w", err)
		}
		return f()
	})
}

// NewNetNS makes a network namespace, which lives as long as the file is open, and calls setup in it.
func NewNetNS(setup func() error) (netns *os.File, err error) {
	err = Do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace (are you root?): %w", err)
		}
		if netns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		return setup()
	})
	if err != nil && netns != nil {
		_ = netns.Close()
		netns = nil
	}
	return netns, err
}

// ThrowAway runs f, and with it the calling goroutine's last words, on a thread that is not used again. It must be the
// goroutine's only call.
func ThrowAway(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f() // no unlock: the thread ends with the goroutine
		return
	}
	defer runtime.UnlockOSThread()
	done := make(chan struct{})
	go func() {
		defer close(done)
		ThrowAway(f) // on another thread, as this one is taken
	}()
	<-done
}
