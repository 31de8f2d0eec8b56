// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/test/sim/apiserver"
	"github.com/railyard-net/railyard/test/sim/see"
)

// act does one action.
func (w *world) act(a Action) {
	if w.closing {
		return
	}
	w.log.add(w.now(), a.String())
	n := w.nodes[a.Node]
	while := time.Duration(a.A%8000) * time.Millisecond
	switch a.Kind {
	case Toggle, Repeat, Retain:
		w.actOnPods(a, n)
	case Kill:
		n.fuse = 1 + a.A%12
	case KillAll:
		for i, n := range w.nodes {
			n.crash()
			w.at(w.now()+time.Duration(i%7*(a.A%500))*time.Millisecond, n.name+" start", n.start)
		}
	case Stop:
		if n.agent != nil {
			n.ending = true
			n.stop()
		}
		w.at(w.now()+while/4, n.name+" start", n.start)
	case Reboot:
		n.reboot()
		w.at(w.now()+while/2, n.name+" start", n.start)
	case Wipe:
		n.wipe()
		n.fuse = a.B % 3 / 2 * (1 + a.B%24) // some die once more in the middle of their recovery
		w.at(w.now()+while/2, n.name+" start", n.start)
	case Cut:
		n.cutUntil = w.now() + while
	case Outage:
		w.awayUntil = w.now() + while
	case Storm:
		w.stormUntil = w.now() + while
	case SlowWatch:
		n.slowUntil = w.now() + 2*while
	case Suspend:
		n.jumped += time.Duration(a.A%3600) * time.Second
	default:
		w.actOnAPI(a, n)
	}
}

func (w *world) actOnPods(a Action, n *node) {
	slot := a.A % len(n.pods)
	p := n.pods[slot]
	switch {
	case a.Kind == Retain:
		w.actRetain(n)
	case n.collecting: // CNI forbids ADD beside GC
	case p != nil && p.busy:
	case a.Kind == Repeat && p != nil && !p.ending:
		p.do(false, func() { p.add(true) })
	case a.Kind == Repeat:
	case p == nil:
		p := n.newPod(slot, w.pools[a.B%len(w.pools)], w.static(a))
		if w.plan.Pools[a.B%len(w.pools)].Sticky && a.B/128%2 == 0 {
			p.req.Pod.Name = fmt.Sprintf("db-%d", a.B/512%stickyPods) // there is one of the name in the cluster, or should be
		}
		p.do(false, func() { p.add(false) })
	case a.B%10 < 7:
		p.do(true, p.del)
	case a.B%10 < 9: // without a DEL
		p.die()
		n.pods[slot] = nil
	default: // the runtime gives the container another namespace, and asks again
		p.has = nil
		delete(n.paths, p.req.NetNS.Path)
		p.req.NetNS = n.newNetNS(slot)
		p.do(false, func() { p.add(false) })
	}
	w.dirty = true
}

func (w *world) actRetain(n *node) {
	for _, p := range n.pods {
		if p != nil && p.busy {
			return
		}
	}
	if n.collecting {
		return
	}
	n.collecting = true
	w.running.Go(func() {
		n.retain()
		n.collecting = false
	})
}

// static is an address for a pod to ask for by name, or none.
func (w *world) static(a Action) []netip.Addr {
	i := a.B % len(w.pools)
	if p := w.plan.Pools[i]; !p.Reserved || !p.V4 || a.B/16%3 > 0 {
		return nil
	}
	return []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i), 0, byte(4 + a.B/64%4)})}
}

// actOnAPI does what people, and other programs, do to objects.
func (w *world) actOnAPI(a Action, n *node) {
	switch a.Kind {
	case Backup:
		if s, ok := w.api.Backend.(*apiserver.Server); ok {
			w.backup = s.Backup()
		}
	case Restore:
		if w.backup != nil {
			w.byHand(func() { w.api.restore(w.backup) })
		}
	case DeleteBlock:
		if all := w.api.blocks(); len(all) > 0 {
			b := all[a.A%len(all)].DeepCopy()
			w.byHand(func() { w.must(w.api.remove(b, nil)) })
		}
	case DeleteNode:
		if w.uid(n) == "" {
			return
		}
		w.must(w.api.remove(nodeObject(n.name), nil))
		w.at(w.now()+time.Duration(a.A%5000)*time.Millisecond, n.name+" object", func() {
			w.must(w.api.create(w.labelled(n, true)))
		})
	case Relabel:
		if o := w.api.is[apiserver.Key{Kind: kindNode, Name: n.name}]; o != nil {
			is := w.labelled(n, o.GetLabels()[railLabel] != "true")
			is.ResourceVersion = o.GetResourceVersion()
			w.must(w.api.update(is))
		}
	case Edit:
		w.edit(a)
	}
}

// edit changes what the first pool leases; the controller accepts it some time later.
func (w *world) edit(a Action) {
	pool := &v1alpha1.IPPool{}
	pool.Name = w.pools[0]
	w.must(w.api.Get(pool))
	s := pool.Spec.IPv4
	if s == nil {
		return
	}
	whole := netip.MustParsePrefix(s.Subnet)
	half := netip.PrefixFrom(whole.Addr(), whole.Bits()+1).String()
	s.Ranges, s.Exclude = nil, nil
	switch a.A % 5 {
	case 0:
		s.Ranges = []v1alpha1.AddressRange{v1alpha1.AddressRange(half)}
	case 1:
		s.Exclude = []v1alpha1.AddressRange{"10.0.0.9"}
	case 2:
		s.Reserved = nil
	case 3:
		s.Reserved = []v1alpha1.AddressRange{"10.0.0.4-10.0.0.7"}
	}
	w.must(w.api.update(pool))
	w.at(w.now()+time.Duration(a.B%3000)*time.Millisecond, "controller", func() { w.accept(pool.Name) })
}

// byHand does what takes addresses from their owners.
func (w *world) byHand(do func()) {
	before := w.owners()
	for _, n := range w.nodes {
		n.touched.Store(true)
		w.look(n)
		for _, h := range n.seen.Holdings {
			for _, r := range h.Ranges {
				see.Each(r, func(a netip.Addr) { before[a] = fmt.Sprint(n.name, n.seen.Session) })
			}
		}
	}
	do()
	after := w.owners()
	for a, o := range before {
		if after[a] != o {
			w.excuses[a] = w.now()
		}
	}
	for a, o := range after {
		if before[a] != o {
			w.excuses[a] = w.now()
		}
	}
}
