// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// family is the children of process 1: those that it started, and those that lost their parent. As one wait serves them all, none
// may be started or waited for in another way.
type family struct {
	mu  sync.Mutex
	own map[int]*child
}

// child is one that we started. Its status comes on done once.
type child struct {
	pid  int
	done chan syscall.WaitStatus
}

func newFamily() *family { return &family{own: map[int]*child{}} }

// start starts a program.
func (f *family) start(argv, env []string, output *os.File) (*child, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	// Locked until the child is known: reap must not meet it before that.
	f.mu.Lock()
	defer f.mu.Unlock()
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Dir: "/", Env: env, Files: []uintptr{null.Fd(), output.Fd(), output.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, err
	}
	c := &child{pid: pid, done: make(chan syscall.WaitStatus, 1)}
	f.own[pid] = c
	return c, nil
}

// reap takes the dead away until ctx ends.
func (f *family) reap(ctx context.Context) {
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	defer signal.Stop(died)
	for {
		f.reapAll()
		select {
		case <-ctx.Done():
			return
		case <-died:
		}
	}
}

func (f *family) reapAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return // nobody there, or nobody dead
		}
		if c := f.own[pid]; c != nil {
			delete(f.own, pid)
			c.done <- status
		}
	}
}

// service is a program that is kept running, unless it is not wanted.
type service struct {
	argv []string

	mu     sync.Mutex
	change *sync.Cond
	wanted bool
	pid    int // 0: it does not run
}

func newService(argv ...string) *service {
	s := &service{argv: argv, wanted: true}
	s.change = sync.NewCond(&s.mu)
	return s
}

func (s *service) want(wanted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = wanted
	s.change.Broadcast()
}

func (s *service) awaitWanted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.wanted {
		s.change.Wait()
	}
}

// started notes the process. One that is no longer wanted is killed.
func (s *service) started(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid = pid
	if !s.wanted {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it is our child and not waited for yet
	}
}

func (s *service) ended() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid = 0
}

// signal signals the program if it runs.
func (s *service) signal(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pid == 0 {
		return nil
	}
	return syscall.Kill(s.pid, sig)
}
