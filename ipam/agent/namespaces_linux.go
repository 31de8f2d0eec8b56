// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam"
)

// DefaultNamespaceDirs are the folders where container runtimes keep the network namespaces that they make.
func DefaultNamespaceDirs() []string {
	return []string{"/run/netns", "/var/run/netns", "/run/docker/netns"}
}

// found is one address in use inside of a live network namespace.
type found struct {
	addr   netip.Addr
	ifName string
	netns  ipam.NetNS
}

type nsID struct{ dev, ino uint64 }

func idOf(n ipam.NetNS) nsID { return nsID{n.Dev, n.Ino} }

// processes is where the network namespaces of processes are seen.
const processes = "/proc/[0-9]*/ns/net"

// places are the patterns of all paths at which network namespaces are looked for: first their names in dirs, then
// the processes.
func places(dirs []string) []string { return append(named(dirs), processes) }

func named(dirs []string) []string {
	globs := make([]string, 0, len(dirs)+1)
	for _, d := range dirs {
		globs = append(globs, filepath.Join(d, "*"))
	}
	return globs
}

// eachNamespace visits the network namespaces that can be seen at places. One that can be seen several times comes
// once, by the first path. Until do returns, h is the namespace that n says, whatever becomes of its path meanwhile.
func eachNamespace(places []string, do func(n ipam.NetNS, h netns.NsHandle) error) error {
	seen := map[nsID]bool{}
	for _, glob := range places {
		paths, err := filepath.Glob(glob)
		if err != nil {
			return fmt.Errorf("list namespaces: %w", err)
		}
		for _, path := range paths {
			n, h, err := pin(path, seen)
			switch {
			case errors.Is(err, fs.ErrNotExist), errors.Is(err, ipam.ErrInvalid), errors.Is(err, unix.ESRCH):
				continue // a process that ended, a file that is no namespace
			case glob == processes && errors.Is(err, fs.ErrPermission):
				continue // a process that is shielded even from root: pods' namespaces have names, or processes that are not
			case err != nil:
				return fmt.Errorf("look at network namespace %s: %w", path, err)
			case !h.IsOpen():
				continue // seen
			}
			seen[idOf(n)] = true
			if err := errors.Join(do(n, h), h.Close()); err != nil {
				return err
			}
		}
	}
	return nil
}

// pin opens the namespace at path, unless it is one of seen. A process may end, or change its namespace, between any
// two looks at its path, so what n says is what is open.
func pin(path string, seen map[nsID]bool) (n ipam.NetNS, h netns.NsHandle, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return n, netns.None(), &fs.PathError{Op: "open", Path: path, Err: err}
	}
	h = netns.NsHandle(fd)
	keep := false
	defer func() {
		if !keep {
			_ = h.Close() // read only; makes it None
		}
	}()
	var s unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil || seen[nsID{s.Dev, s.Ino}] {
		return n, h, err
	}
	open, err := ipam.StatNetNS(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return n, h, err
	}
	if n, err = ipam.StatNetNS(path); err != nil {
		return n, h, err
	}
	n.Dev, n.Ino = open.Dev, open.Ino
	keep = true
	return n, h, nil
}

// addressesInUse are the addresses of every network namespace at places but this process's own. A namespace that
// cannot be entered fails the whole, because not knowing an address could give it away twice.
func addressesInUse(ctx context.Context, places []string) ([]found, error) {
	own, err := ipam.StatNetNS("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	var out []found
	err = eachNamespace(places, func(n ipam.NetNS, h netns.NsHandle) error {
		if ctx.Err() != nil || idOf(n) == idOf(own) {
			return ctx.Err()
		}
		in, err := addressesIn(n, h)
		if err != nil {
			return fmt.Errorf("read the addresses in network namespace %s: %w", n.Path, err)
		}
		out = append(out, in...)
		return nil
	})
	return out, err
}

func addressesIn(n ipam.NetNS, h netns.NsHandle) ([]found, error) {
	// NewHandleAt opens the socket on a locked thread inside of the namespace and comes back.
	nl, err := netlink.NewHandleAt(h, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer nl.Close()
	links, err := nl.LinkList()
	if err != nil {
		return nil, err
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	list, err := nl.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	var out []found
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			out = append(out, found{addr.Unmap(), names[a.LinkIndex], n})
		}
	}
	return out, nil
}

// goneForGood is NetNS.Gone with two more doubts. A plain file where the namespace was mounted is what its folder
// shows if mounts do not reach this process. And a namespace known through a process, by a path in /proc, may live on
// in others, or under a name: at one of places.
func goneForGood(n ipam.NetNS, places []string) bool {
	if !n.Gone() {
		return false
	}
	if !strings.HasPrefix(n.Path, "/proc/") {
		var s unix.Stat_t
		return unix.Stat(n.Path, &s) != nil || s.Dev != n.AnchorDev
	}
	lives := false
	err := eachNamespace(places, func(l ipam.NetNS, _ netns.NsHandle) error {
		lives = lives || idOf(l) == idOf(n)
		return nil
	})
	return err == nil && !lives
}
