// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/test/vm/plan"
)

// setUp makes of the bare initramfs a system in which programs feel at home.
func setUp() error {
	for _, m := range []struct {
		kind, at string
		optional bool
	}{
		{kind: "proc", at: "/proc"},
		{kind: "sysfs", at: "/sys"},
		{kind: "devtmpfs", at: "/dev"},
		{kind: "devpts", at: "/dev/pts"},
		{kind: "tmpfs", at: "/dev/shm"},
		{kind: "tmpfs", at: "/run"},
		{kind: "tmpfs", at: "/tmp"},
		{kind: "cgroup2", at: "/sys/fs/cgroup", optional: true},
		{kind: "debugfs", at: "/sys/kernel/debug", optional: true},
		{kind: "configfs", at: "/sys/kernel/config", optional: true},
	} {
		_ = os.MkdirAll(m.at, 0o755) // sysfs has its mount points
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil && !m.optional {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	// RDMA pins the memory it uses.
	all := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &all); err != nil {
		return fmt.Errorf("lift the limit of locked memory: %w", err)
	}
	return errors.Join(unix.Sethostname([]byte("vm")), os.MkdirAll("/run/netns", 0o755), loopbackUp())
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("set the loopback up: %w", err)
	}
	return nil
}

// load loads the modules that this kernel has; some are built into one kernel and gone from another.
func load(modules, env []string) error {
	cmd := exec.Command("/sbin/modprobe", append([]string{"-a", "-q"}, modules...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, os.Stderr, os.Stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) { // 1: one is missing
		return fmt.Errorf("load modules: %w", err)
	}
	return settle()
}

// settle waits until the PCI devices have the drivers that are loaded: probing goes on after modprobe has ended.
func settle() error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		devices, err := filepath.Glob("/sys/bus/pci/devices/*/class")
		if err != nil {
			return err
		}
		waiting := ""
		for _, class := range devices {
			text, err := os.ReadFile(class)
			if err != nil || !strings.HasPrefix(string(text), "0x0200") { // Ethernet
				continue
			}
			if nets, _ := os.ReadDir(filepath.Join(filepath.Dir(class), "net")); len(nets) == 0 {
				waiting = filepath.Base(filepath.Dir(class))
			}
		}
		if waiting == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the network device %s has no driver", waiting)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func uptime() (*plan.Up, error) {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(string(text), " ")
	seconds, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return nil, err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, err
	}
	return &plan.Up{Kernel: unix.ByteSliceToString(u.Release[:]), Seconds: seconds}, nil
}

// openPort opens a serial port that passes on what is written as it is.
func openPort(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	t.Oflag &^= unix.OPOST
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return f, nil
}

// end ends the machine: at once by QEMU's exit device, or in the orderly way where there is none.
func end(err error) {
	var code byte
	if err != nil {
		code = 1
	}
	unix.Sync()
	if port, err := os.OpenFile("/dev/port", os.O_WRONLY, 0); err == nil {
		_, _ = port.WriteAt([]byte{code}, plan.ExitPort)
	}
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintln(os.Stderr, "init: power off:", err)
	}
}
