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
	"slices"
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

const processes = "/proc/[0-9]*/ns/net"

// liveNamespaces are the network namespaces that can be seen from here: those with a name in dirs, and those of a
// process. A namespace that can be seen in several places comes once, named if it has a name.
func liveNamespaces(dirs []string) ([]ipam.NetNS, error) {
	var globs []string
	for _, d := range dirs {
		globs = append(globs, filepath.Join(d, "*"))
	}
	globs = append(globs, processes)
	seen := map[nsID]bool{}
	var out []ipam.NetNS
	for _, g := range globs {
		paths, err := filepath.Glob(g)
		if err != nil {
			return nil, fmt.Errorf("list namespaces: %w", err)
		}
		for _, p := range paths {
			n, err := ipam.StatNetNS(p)
			switch {
			case errors.Is(err, fs.ErrNotExist), errors.Is(err, ipam.ErrInvalid), errors.Is(err, unix.ESRCH):
				continue // a process that ended, a file that is no namespace
			case g == processes && errors.Is(err, fs.ErrPermission):
				continue // a process that is shielded even from root: pods' namespaces have names, or processes that are not
			case err != nil:
				return nil, fmt.Errorf("look at network namespace %s: %w", p, err)
			}
			if id := idOf(n); !seen[id] {
				seen[id] = true
				out = append(out, n)
			}
		}
	}
	return out, nil
}

// addressesInUse are the addresses of every live network namespace but this process's own. A namespace that cannot be
// entered fails the whole, because not knowing an address could give it away twice; one that ended meanwhile does not.
func addressesInUse(ctx context.Context, dirs []string) ([]found, error) {
	own, err := ipam.StatNetNS("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	spaces, err := liveNamespaces(dirs)
	if err != nil {
		return nil, err
	}
	var out []found
	for _, n := range spaces {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if idOf(n) == idOf(own) {
			continue
		}
		in, err := addressesIn(n)
		if err != nil && !n.Gone() {
			return nil, fmt.Errorf("read the addresses in network namespace %s: %w", n.Path, err)
		}
		out = append(out, in...)
	}
	return out, nil
}

func addressesIn(n ipam.NetNS) ([]found, error) {
	h, err := netns.GetFromPath(n.Path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = h.Close() }() // read only
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
// in others, or under a name in dirs.
func goneForGood(n ipam.NetNS, dirs []string) bool {
	if !n.Gone() {
		return false
	}
	if !strings.HasPrefix(n.Path, "/proc/") {
		var s unix.Stat_t
		return unix.Stat(n.Path, &s) != nil || s.Dev != n.AnchorDev
	}
	live, err := liveNamespaces(dirs)
	return err == nil && !slices.ContainsFunc(live, func(l ipam.NetNS) bool { return idOf(l) == idOf(n) })
}
