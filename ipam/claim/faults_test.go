// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

// faults makes a share of all requests fail: before they are done, after, or, the nastiest, before they are done
// some time later.
type faults struct {
	rate float64
	mu   sync.Mutex
	rand *rand.Rand
	hits atomic.Int64
	late []func() // requests that failed and are still under way
}

func newFaults(rate float64, seed uint64) *faults {
	return &faults{rate: rate, rand: rand.New(rand.NewPCG(seed, seed))}
}

// strike chooses what becomes of a request and its error; a nil error is no fault. Then some late one arrives.
func (f *faults) strike() (done, late bool, err error) {
	arrived := func() {}
	defer func() { arrived() }()
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.late); n > 0 && f.rand.IntN(3) == 0 {
		i := f.rand.IntN(n)
		arrived = f.late[i]
		f.late = slices.Delete(f.late, i, i+1)
	}
	if f.rand.Float64() >= f.rate {
		return false, false, nil
	}
	f.hits.Add(1)
	gr := schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "ipblocks"}
	n := f.rand.IntN(3)
	err = []error{
		apierrors.NewInternalError(errors.New("injected")),
		apierrors.NewServerTimeout(gr, "write", 1),
		apierrors.NewConflict(gr, "x", errors.New("injected")), // a lying conflict: the write may be done
		apierrors.NewServiceUnavailable("injected"),
		errors.New("read tcp: connection reset by peer (injected)"),
	}[f.rand.IntN(5)]
	return n == 0, n == 1, err
}

// flush lets everything arrive that is under way.
func (f *faults) flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, do := range f.late {
		do()
	}
	f.late = nil
}

func (f *faults) read(call func() error) error {
	_, _, err := f.strike()
	if err == nil {
		return call()
	}
	return err
}

func (f *faults) write(o client.Object, call func(context.Context, client.Object) error) error {
	done, late, err := f.strike()
	switch {
	case err == nil:
		return call(context.Background(), o)
	case done:
		_ = call(context.Background(), o)
	case late:
		o = o.DeepCopyObject().(client.Object)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.late = append(f.late, func() { _ = call(context.Background(), o) })
	}
	return err
}

func (f *faults) client() client.Client {
	return interceptor.NewClient(api, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, k client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			return f.read(func() error { return c.Get(ctx, k, o, opts...) })
		},
		List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
			return f.read(func() error { return c.List(ctx, l, opts...) })
		},
		Create: func(_ context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			return f.write(o, func(ctx context.Context, o client.Object) error { return c.Create(ctx, o, opts...) })
		},
		Update: func(_ context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			return f.write(o, func(ctx context.Context, o client.Object) error { return c.Update(ctx, o, opts...) })
		},
		Delete: func(_ context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return f.write(o, func(ctx context.Context, o client.Object) error { return c.Delete(ctx, o, opts...) })
		},
	})
}

// once makes the next write fail when armed, after or before it was done.
type once struct {
	fault error
	after bool
	armed atomic.Bool
}

func (f *once) do(call func() error) error {
	if !f.armed.CompareAndSwap(true, false) {
		return call()
	}
	if f.after {
		if err := call(); err != nil {
			return err
		}
	}
	return f.fault
}

func (f *once) client() client.Client {
	return interceptor.NewClient(api, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			return f.do(func() error { return c.Create(ctx, o, opts...) })
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			return f.do(func() error { return c.Update(ctx, o, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return f.do(func() error { return c.Delete(ctx, o, opts...) })
		},
	})
}
