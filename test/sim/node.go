// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/agent"
	leases "github.com/railyard-net/railyard/ipam/client"
	"github.com/railyard-net/railyard/ipam/store"
)

// hitPause is the longest time between two steps of a process that waits for nobody.
const hitPause = 40 * time.Microsecond

// node is one machine: its agent process if there is one, the folder of its state, its clock, its pods.
type node struct {
	w    *world
	name string
	dir  string

	life    int // changes whenever the agent's process begins or ends
	agent   *agent.Agent
	store   *store.Store
	stop    context.CancelFunc
	watches *watches
	opening bool
	direct  atomic.Int32 // calls at work on the store without an agent
	fuse    int          // steps until the agent dies; 0: it lives
	down    bool
	ending  bool // the agent has been asked to end

	boot   int
	booted time.Duration // virtual time
	jumped time.Duration // what the boot clock counted while all slept

	pods       []*pod
	collecting bool              // CNI GC is under way
	paths      map[string]uint64 // network namespaces: inode by path
	inodes     uint64
	containers int

	cutUntil, slowUntil time.Duration

	touched atomic.Bool // the store may have changed
	seen    seen
}

func newNode(w *world, i, slots int) *node {
	n := &node{w: w, name: fmt.Sprintf("n%03d", i), pods: make([]*pod, slots), paths: map[string]uint64{}, boot: 1, down: true}
	n.dir = filepath.Join(w.dir, n.name)
	return n
}

func (n *node) storePath() string { return leases.StorePath(n.dir) }

// clock is the boot clock.
func (n *node) clock() time.Duration { return 10*time.Second + n.w.now() - n.booted + n.jumped }

// options are those of the store; life is 0 for a process that is not the agent.
func (n *node) options(life int) store.Options {
	return store.Options{
		BootID: fmt.Sprintf("%s-boot-%d", n.name, n.boot), Now: n.clock,
		Wall: func() time.Time { return time.Now().Add(-n.jumped) }, // people set it back now and then
		Hit:  func(point string) { n.hit(point, life) },
	}
}

// hit stops a goroutine before or after a transaction, or where it begins or has waited.
func (n *node) hit(point string, life int) {
	key := fmt.Sprintf("%s %s %s", n.name, n.w.actor(point).name, point)
	if life != 0 && life != n.life || point != "update" && point != "updated" {
		n.w.pass(key)
		return
	}
	n.w.pause(key, hitPause, func(*rand.Rand) {
		n.touched.Store(true)
		if life != 0 && life == n.life && !n.opening {
			n.burn(key)
		}
	})
}

// burn counts one step towards the death of the agent, and says whether that was it.
func (n *node) burn(where string) bool {
	if n.fuse == 0 || n.agent == nil {
		return false
	}
	if n.fuse--; n.fuse > 0 {
		return false
	}
	n.w.log.add(n.w.now(), "killed at "+where)
	n.crash()
	r, _ := n.w.next(n.name + " restart")
	n.w.at(n.w.now()+time.Duration(r.Int64N(int64(4*time.Second))), n.name+" restart", n.start)
	return true
}

// start begins an agent's process, unless there is one.
func (n *node) start() {
	switch {
	case n.w.closing:
		return
	case n.ending: // once it has ended
		n.w.at(n.w.now()+100*time.Millisecond, n.name+" start", n.start)
		return
	case !n.down:
		return
	}
	n.life++
	n.down, n.opening = false, true
	life, w := n.life, n.w
	ctx, cancel := context.WithCancel(w.ctx)
	n.stop = cancel
	n.watches = newWatches(n, life)
	cache := n.watches
	w.running.Go(func() {
		w.name(fmt.Sprintf("%s agent", n.name))
		err := n.serve(ctx, life, cache)
		if err != nil && life == n.life && ctx.Err() == nil {
			w.fail(fmt.Errorf("agent of %s: %w", n.name, err))
		}
	})
}

func (n *node) serve(ctx context.Context, life int, cache *watches) error {
	var s *store.Store
	for s == nil {
		lock, cancel := context.WithTimeout(ctx, 5*time.Second)
		var err error
		s, err = store.Open(lock, n.storePath(), n.options(life))
		cancel()
		if err != nil && !errors.Is(err, store.ErrLocked) || life != n.life || ctx.Err() != nil {
			if s != nil {
				err = errors.Join(err, s.Close())
			}
			return err
		}
	}
	a, err := agent.New(agent.Config{
		Node: n.name, Store: s, Client: line{n: n, life: life}, Cache: cache, Log: n.w.slog.With("node", n.name), Now: n.clock, Namespaces: n,
		Hit:        func(point string) { n.hit(point, life) },
		GCInterval: n.w.times.gc, GCGrace: n.w.times.grace, ReleaseAfter: n.w.times.release, MirrorInterval: n.w.times.mirror,
	})
	if err != nil {
		return errors.Join(err, s.Close())
	}
	n.store, n.agent, n.opening = s, a, false
	n.touched.Store(true)
	err = a.Run(ctx)
	if life == n.life { // it was asked to end
		n.life++
		n.agent, n.store, n.down, n.ending = nil, nil, true, false
		err = errors.Join(err, s.Close())
	}
	return err
}

// crash ends the agent's process where it is: from now on nothing that it does has an effect.
func (n *node) crash() {
	if n.agent == nil {
		return // it is down, or about to open the store: then it dies later
	}
	n.life++
	n.fuse, n.down, n.ending = 0, true, false
	n.stop()
	if err := n.store.Close(); err != nil {
		n.w.fail(fmt.Errorf("close the store of %s: %w", n.name, err))
	}
	n.agent, n.store = nil, nil
}

// idle says that no process works on the store's file.
func (n *node) idle() bool { return n.agent == nil && !n.opening && n.direct.Load() == 0 }

// wipe removes the store under the live pods. Who is in the middle of a lease at that moment has what nobody can find.
func (n *node) wipe() bool {
	n.crash()
	if !n.idle() {
		return false
	}
	if err := os.Remove(n.storePath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.w.fail(err)
	}
	for _, p := range n.pods {
		if p != nil {
			p.found = true
		}
	}
	n.touched.Store(true)
	return true
}

// reboot ends everything on the node.
func (n *node) reboot() bool {
	if !n.wipe() {
		return false
	}
	for i, p := range n.pods {
		if p != nil {
			p.die()
		}
		n.pods[i] = nil
	}
	n.boot++
	n.booted, n.jumped = n.w.now(), 0
	return true
}

// Gone implements agent.Namespaces.
func (n *node) Gone(ns ipam.NetNS) bool { return n.paths[ns.Path] != ns.Ino }

// InUse implements agent.Namespaces.
func (n *node) InUse(context.Context) ([]agent.InUse, error) {
	var out []agent.InUse
	for _, p := range n.pods {
		if p == nil {
			continue
		}
		for _, a := range p.has {
			out = append(out, agent.InUse{Addr: a, IfName: p.req.Key.IfName, NetNS: p.req.NetNS})
		}
	}
	return out, nil
}
