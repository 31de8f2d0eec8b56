// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/test/sim/apiserver"
)

// Backend is an API server as its requests see it: package apiserver's, or a real one. It is called by one goroutine.
type Backend interface {
	Get(client.Object) error
	List(client.ObjectList, labels.Selector) error
	Create(client.Object) error
	Update(client.Object) error
	UpdateStatus(client.Object) error
	Delete(client.Object, *metav1.Preconditions) error
}

// change is one object before and after a write; nil is none.
type change struct {
	key           apiserver.Key
	before, after client.Object
}

// api is the API server with the history that watches are made of.
type api struct {
	Backend
	is      map[apiserver.Key]client.Object
	history []change
	changed func(change)
}

func newAPI(b Backend) *api {
	return &api{Backend: b, is: map[apiserver.Key]client.Object{}, changed: func(change) {}}
}

// write does a write and adds to the history what came of it.
func (a *api) write(o client.Object, do func(client.Object) error) error {
	err := do(o)
	if err == nil {
		a.look(o)
	}
	return err
}

// look adds to the history how the object is now.
func (a *api) look(o client.Object) {
	c := change{key: apiserver.KeyOf(o)}
	c.before = a.is[c.key]
	now := o.DeepCopyObject().(client.Object)
	if a.Get(now) == nil {
		c.after = now
	}
	switch {
	case c.before == nil && c.after == nil, c.before != nil && c.after != nil && c.before.GetResourceVersion() == c.after.GetResourceVersion():
		return
	case c.after == nil:
		delete(a.is, c.key)
	default:
		a.is[c.key] = c.after
	}
	a.history = append(a.history, c)
	a.changed(c)
}

func (a *api) create(o client.Object) error { return a.write(o, a.Create) }
func (a *api) update(o client.Object) error { return a.write(o, a.Update) }
func (a *api) remove(o client.Object, pre *metav1.Preconditions) error {
	return a.write(o, func(o client.Object) error { return a.Delete(o, pre) })
}

// at is what the server held after the first n changes.
func (a *api) at(n int) map[apiserver.Key]client.Object {
	if n >= len(a.history) {
		return a.is
	}
	was := map[apiserver.Key]client.Object{}
	for _, c := range a.history[:n] {
		if c.after == nil {
			delete(was, c.key)
		} else {
			was[c.key] = c.after
		}
	}
	return was
}

// restore puts the blocks back to those of a backup, if the server can.
func (a *api) restore(b apiserver.Backup) bool {
	s, ok := a.Backend.(*apiserver.Server)
	if !ok {
		return false
	}
	s.Restore(b, kindBlock)
	all := map[apiserver.Key]client.Object{}
	for _, m := range []map[apiserver.Key]client.Object{a.is, b} {
		for k, o := range m {
			if k.Kind == kindBlock {
				all[k] = o
			}
		}
	}
	for _, k := range sortedKeys(all) {
		a.look(all[k])
	}
	return true
}

func sortedKeys(m map[apiserver.Key]client.Object) []apiserver.Key {
	return slices.SortedFunc(maps.Keys(m), func(a, b apiserver.Key) int {
		switch {
		case a.Kind+" "+a.Name < b.Kind+" "+b.Name:
			return -1
		case a == b:
			return 0
		}
		return 1
	})
}

const (
	kindBlock = "IPBlock"
	kindPool  = "IPPool"
	kindNode  = "Node"

	kindPod = "Pod"

	kindReservation = "IPReservation"
)

// blocks are the block objects, by name.
func (a *api) blocks() []*v1alpha1.IPBlock {
	var out []*v1alpha1.IPBlock
	for _, k := range sortedKeys(a.is) {
		if b, ok := a.is[k].(*v1alpha1.IPBlock); ok {
			out = append(out, b)
		}
	}
	return out
}

// reservations are the reservation objects, by name.
func (a *api) reservations() []*v1alpha1.IPReservation {
	var out []*v1alpha1.IPReservation
	for _, k := range sortedKeys(a.is) {
		if r, ok := a.is[k].(*v1alpha1.IPReservation); ok {
			out = append(out, r)
		}
	}
	return out
}

func nodeObject(name string) *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: kindNode}}
	o.Name = name
	return o
}
