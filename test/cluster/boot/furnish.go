// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Furnish makes the namespaces it runs in those of a machine and replaces this process by the command next, which is to call Serve
// with the same spec. It returns only if that fails.
func Furnish(specPath string, stdin io.Reader, next ...string) error {
	spec, err := readSpec(specPath)
	if err != nil {
		return err
	}
	// One byte and no more: the orders that follow are for whoever comes next.
	if _, err := io.ReadFull(stdin, make([]byte, 1)); err != nil {
		return fmt.Errorf("wait for the cgroups: %w", err)
	}
	// A cgroup namespace belongs to a thread; exec makes this one the process's only thread.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make a cgroup namespace: %w", err)
	}
	if err := spec.mountAll(); err != nil {
		return err
	}
	return fmt.Errorf("become %v: %w", next, unix.Exec(next[0], next, os.Environ()))
}

// mount is one mount, for a list of them.
type mount struct {
	what, where, kind string
	flags             uintptr
	data              string
}

func (m mount) do() error {
	if err := unix.Mount(m.what, m.where, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", cmp.Or(m.what, m.kind), m.where, err)
	}
	return nil
}

const harmless = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

func (s Spec) mountAll() error {
	if err := unix.Sethostname([]byte(s.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	// Private: what is mounted here must not spread to the host. In the end shared, for the volumes of pods, among ourselves.
	if err := (mount{"none", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""}).do(); err != nil {
		return err
	}
	steps := []func() error{
		mount{"proc", "/proc", "proc", harmless, ""}.do,
		mount{"sysfs", "/sys", "sysfs", harmless, ""}.do,
		mount{"run", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"}.do,
		s.mountCgroups, s.mountDisk, s.hideKernel,
		mount{"none", "/", "", unix.MS_REC | unix.MS_SHARED, ""}.do,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

const cgroupDir = "/sys/fs/cgroup"

// mountCgroups shows the machine's cgroups, as far down as this process is, as if there were no others.
func (s Spec) mountCgroups() error {
	if len(s.Cgroups) == 0 {
		if err := (mount{"cgroup2", cgroupDir, "cgroup2", harmless, ""}).do(); err != nil {
			return err
		}
		return leaveRoot()
	}
	if err := (mount{"cgroup", cgroupDir, "tmpfs", harmless, "mode=0755"}).do(); err != nil {
		return err
	}
	for _, controllers := range s.Cgroups {
		dir := filepath.Join(cgroupDir, strings.TrimPrefix(controllers, "name="))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := (mount{"cgroup", dir, "cgroup", harmless, controllers}).do(); err != nil {
			return err
		}
	}
	return nil
}

// leaveRoot moves this process out of a v2 root, as one with processes in it cannot pass its controllers on.
func leaveRoot() error {
	leaf := filepath.Join(cgroupDir, "init")
	if err := os.Mkdir(leaf, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0o644); err != nil {
		return err
	}
	have, err := os.ReadFile(filepath.Join(cgroupDir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(string(have)) {
		if err := os.WriteFile(filepath.Join(cgroupDir, "cgroup.subtree_control"), []byte("+"+c), 0o644); err != nil {
			return fmt.Errorf("pass controller %s on: %w", c, err)
		}
	}
	return nil
}

// diskDir is where a machine sees its disk, wherever that is on the host: the place there may be covered by what is mounted here.
const diskDir = "/run/disk"

// mountDisk lays the disk over the host's folders. What needs a filesystem that is no overlay gets a folder of the disk itself.
func (s Spec) mountDisk() error {
	if err := os.Mkdir(diskDir, 0o755); err != nil {
		return err
	}
	if err := (mount{s.Disk, diskDir, "", unix.MS_BIND, ""}).do(); err != nil {
		return err
	}
	for _, dir := range []string{"/etc", "/opt", "/var"} {
		upper, work := filepath.Join(diskDir, "over", dir), filepath.Join(diskDir, "work", dir)
		if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
			return err
		}
		data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)
		if err := (mount{"overlay", dir, "overlay", 0, data}).do(); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/var/lib/containerd", "/var/lib/kubelet", "/var/lib/cni", "/var/log"} {
		own := filepath.Join(diskDir, "own", dir)
		if err := errors.Join(os.MkdirAll(own, 0o755), os.MkdirAll(dir, 0o755)); err != nil {
			return err
		}
		if err := (mount{own, dir, "", unix.MS_BIND, ""}).do(); err != nil {
			return err
		}
	}
	return nil
}

// kernelSettings are those that a kubelet sets for the whole host. It is content with files that say what it wants.
func kernelSettings() map[string]string {
	return map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0",
		"kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	}
}

// hideKernel puts files before what is the whole kernel's, and makes the machine's identity its own.
func (s Spec) hideKernel() error {
	files := map[string]string{
		"/proc/sys/kernel/random/boot_id": s.BootID,
		"/etc/machine-id":                 s.MachineID,
	}
	for name, value := range kernelSettings() {
		file := filepath.Join("/run", "kernel-"+strings.ReplaceAll(name, "/", "-"))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		files["/proc/sys/"+name] = file
	}
	for where, what := range files {
		if _, err := os.Stat(where); errors.Is(err, os.ErrNotExist) {
			continue // a kernel without it, or a host
		}
		if err := (mount{what, where, "", unix.MS_BIND, ""}).do(); err != nil {
			return err
		}
	}
	return nil
}
