// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package qemu runs one virtual machine from boot to end. The processor is emulated (TCG): what is tested is the kernel, and no
// machine that tests run on needs KVM.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/railyard-net/railyard/test/vm/image"
	"github.com/railyard-net/railyard/test/vm/plan"
)

// Machine is a virtual machine to be run once.
type Machine struct {
	Image   image.Image
	Kernel  image.Kernel
	Append  []string      // to the kernel's command line
	Initrd  string        // file, as the kernel wants it
	Console string        // file for what the kernel says; empty: the terminal at hand
	Boot    time.Duration // until the guest's init must have spoken
	Limit   time.Duration // for all
}

// ErrEnded is in the error of a machine that did not end as its init ends it: its kernel panicked, or it was too slow.
var ErrEnded = errors.New("the machine ended early")

// ErrEmulator is in the error of a machine that QEMU itself ended, by a failed assertion for one.
var ErrEmulator = errors.New("QEMU failed")

// Run boots the machine and calls f with each event of the guest, until the machine has ended.
func (m Machine) Run(ctx context.Context, f func(plan.Event) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.AfterFunc(m.Limit, func() { cancel(fmt.Errorf("%w: it was not done within %s", ErrEnded, m.Limit)) })
	defer limit.Stop()
	boot := time.AfterFunc(m.Boot, func() { cancel(fmt.Errorf("%w: its init did not come up within %s", ErrEnded, m.Boot)) })
	defer boot.Stop()

	events, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer events.Close()
	cmd, err := m.command(ctx, w)
	if err != nil {
		return errors.Join(err, w.Close())
	}
	var said strings.Builder
	if m.Console != "" {
		cmd.Stdout, cmd.Stderr = &said, &said
	} else {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	}
	if err := errors.Join(cmd.Start(), w.Close()); err != nil {
		return err
	}
	var over atomic.Pointer[plan.Over]
	err = plan.Read(events, func(e plan.Event) error {
		if e.Up != nil {
			boot.Stop()
		}
		if e.Over != nil {
			over.Store(e.Over)
			return nil
		}
		return f(e)
	})
	if err != nil {
		cancel(err)
	}
	return m.verdict(ctx, cmd.Wait(), over.Load(), said.String())
}

// verdict judges a machine that has ended.
func (m Machine) verdict(ctx context.Context, ended error, over *plan.Over, said string) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var exit *exec.ExitError
	if ended != nil && !errors.As(ended, &exit) {
		return ended
	}
	said = warning.ReplaceAllString(said, "")
	switch {
	case over != nil && over.Problem != "":
		return fmt.Errorf("the guest's init failed: %s", over.Problem)
	case over != nil:
		return nil
	case said != "":
		return fmt.Errorf("%w: %w: it says: %s", ErrEnded, ErrEmulator, strings.TrimSpace(said))
	}
	return fmt.Errorf("%w: its kernel panicked, or its init died", ErrEnded)
}

// warning matches what QEMU says without ending.
var warning = regexp.MustCompile(`(?m)^.*: warning: .*\n`)

// command is QEMU, which writes the events to the given file.
func (m Machine) command(ctx context.Context, events *os.File) (*exec.Cmd, error) {
	root := m.Image.Root()
	console := "file,id=console,path=" + m.Console
	if m.Console == "" {
		console = "stdio,id=console,signal=off"
	}
	args := []string{
		"-L", filepath.Join(root, "usr/share/seabios"), "-L", filepath.Join(root, "usr/share/qemu"),
		// What is off costs an emulated processor more than it gives: five levels of page tables, guards that are switched at each access
		// to a program's memory, copying by single bytes.
		"-accel", "tcg,thread=multi", "-cpu", "max,la57=off,smap=off,smep=off,pku=off,erms=off,fsrm=off",
		"-smp", "2", "-m", "1G",
		"-machine", "q35", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-chardev", console, "-serial", "chardev:console",
		"-chardev", "file,id=events,path=/dev/fd/3", "-serial", "chardev:events",
		"-device", fmt.Sprintf("isa-debug-exit,iobase=%#x,iosize=1", plan.ExitPort),
		"-kernel", m.Image.Vmlinuz(m.Kernel), "-initrd", m.Initrd, "-append", strings.Join(append(m.commandLine(), m.Append...), " "),
	}
	cmd, err := m.Image.Command(ctx, "qemu-system-x86_64", append(args, devices()...)...)
	if err != nil {
		return nil, err
	}
	cmd.Env = append(os.Environ(), "QEMU_MODULE_DIR="+filepath.Join(root, "usr/lib/x86_64-linux-gnu/qemu"))
	cmd.ExtraFiles = []*os.File{events}
	cmd.WaitDelay = 5 * time.Second
	return cmd, nil
}

// commandLine is the kernel's: what panics, ends; what only guards against attackers, rests.
func (m Machine) commandLine() []string {
	return []string{
		"console=ttyS0", "quiet", "loglevel=4", "panic=-1", "oops=panic",
		"tsc=reliable", "no_timer_check", "nokaslr", "mitigations=off", "audit=0", "selinux=0", "apparmor=0",
	}
}

// Tail gives the last lines of a console's file.
func Tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(data), "\r", "")), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Join writes the files one after the other, as the kernel takes the archives of its initramfs.
func Join(to string, from ...string) (err error) {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	for _, name := range from {
		in, err := os.Open(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		if err := errors.Join(err, in.Close()); err != nil {
			return err
		}
	}
	return nil
}
