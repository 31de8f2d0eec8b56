// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/test/cluster/boot"
)

// MachineOptions say what a machine is; all of them are needed.
type MachineOptions struct {
	Name   string
	Number int // from 1: says its addresses (MachineAddr, MachinePods)
	API    *API
	LAN    *LAN
	Fabric *Fabric
	// Images are archives to import, Sandbox the name of the one among them that holds a pod's namespaces.
	Images  []string
	Sandbox string
	// Boot is the command line that gets the path of a spec as its last argument, and calls boot.Furnish with it.
	Boot []string
}

// Machine is a Node that is whole: beside a network and a mount namespace it has process ids, a host name, cgroups and a disk of its
// own, and a containerd and a kubelet run in it (package boot). It has two links, RailLink into the fabric and eth0 into the LAN.
//
// Methods must not be called concurrently.
type Machine struct {
	o    MachineOptions
	dir  string
	spec string // path

	disk    *space // holds the disk, whether the machine runs or not
	cgroups *cgroups
	net     *space
	init    *Process
	orders  io.WriteCloser
}

const diskName = "disk"

// NewMachine makes a machine and switches it on. It ends with Close, or with this process.
func NewMachine(o MachineOptions) (_ *Machine, err error) {
	m := &Machine{o: o, dir: filepath.Join(o.API.Dir(), "machine-"+o.Name)}
	defer func() {
		if err != nil {
			err = fmt.Errorf("make machine %s: %w", o.Name, errors.Join(err, m.Close()))
		}
	}()
	if o.Number < 1 || o.Number > maxMachines {
		return nil, fmt.Errorf("number %d is not within 1 and %d", o.Number, maxMachines)
	}
	disk := filepath.Join(m.dir, diskName)
	if err := os.MkdirAll(disk, 0o755); err != nil {
		return nil, err
	}
	m.disk, err = newSpace(unix.CLONE_NEWNS, func() error {
		if err := unix.Mount(diskName, disk, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount the disk: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := m.writeSpec(); err != nil {
		return nil, err
	}
	return m, m.On()
}

func (m *Machine) writeSpec() error {
	o := m.o
	s := boot.Spec{
		Name: o.Name, Disk: filepath.Join(m.dir, diskName),
		BootID: filepath.Join(m.dir, "boot_id"), MachineID: filepath.Join(m.dir, "machine-id"),
		CNI: filepath.Join(string(o.API.tools), "cni"), Images: o.Images, Sandbox: o.Sandbox,
		ClientCA: filepath.Join(o.API.Dir(), "ca.crt"), Addr: MachineAddr(o.Number), Pods: MachinePods(o.Number),
	}
	containerd, err := o.API.tools.Path("containerd/containerd")
	if err != nil {
		return err
	}
	s.Containerd = filepath.Dir(containerd)
	if s.Kubenode, err = o.API.tools.Path("kubenode"); err != nil {
		return err
	}
	if s.Runc, err = exec.LookPath("runc"); err != nil {
		return fmt.Errorf("%w: run \"test/tools/deps.sh cluster\"", err)
	}
	if s.Kubeconfig, err = o.API.ComponentKubeconfig("system:node:"+o.Name, "system:nodes"); err != nil {
		return err
	}
	if err := os.WriteFile(s.MachineID, []byte(strings.ReplaceAll(newBootID(), "-", "")+"\n"), 0o644); err != nil {
		return err
	}
	if m.cgroups, err = newCgroups(filepath.Base(o.API.Dir())+"-"+o.Name, m.dir); err != nil {
		return err
	}
	s.Cgroups = m.cgroups.controllers
	m.spec = filepath.Join(m.dir, "spec.json")
	return s.Write(m.spec)
}

// On switches the machine on: with another boot id, and with a network and a /run that are new.
func (m *Machine) On() error {
	if err := os.WriteFile(filepath.Join(m.dir, "boot_id"), []byte(newBootID()+"\n"), 0o644); err != nil {
		return err
	}
	var err error
	if m.net, err = newSpace(unix.CLONE_NEWNET, forwardIPv4); err != nil {
		return err
	}
	if err := errors.Join(m.o.LAN.plug(m.net, m.o.Number), m.o.Fabric.plug(m.net)); err != nil {
		return err
	}
	argv := append(append([]string(nil), m.o.Boot...), m.spec)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC}
	if m.orders, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if m.init, err = startIn(&space{net: m.net.net, mnt: m.disk.mnt}, cmd, filepath.Join(m.dir, "init.log")); err != nil {
		return err
	}
	if err := m.cgroups.add(m.init.Pid()); err != nil {
		return err
	}
	// The byte that Furnish waits for: it is where it belongs.
	_, err = m.orders.Write([]byte{'\n'})
	return err
}

// Off ends everything in the machine at once, as a power failure does. Its disk stays, and its Node object. It may be called again.
func (m *Machine) Off() error {
	var errs []error
	if m.init != nil {
		m.init.Kill() // and with the first process all others: the kernel waits for them
		m.init = nil
	}
	if m.orders != nil {
		_ = m.orders.Close() // its reader is gone
		m.orders = nil
	}
	if m.net != nil {
		errs = append(errs, m.net.close())
	}
	if m.cgroups != nil {
		errs = append(errs, m.cgroups.empty())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("switch machine %s off: %w", m.o.Name, err)
	}
	return nil
}

// Reboot is Off and On.
func (m *Machine) Reboot() error {
	if err := m.Off(); err != nil {
		return err
	}
	if err := m.On(); err != nil {
		return fmt.Errorf("switch machine %s on: %w", m.o.Name, err)
	}
	return nil
}

// Close is Off, and takes away what is left of the machine, but for its folder, which is the API's. It may be called again.
func (m *Machine) Close() error {
	errs := []error{m.Off()}
	if m.cgroups != nil {
		errs = append(errs, m.cgroups.remove())
	}
	if m.disk != nil {
		errs = append(errs, m.disk.close())
	}
	return errors.Join(errs...)
}

// Order tells the machine's first process to "stop", "start" or "kill" its program "containerd" or "kubelet" (package boot). It does
// not wait for the effect.
func (m *Machine) Order(verb, program string) error {
	if m.orders == nil {
		return fmt.Errorf("machine %s is off", m.o.Name)
	}
	_, err := fmt.Fprintf(m.orders, "%s %s\n", verb, program)
	return err
}

// Name is the machine's host name and its Node's name.
func (m *Machine) Name() string { return m.o.Name }

// Dir has the machine's own logs; those of its programs are on its disk, in /var/log.
func (m *Machine) Dir() string { return m.dir }

// Err says how the machine ended, if it did so by itself.
func (m *Machine) Err() error {
	if m.init == nil {
		return nil
	}
	return m.init.Err()
}

// EnterCommand is what goes before a command to run it in the machine.
func (m *Machine) EnterCommand() []string {
	if m.init == nil {
		return []string{"false"}
	}
	return []string{"nsenter", "--target=" + strconv.Itoa(m.init.Pid()), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"}
}

// SaveLogs copies the logs of the machine's programs from its disk into Dir.
func (m *Machine) SaveLogs() error {
	return m.disk.do(func() error {
		from := filepath.Join(m.dir, diskName, "own/var/log")
		for _, name := range []string{"containerd", "kubelet", "ctr"} {
			data, err := os.ReadFile(filepath.Join(from, name+".log"))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(m.dir, name+".log"), data, 0o600); err != nil {
				return err
			}
		}
		return nil
	})
}
