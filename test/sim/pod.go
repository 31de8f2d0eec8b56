// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/railyard-net/railyard/ipam"
	leases "github.com/railyard-net/railyard/ipam/client"
	"github.com/railyard-net/railyard/test/sim/check"
)

// pod is one attachment, as its runtime and its plugin see it.
type pod struct {
	n   *node
	req ipam.Request
	id  string
	// has are the addresses in its namespace: from the answer on, until DEL takes them out.
	has    []netip.Addr
	busy   bool // a call is under way
	ending bool // DEL has begun, or the namespace is gone
	found  bool // see check.Pod
}

// errLost is what a plugin knows of a call whose answer it did not get.
var errLost = fmt.Errorf("%w: the connection broke", ipam.ErrUnavailable)

// newPod begins the life of a pod in a slot of the node. Pods of one slot have one name and one path of the namespace, one
// after the other.
func (n *node) newPod(slot int, pool string, static []netip.Addr) *pod {
	n.containers++
	p := &pod{n: n, id: fmt.Sprintf("%s-c%d", n.name, n.containers)}
	p.req = ipam.Request{
		Key: ipam.Key{Network: "net", ContainerID: p.id, IfName: "net1"}, Pool: pool, Static: static,
		NetNS: n.newNetNS(slot), Pod: ipam.Pod{Namespace: "default", Name: fmt.Sprintf("pod-%d", slot)},
	}
	n.pods[slot] = p
	return p
}

func (n *node) newNetNS(slot int) ipam.NetNS {
	n.inodes++
	path := fmt.Sprintf("/run/netns/%s-%d", n.name, slot)
	n.paths[path] = n.inodes
	return ipam.NetNS{Path: path, Dev: 4, Ino: n.inodes, AnchorDev: 1, AnchorIno: 1}
}

// die ends the namespace, with all that is in it.
func (p *pod) die() {
	p.ending, p.has = true, nil
	if p.n.paths[p.req.NetNS.Path] == p.req.NetNS.Ino {
		delete(p.n.paths, p.req.NetNS.Path)
	}
}

// call does one call of the plugin as package client does: through the agent where there is one, else on the store.
func (p *pod) call(what string, wait time.Duration, do func(context.Context, ipam.Leaser) error) error {
	n, w := p.n, p.n.w
	actor := p.id + " " + what
	w.name(actor)
	a, life, boot := n.agent, n.life, n.boot
	if a == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		n.direct.Add(1)
		defer func() { n.direct.Add(-1); n.touched.Store(true) }()
		nobody := "/nonexistent/agent.sock"
		err := do(ctx, leases.New(nobody, n.storePath(), leases.WithStoreOptions(n.options(0))))
		w.pass(n.name + " " + actor + " done")
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	err := do(ctx, a)
	lost := false
	w.pause(n.name+" "+actor+" answer", time.Millisecond, func(r *rand.Rand) { lost = r.Float64() < w.socketLoss() })
	if life != n.life || boot != n.boot || lost {
		return errLost
	}
	return err
}

// add is the ADD of a plugin, repeated by its runtime some times, and at last given up by a DEL.
func (p *pod) add(again bool) {
	w := p.n.w
	for try := range 4 {
		var l ipam.Lease
		err := p.call("ADD", 15*time.Second, func(ctx context.Context, to ipam.Leaser) (err error) {
			l, err = to.Lease(ctx, p.req)
			return err
		})
		if p.ending {
			return // the node went down meanwhile
		}
		w.count(err)
		if err == nil {
			p.answered(l, again)
			return
		}
		if errors.Is(err, ipam.ErrInvalid) && len(p.req.Static) == 0 { // an edit may have taken the address from those to be had by name
			w.fail(fmt.Errorf("ADD of %s: %w", p.id, err))
		}
		if again {
			return
		}
		w.sleep(p.id+" tries again", time.Duration(try+1)*300*time.Millisecond)
	}
	if !p.ending {
		p.del()
	}
}

// answered puts the addresses of l into the namespace.
func (p *pod) answered(l ipam.Lease, again bool) {
	var got []netip.Addr
	for _, a := range l.Addresses {
		got = append(got, a.Prefix.Addr())
	}
	if again && !p.found && !slices.Equal(got, p.has) {
		p.n.w.fail(&check.Violation{Invariant: 5, Text: fmt.Sprintf("%s was answered %v, and %v when it asked again", p.id, p.has, got)})
	}
	p.n.w.log.add(p.n.w.now(), fmt.Sprintf("%s has %v", p.id, got))
	p.has = got
	p.n.w.dirty = true
}

// del is the DEL of a plugin, repeated until it succeeds, and then the end of the namespace.
func (p *pod) del() {
	p.ending, p.has = true, nil
	boot := p.n.boot
	for range 20 {
		err := p.call("DEL", 5*time.Second, func(ctx context.Context, to ipam.Leaser) error { return to.Release(ctx, p.req.Key) })
		if err == nil || boot != p.n.boot {
			break
		}
		p.n.w.sleep(p.id+" tries again", 700*time.Millisecond)
	}
	if boot == p.n.boot {
		p.die()
	}
}

// retain is the GC of a runtime: it names what it knows.
func (n *node) retain() {
	p := &pod{n: n, id: n.name + "-gc"}
	var keep []ipam.Key
	for _, q := range n.pods {
		if q != nil {
			keep = append(keep, q.req.Key)
		}
	}
	_ = p.call("GC", 5*time.Second, func(ctx context.Context, to ipam.Leaser) error {
		_, err := to.Retain(ctx, "net", keep)
		return err
	})
}

// do has the pod's runtime do something in a goroutine of its own; one thing at a time. After the last of its life the
// slot is free.
func (p *pod) do(last bool, what func()) {
	p.busy = true
	boot := p.n.boot
	p.n.w.running.Go(func() {
		what()
		p.busy = false
		if i := slices.Index(p.n.pods, p); i >= 0 && boot == p.n.boot && (last || p.ending) {
			p.n.pods[i] = nil
		}
	})
}
