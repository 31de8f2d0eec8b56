// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package lab is where the benchmark happens: a network and mount namespace of its own, with a master link on a fabric and pod
// namespaces, none of which the host sees. Its caller must already live in fresh namespaces ([Reexec] starts a program so); all
// of it ends with the last process inside.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/test/thread"
)

// Master is the name of the link that attachments are made on: a veth whose other end is a port of a bridge.
const Master = "rail0"

const podDir = "/run/netns"

// Reexec runs this very program with args in new network and mount namespaces. When ctx ends it is asked to stop; when we
// are killed, so is it.
func Reexec(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	// The death signal is the thread's, so the thread has to stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	return cmd.Run()
}

// Lab is the inside of the namespaces.
type Lab struct{ Pods []Pod }

// Pod is a network namespace to attach to.
type Pod struct {
	Path   string
	handle *netlink.Handle
}

// New furnishes the namespaces that the process is in with a master link and n pods. It refuses to do so in the host's.
func New(n int) (*Lab, error) {
	if err := fresh(); err != nil {
		return nil, fmt.Errorf("lab: not in fresh namespaces: %w", err)
	}
	// Ends with the mount namespace. It hides the host's /run: what railyard and a runtime keep there is ours alone.
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return nil, fmt.Errorf("mount /run: %w", err)
	}
	if err := os.MkdirAll(podDir, 0o755); err != nil {
		return nil, err
	}
	if err := setUp("lo"); err != nil {
		return nil, err
	}
	if err := newFabric(filepath.Join(podDir, "fabric")); err != nil {
		return nil, fmt.Errorf("make the fabric: %w", err)
	}
	l := &Lab{}
	for i := range n {
		p := Pod{Path: filepath.Join(podDir, fmt.Sprintf("pod-%d", i))}
		if err := newNetNS(p.Path, func() (err error) {
			if err := setUp("lo"); err != nil {
				return err
			}
			p.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
			return err
		}); err != nil {
			return nil, fmt.Errorf("make %s: %w", p.Path, err)
		}
		l.Pods = append(l.Pods, p)
	}
	return l, nil
}

// fresh says why the namespaces are not ours: they are our parent's too, or have a lab already.
func fresh() error {
	for _, ns := range []string{"net", "mnt"} {
		own, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			return err
		}
		parents, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", os.Getppid(), ns))
		if err != nil {
			return err
		}
		if own == parents {
			return fmt.Errorf("%s is our parent's too", own)
		}
	}
	if _, err := netlink.LinkByName(Master); err == nil {
		return fmt.Errorf("%s is there already", Master)
	}
	return nil
}

func newFabric(path string) error {
	if err := newNetNS(path, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "fabric"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return err
		}
		return setUp("fabric")
	}); err != nil {
		return err
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = Master
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "port0", PeerNamespace: netlink.NsFd(int(ns))}
	if err := netlink.LinkAdd(veth); err != nil {
		return err
	}
	if err := Inside(path, func() error {
		port, err := netlink.LinkByName("port0")
		if err != nil {
			return err
		}
		bridge, err := netlink.LinkByName("fabric")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(port, bridge), netlink.LinkSetUp(port))
	}); err != nil {
		return err
	}
	return setUp(Master)
}

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// newNetNS makes a network namespace, binds it to path and runs setup inside.
func newNetNS(path string, setup func() error) error {
	return thread.Do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := os.WriteFile(path, nil, 0o444); err != nil {
			return err
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind: %w", err)
		}
		return setup()
	})
}

// Inside runs f on a thread in the network namespace at path.
func Inside(path string, f func() error) error {
	return thread.Do(func() error {
		ns, err := netns.GetFromPath(path)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return err
		}
		return f()
	})
}

// SetDAD says whether links that are made in the pods from now on check their IPv6 addresses for duplicates, as the
// kernel's default is.
func (l *Lab) SetDAD(on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	for _, p := range l.Pods {
		if err := Inside(p.Path, func() error {
			return os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte(value), 0o644)
		}); err != nil {
			return fmt.Errorf("set DAD in %s: %w", p.Path, err)
		}
	}
	return nil
}

// Check says what is missing of the job: an up macvlan in bridge mode with one global address of each family wanted.
func (p Pod) Check(ifName string, v4, v6 bool) error {
	link, err := p.handle.LinkByName(ifName)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", p.Path, ifName, err)
	}
	var wrong []string
	if m, ok := link.(*netlink.Macvlan); !ok || m.Mode != netlink.MACVLAN_MODE_BRIDGE {
		wrong = append(wrong, "is no macvlan in bridge mode")
	}
	if link.Attrs().Flags&1 == 0 {
		wrong = append(wrong, "is down")
	}
	for _, f := range []struct {
		family int
		want   bool
	}{{netlink.FAMILY_V4, v4}, {netlink.FAMILY_V6, v6}} {
		addrs, err := p.handle.AddrList(link, f.family)
		if err != nil {
			return fmt.Errorf("%s: addresses of %s: %w", p.Path, ifName, err)
		}
		n := 0
		for _, a := range addrs {
			if a.Scope == int(netlink.SCOPE_UNIVERSE) {
				n++
			}
		}
		if n != map[bool]int{true: 1}[f.want] {
			wrong = append(wrong, fmt.Sprintf("has %d global addresses of family %d", n, f.family))
		}
	}
	if wrong != nil {
		return fmt.Errorf("%s: %s %s", p.Path, ifName, strings.Join(wrong, ", "))
	}
	return nil
}

// Empty says whether nothing but lo is in the pod.
func (p Pod) Empty() error {
	links, err := p.handle.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Attrs().Name != "lo" && l.Type() == "macvlan" {
			return fmt.Errorf("%s: %s is left", p.Path, l.Attrs().Name)
		}
	}
	return nil
}
