// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/test/sim/apiserver"
)

var resource = schema.GroupResource{Group: "ipam.railyard.dev", Resource: "ipblocks"}

// faults are how often, of all requests of a cluster, one fails in some way.
type faults struct {
	// lost: it never arrives; unanswered: it is done, and its answer is lost; late: it fails, and is done some time later;
	// twice: it is done twice, and either answer arrives; conflict: a write meets one that it does not deserve;
	// slow: it takes seconds.
	lost, unanswered, late, twice, conflict, slow float64
}

// line is the client of one agent process: between it and the server requests and answers take their time, and
// are lost.
type line struct {
	client.Client // what a step of the protocol should come to use and is not here panics, and is to be made here
	n             *node
	life          int
}

// request is one on its way.
type request struct {
	what  string
	write bool
	do    func() (client.Object, client.ObjectList, error)
	reply chan reply
}

type reply struct {
	o   client.Object
	l   client.ObjectList
	err error
}

func errDead() error {
	return apierrors.NewForbidden(resource, "x", errors.New("the process is dead"))
}

// send has the request done and waits for an answer, or for the end of ctx or of the process.
func (c line) send(ctx context.Context, q request) reply {
	if c.n.life != c.life {
		return reply{err: errDead()}
	}
	q.reply = make(chan reply, 1)
	key := fmt.Sprintf("%s %s %s", c.n.name, c.n.w.actor(q.what).name, q.what)
	if !c.n.w.arrive(key, func(r *rand.Rand) { c.route(key, q, r) }) {
		return reply{err: errDead()}
	}
	var got reply
	select {
	case got = <-q.reply:
	case <-ctx.Done():
		c.n.w.pass(key + " given up")
		got.err = ctx.Err()
	}
	if c.n.life != c.life {
		return reply{err: errDead()}
	}
	return got
}

// route decides what becomes of a request.
func (c line) route(key string, q request, r *rand.Rand) {
	w, n := c.n.w, c.n
	now := w.now()
	f := w.faultsNow(n)
	there, back := latency(r, f.slow), latency(r, f.slow)
	p := func(rate float64) bool { return r.Float64() < rate }
	lost, unanswered, late, twice, refused := p(f.lost), p(f.unanswered), p(f.late), p(f.twice), q.write && p(f.conflict)
	failure, second := failures[r.IntN(len(failures))], r.IntN(2) == 0
	delay := time.Duration(r.Int64N(int64(5 * time.Second)))
	answer := func(what string, in time.Duration, a reply) {
		w.at(w.now()+in, key, func() {
			w.log.add(w.now(), fmt.Sprintf("%s: %s", key, what))
			q.reply <- a
		})
	}
	switch {
	case w.cut(n):
		answer("cut off", there*20, reply{err: errors.New("dial tcp: connect: connection refused")})
	case lost:
		answer("lost", there+back, reply{err: failure()})
	case refused:
		answer("spurious conflict", there+back, reply{err: apierrors.NewConflict(resource, "x", errors.New("the object has been modified"))})
	case late:
		answer("no answer in time", there+back, reply{err: failure()})
		w.at(now+there+back+delay, key, func() { c.arrive(key+" (late)", q, false) })
	default:
		w.at(now+there, key, func() {
			a, ok := c.arrive(key, q, true)
			if twice {
				if b, _ := c.arrive(key+" (again)", q, false); second {
					a = b
				}
			}
			switch {
			case !ok: // the process died as it was sending
			case unanswered || w.cut(n):
				answer("answer lost", back, reply{err: failure()})
			default:
				answer("answered", back, a)
			}
		})
	}
}

// arrive has the server do the request. An agent that is to die may die before or after.
func (c line) arrive(key string, q request, mortal bool) (reply, bool) {
	w := c.n.w
	if mortal && c.n.life == c.life && c.n.burn(key+" (before)") {
		return reply{}, false
	}
	var a reply
	a.o, a.l, a.err = q.do()
	w.log.add(w.now(), fmt.Sprintf("%s → %s", key, outcome(a)))
	if mortal && c.n.life == c.life && c.n.burn(key+" (after)") {
		return reply{}, false
	}
	return a, true
}

func outcome(a reply) string {
	switch {
	case a.err != nil:
		return string(apierrors.ReasonForError(a.err))
	case a.o != nil:
		return "ok " + summary(a.o)
	}
	return "ok"
}

// failures are the ways in which a client learns that it does not know.
var failures = []func() error{
	func() error { return errors.New("read tcp: connection reset by peer") },
	func() error { return errors.New("unexpected EOF") },
	func() error { return apierrors.NewServerTimeout(resource, "write", 1) },
	func() error { return apierrors.NewInternalError(errors.New("etcdserver: leader changed")) },
	func() error { return apierrors.NewServiceUnavailable("apiserver is shutting down") },
	func() error { return apierrors.NewTooManyRequests("priority and fairness", 1) },
}

func latency(r *rand.Rand, slow float64) time.Duration {
	d := time.Duration(r.Int64N(int64(15*time.Millisecond))) + time.Millisecond
	if r.Float64() < slow {
		d *= 200
	}
	return d
}

// object is a request about one object; what the server answers is copied into it.
func (c line) object(ctx context.Context, verb string, o client.Object, do func(*api, client.Object) error) error {
	sent := o.DeepCopyObject().(client.Object)
	k := apiserver.KeyOf(o)
	a := c.send(ctx, request{
		what: fmt.Sprintf("%s %s %s", verb, k.Kind, k.Name), write: verb != "get",
		do: func() (client.Object, client.ObjectList, error) {
			x := sent.DeepCopyObject().(client.Object)
			err := do(c.n.w.api, x)
			return x, nil, err
		},
	})
	if a.err == nil && verb != "delete" {
		reflect.ValueOf(o).Elem().Set(reflect.ValueOf(a.o).Elem())
	}
	return a.err
}

func (c line) Get(ctx context.Context, k client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	o.SetName(k.Name)
	return c.object(ctx, "get", o, func(a *api, x client.Object) error { return a.Get(x) })
}

func (c line) Create(ctx context.Context, o client.Object, _ ...client.CreateOption) error {
	return c.object(ctx, "create", o, (*api).create)
}

func (c line) Update(ctx context.Context, o client.Object, _ ...client.UpdateOption) error {
	return c.object(ctx, "update", o, (*api).update)
}

func (c line) Delete(ctx context.Context, o client.Object, opts ...client.DeleteOption) error {
	var d client.DeleteOptions
	d.ApplyOptions(opts)
	return c.object(ctx, "delete", o, func(a *api, x client.Object) error { return a.remove(x, d.Preconditions) })
}

func (c line) List(ctx context.Context, l client.ObjectList, opts ...client.ListOption) error {
	var o client.ListOptions
	o.ApplyOptions(opts)
	sel := o.LabelSelector
	if sel == nil {
		sel = labels.Everything()
	}
	a := c.send(ctx, request{what: fmt.Sprintf("list %T %s", l, sel), do: func() (client.Object, client.ObjectList, error) {
		x := l.DeepCopyObject().(client.ObjectList)
		err := c.n.w.api.List(x, sel)
		return nil, x, err
	}})
	if a.err == nil {
		reflect.ValueOf(l).Elem().Set(reflect.ValueOf(a.l).Elem())
	}
	return a.err
}

func (c line) Status() client.SubResourceWriter { return statusLine{c: c} }

type statusLine struct {
	client.SubResourceWriter
	c line
}

func (s statusLine) Update(ctx context.Context, o client.Object, _ ...client.SubResourceUpdateOption) error {
	return s.c.object(ctx, "update-status", o, func(a *api, x client.Object) error { return a.write(x, a.UpdateStatus) })
}

// summary is what a line of the trace says about an object.
func summary(o client.Object) string {
	if b, ok := asBlock(o); ok {
		var who []string
		for _, s := range b.Spec.Shares {
			who = append(who, fmt.Sprint(s.Node, s.Ranges))
		}
		return fmt.Sprintf("%s@%s %v", b.Name, b.ResourceVersion, who)
	}
	return fmt.Sprintf("%s@%s", o.GetName(), o.GetResourceVersion())
}
