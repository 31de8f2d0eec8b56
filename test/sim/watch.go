// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/test/sim/apiserver"
)

// watches is the cache of one agent process: each kind is listed once, perhaps as it was some changes ago, and then
// follows the history behind the other kinds or before them, some of the time by a new list that leaves out what was
// between.
type watches struct {
	cache.Cache // as with line
	n           *node
	life        int

	mu    sync.Mutex // of what handlers and readers share
	kinds map[string]*watch
}

type watch struct {
	kind    string
	wants   func(client.Object) bool
	objects map[string]client.Object
	pos     int // in the history
	due     bool
	synced  chan struct{}
	to      []toolscache.ResourceEventHandler
}

func newWatches(n *node, life int) *watches {
	of := labels.SelectorFromSet(labels.Set{v1alpha1.NodeLabel(n.name): ""})
	w := &watches{n: n, life: life, kinds: map[string]*watch{}}
	for kind, wants := range map[string]func(client.Object) bool{
		kindPool:        func(client.Object) bool { return true },
		kindBlock:       func(o client.Object) bool { return of.Matches(labels.Set(o.GetLabels())) },
		kindReservation: func(o client.Object) bool { return of.Matches(labels.Set(o.GetLabels())) },
		kindNode:        func(o client.Object) bool { return o.GetName() == n.name },
	} {
		w.kinds[kind] = &watch{kind: kind, wants: wants, objects: map[string]client.Object{}, synced: make(chan struct{})}
	}
	return w
}

// Start lists and watches until ctx ends.
func (c *watches) Start(ctx context.Context) error {
	key := c.n.name + " watch"
	c.n.w.arrive(key, func(*rand.Rand) {
		if c.n.life == c.life {
			for _, kind := range slices.Sorted(maps.Keys(c.kinds)) {
				c.later(c.kinds[kind])
			}
		}
	})
	<-ctx.Done()
	return nil
}

// noticed has the watches come to a change that is theirs.
func (c *watches) noticed(ch change) {
	if k := c.kinds[ch.key.Kind]; k != nil && closed(k.synced) &&
		(ch.before != nil && k.wants(ch.before) || ch.after != nil && k.wants(ch.after)) {
		c.later(k)
	}
}

// later has k follow the history after a while.
func (c *watches) later(k *watch) {
	if k.due {
		return
	}
	k.due = true
	w := c.n.w
	key := fmt.Sprintf("%s watch %s", c.n.name, k.kind)
	r, _ := w.next(key)
	wait := latency(r, 0.02)
	if w.slowWatch(c.n) {
		wait += time.Duration(r.Int64N(int64(20 * time.Second)))
	}
	again, few, behind := r.IntN(10) == 0, r.IntN(3) > 0, 0
	if r.IntN(3) == 0 {
		behind = r.IntN(16)
	}
	w.at(w.now()+wait, key, func() {
		k.due = false
		switch {
		case c.n.life != c.life:
			return
		case w.cut(c.n):
			w.at(w.now()+time.Second, key, func() { c.later(k) })
			return
		case !closed(k.synced):
			w.log.add(w.now(), key+": list")
			k.pos = max(0, len(w.api.history)-behind)
			c.become(k, w.api.at(k.pos))
			close(k.synced)
		case again:
			w.log.add(w.now(), key+": list again")
			k.pos = len(w.api.history)
			c.become(k, w.api.is)
		default:
			c.follow(k, few)
		}
		if k.pos < len(w.api.history) {
			c.later(k)
		}
	})
}

// follow takes the changes up to the next one of its own, or all.
func (c *watches) follow(k *watch, one bool) {
	w := c.n.w
	for ; k.pos < len(w.api.history); k.pos++ {
		ch := w.api.history[k.pos]
		if ch.key.Kind != k.kind {
			continue
		}
		is := ch.after
		if is != nil && !k.wants(is) {
			is = nil
		}
		if is == nil && k.objects[ch.key.Name] == nil {
			continue
		}
		w.log.add(w.now(), fmt.Sprintf("%s watch %s: %s %v", c.n.name, k.kind, ch.key.Name, is != nil))
		c.set(k, ch.key.Name, is)
		if one {
			k.pos++
			return
		}
	}
}

// become makes k's objects those of a list.
func (c *watches) become(k *watch, all map[apiserver.Key]client.Object) {
	for _, name := range slices.Sorted(maps.Keys(k.objects)) {
		if o := all[apiserver.Key{Kind: k.kind, Name: name}]; o == nil || !k.wants(o) {
			c.set(k, name, nil)
		}
	}
	for _, key := range sortedKeys(all) {
		if key.Kind == k.kind && k.wants(all[key]) {
			c.set(k, key.Name, all[key])
		}
	}
}

// set changes one object and tells the handlers.
func (c *watches) set(k *watch, name string, is client.Object) {
	c.mu.Lock()
	was := k.objects[name]
	if is == nil {
		delete(k.objects, name)
	} else {
		k.objects[name] = stripped(is)
	}
	handlers := k.to
	c.mu.Unlock()
	for _, h := range handlers {
		switch {
		case was == nil && is != nil:
			h.OnAdd(is, false)
		case was != nil && is == nil:
			h.OnDelete(was)
		case was != nil:
			h.OnUpdate(was, is)
		}
	}
}

// stripped is o as an agent's cache keeps it, see package agent's Connect.
func stripped(o client.Object) client.Object {
	if b, ok := o.(*v1alpha1.IPBlock); ok {
		b = b.DeepCopy()
		b.Status = v1alpha1.IPBlockStatus{}
		return b
	}
	return o
}

// WaitForCacheSync waits for the first list of every kind.
func (c *watches) WaitForCacheSync(ctx context.Context) bool {
	for _, k := range c.kinds {
		select {
		case <-k.synced:
		case <-ctx.Done():
		}
	}
	c.n.w.pass(c.n.name + " watch synced")
	return ctx.Err() == nil
}

func (c *watches) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	into.SetName(key.Name)
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.kinds[apiserver.KeyOf(into).Kind].objects[key.Name]
	if o == nil {
		return apierrors.NewNotFound(resource, key.Name)
	}
	reflect.ValueOf(into).Elem().Set(reflect.ValueOf(o.DeepCopyObject()).Elem())
	return nil
}

func (c *watches) List(_ context.Context, into client.ObjectList, _ ...client.ListOption) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	kind := reflect.TypeOf(into).Elem().Name()
	k := c.kinds[kind[:len(kind)-len("List")]]
	var out []runtime.Object
	for _, name := range slices.Sorted(maps.Keys(k.objects)) {
		out = append(out, k.objects[name].DeepCopyObject())
	}
	return meta.SetList(into, out)
}

func (c *watches) GetInformer(_ context.Context, o client.Object, _ ...cache.InformerGetOption) (cache.Informer, error) {
	return informer{c: c, k: c.kinds[apiserver.KeyOf(o).Kind]}, nil
}

type informer struct {
	cache.Informer
	c *watches
	k *watch
}

func (i informer) AddEventHandler(h toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
	i.c.mu.Lock()
	defer i.c.mu.Unlock()
	i.k.to = append(i.k.to, h)
	return nil, nil // nobody asks whether a handler has been told everything
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
