// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/railyard-net/railyard/test/vm/plan"
)

// test runs one test binary. What becomes of it is the host's to judge; an error says that the host can no longer be told.
func (h host) test(t plan.Test, env []string) error {
	if err := h.tell(plan.Event{Begin: t.Package}); err != nil {
		return err
	}
	begin := time.Now()
	cmd := exec.Command(t.Binary, t.Args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = t.Dir, env, h, h
	cmd.WaitDelay = 5 * time.Second // for what a test left running and that holds the pipe
	err := cmd.Run()
	e := &plan.End{Seconds: time.Since(begin).Seconds()}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		if e.Code = exit.ExitCode(); e.Code < 0 {
			e.Problem = exit.String()
		}
	case err != nil:
		e.Code, e.Problem = -1, err.Error()
	}
	return h.tell(plan.Event{End: e})
}

// shell is one for a person, on the console, until they leave it.
func shell(env []string) error {
	console, err := os.OpenFile("/dev/ttyS0", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer console.Close()
	cmd := exec.Command("/bin/sh", "-i")
	cmd.Env = append(env, "TERM=vt100", "PS1=vm# ")
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = plan.Dir, console, console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		return err
	}
	return nil
}
