// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const netnsDir = "/run/netns"

// PodNetNSPath is the path of a pod's network namespace inside of its node.
func PodNetNSPath(id string) string { return filepath.Join(netnsDir, id) }

// NewPodNetNS makes a network namespace for a pod, as a container runtime does: with its loopback link up, mounted under /run/netns.
// It returns the path, which is good inside of the node.
func (n *Node) NewPodNetNS(id string) (string, error) {
	path := PodNetNSPath(id)
	err := n.Do(func() error {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return errors.Join(err, os.Remove(path))
		}
		if err := loopbackUp(); err != nil {
			return errors.Join(err, os.Remove(path))
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return errors.Join(err, os.Remove(path))
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("make network namespace %s in node %s: %w", id, n.name, err)
	}
	return path, nil
}

// RemovePodNetNS takes a pod's network namespace away; the links in it go with it. Removing what is gone is success.
func (n *Node) RemovePodNetNS(id string) error {
	path := PodNetNSPath(id)
	err := n.Do(func() error {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove network namespace %s in node %s: %w", id, n.name, err)
	}
	return nil
}

// PodNetNSs lists the network namespaces that are mounted in the node.
func (n *Node) PodNetNSs() ([]string, error) {
	var names []string
	err := n.Do(func() error {
		entries, err := os.ReadDir(netnsDir)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return err
	})
	return names, err
}

// InPod runs f on a thread in a pod's network namespace and its node's other namespaces, under the rules of Node.Do.
func (n *Node) InPod(id string, f func() error) error {
	return n.Do(func() error {
		ns, err := os.Open(PodNetNSPath(id))
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", ns.Name(), err)
		}
		return f()
	})
}

// loopbackUp sets lo up in the calling thread's network namespace.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}
