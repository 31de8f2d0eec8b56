// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/plugins/cni/journal"
)

// PodName names a pod of the node.
type PodName struct{ Namespace, Name string }

// Running is what the kubelet has on its node, by its own word.
type Running struct {
	Pods map[PodName]bool
	// Devices are the IDs of those that containers were given.
	Devices map[string]bool
}

// knows says that the attachment's pod is on the node, or a device that it moved in use. To be known is to be alive; not to
// be known is one of several things that must come together.
func (k Running) knows(j journal.Journal) bool {
	return k.Pods[PodName{j.Pod.Namespace, j.Pod.Name}] || slices.ContainsFunc(j.Steps, func(s journal.Step) bool {
		if s.Link == nil || s.Link.Host == nil {
			return false
		}
		h := s.Link.Host
		return k.Devices[h.Bus] || k.Devices[h.Name] || slices.ContainsFunc(h.AltNames, func(n string) bool { return k.Devices[n] })
	})
}

// view is what one look sees of the node. Processes and kubelet are looked at when the first attachment needs it, and once.
type view struct {
	gone      func(ipam.NetNS) bool
	inhabited func() (map[nsID]bool, error)
	running   func() (Running, error) // nil: nobody is asked
	report    Report
}

// newView takes the processes from one of leaders and threads.
func (r *Reconciler) newView(ctx context.Context, processes string) *view {
	v := &view{gone: r.evidence.Gone, inhabited: sync.OnceValues(func() (map[nsID]bool, error) { return inhabited(processes) })}
	if ask := r.evidence.Kubelet; ask != nil {
		v.running = sync.OnceValues(func() (Running, error) { return ask(ctx) })
	}
	return v
}

func (v *view) judge(j journal.Journal) verdict {
	switch {
	case j.NetNS == (ipam.NetNS{}) || delegates(j):
		return alive
	case v.gone(j.NetNS):
		return gone
	case v.running != nil && v.abandoned(j):
		return abandoned
	}
	return alive
}

// abandoned looks for processes first: a pod whose sandbox begins between the two looks is known to the kubelet by then.
func (v *view) abandoned(j journal.Journal) bool {
	if now, err := ipam.StatNetNS(j.NetNS.Path); err != nil || now != j.NetNS {
		return false // not gone and not to be seen: another view of the folder, most likely
	}
	in, err := v.inhabited()
	if err != nil {
		v.report.Doubt = err
		return false
	}
	if in[nsID{j.NetNS.Dev, j.NetNS.Ino}] {
		return false
	}
	v.report.Empty++
	if j.Pod.Namespace == "" || j.Pod.Name == "" {
		return false // nobody could vouch for it
	}
	running, err := v.running()
	if err != nil {
		v.report.Doubt = err
		return false
	}
	return !running.knows(j)
}

type nsID struct{ dev, ino uint64 }

// Where the namespaces of processes are seen; those of a process's other threads may differ, and are many.
const (
	leaders = "/proc/[0-9]*/ns/net"
	threads = "/proc/[0-9]*/task/[0-9]*/ns/net"
)

// inhabited are the network namespaces that a process is in. This one does not count, which may be in a pod's to work on it, nor
// the node's first, which is in no pod and may be shielded. Any other that may not be looked at could be in any of them, so it
// is an error; a process that ends meanwhile is in none.
func inhabited(places string) (map[nsID]bool, error) {
	paths, err := filepath.Glob(places)
	if err != nil {
		return nil, err
	}
	own := fmt.Sprintf("/proc/%d/", os.Getpid())
	in := map[nsID]bool{}
	for _, path := range paths {
		if strings.HasPrefix(path, own) || strings.HasPrefix(path, "/proc/1/") {
			continue
		}
		var s unix.Stat_t
		switch err := unix.Stat(path, &s); {
		case err == nil:
			in[nsID{s.Dev, s.Ino}] = true
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH):
		default:
			return nil, fmt.Errorf("look at the network namespace of a process, %s: %w", path, err)
		}
	}
	return in, nil
}
