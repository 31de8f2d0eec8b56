// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/test/thread"
)

// Process is a program that runs until it is stopped, and that the kernel kills when we die.
type Process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of cmd.Wait; read after done
}

// StartProcess starts cmd in the background. Its output goes to the end of the file log, unless cmd has its own.
//
// The death signal of a child belongs to the thread that started it, not to the process, and Go ends threads; so one thread is
// kept for the child's whole life. The child has a process group of its own: Ctrl-C in a terminal is for us to handle.
func StartProcess(cmd *exec.Cmd, log string) (*Process, error) { return startIn(nil, cmd, log) }

// startIn is StartProcess inside of the namespaces of in, if there are any.
func startIn(in *space, cmd *exec.Cmd, log string) (*Process, error) {
	p := &Process{name: filepath.Base(cmd.Path), log: log, cmd: cmd, done: make(chan struct{})}
	if cmd.Stdout == nil && cmd.Stderr == nil {
		f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", p.name, err)
		}
		defer f.Close()
		cmd.Stdout, cmd.Stderr = f, f
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr.Setpgid = true

	started := make(chan error, 1)
	live := func() {
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		p.err = cmd.Wait()
		close(p.done)
	}
	if in == nil {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			live()
		}()
	} else {
		go thread.ThrowAway(func() {
			if err := in.enter(); err != nil {
				started <- err
				return
			}
			live()
		})
	}
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	return p, nil
}

// Pid is the process id, as the host sees it.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Log is the file with the process's output.
func (p *Process) Log() string { return p.log }

// Done is closed when the process has ended; then Err says how.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says how the process ended, with the end of its log; nil while it runs.
func (p *Process) Err() error {
	select {
	case <-p.done:
	default:
		return nil
	}
	how := "exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	return fmt.Errorf("%s ended (%s); %s", p.name, how, describeLog(p.log))
}

// Signal sends sig; nothing happens when the process has ended.
func (p *Process) Signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// Kill ends the process at once and returns when it is gone. It may be called again.
func (p *Process) Kill() {
	_ = p.Signal(syscall.SIGKILL)
	<-p.done
}

// Stop asks the process to end, and kills it after grace or when ctx ends. It returns nil if the process ended by itself with
// status 0 or by the signal, and when it returns the process is gone.
func (p *Process) Stop(ctx context.Context, grace time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		var exit *exec.ExitError
		if errors.As(p.err, &exit) {
			if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGTERM {
				return nil
			}
		}
		if p.err != nil {
			return p.Err()
		}
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	p.Kill()
	return fmt.Errorf("%s did not end within %v of SIGTERM; %s", p.name, grace, describeLog(p.log))
}

// describeLog names a log and quotes its end.
func describeLog(path string) string {
	tail, err := logTail(path, 2000)
	if err != nil {
		return fmt.Sprintf("its log cannot be read: %v", err)
	}
	if len(bytes.TrimSpace(tail)) == 0 {
		return fmt.Sprintf("its log %s is empty", path)
	}
	return fmt.Sprintf("the end of its log %s:\n%s", path, tail)
}

// logTail returns up to limit bytes from the end of a file, from the start of a line.
func logTail(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	start := max(0, size-limit)
	b := make([]byte, size-start)
	n, err := f.ReadAt(b, start)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	b = b[:n]
	if i := bytes.IndexByte(b, '\n'); start > 0 && i >= 0 {
		b = b[i+1:]
	}
	return b, nil
}

// lockFile takes an exclusive lock on path without waiting; the lock ends with the returned file, so with this process at the latest.
func lockFile(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}
