// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

// patience spreads the attempts of one call over about 5 s. It has no Cap: reaching a Cap ends a wait.Backoff.
var patience = wait.Backoff{Duration: 10 * time.Millisecond, Factor: 1.6, Jitter: 0.5, Steps: 12}

// view is a block as read at a time. A dying one has been deleted and still exists: nobody should join it.
type view struct {
	ipam.Block
	dying bool
	now   time.Time
}

// decision says what a block should be; the zero Block is no block. Cur is nil where there is none. An error ends
// the call, and is believed only about a cur that is not a guess.
type decision func(cur *view) (ipam.Block, error)

// source says where the first look at a block comes from. What is not live is good enough to write on, as the
// write names the version; it is never good enough to end on.
type source struct {
	absent bool              // guess that there is none
	object *v1alpha1.IPBlock // this one, from a list
	live   bool              // ask the API server
}

// settle makes the block what decide says and returns what the API server acknowledged. The zero Block is the
// answer where decide wants none.
func (c *Claimer) settle(ctx context.Context, name string, from source, decide decision) (ipam.Block, error) {
	var out ipam.Block
	var last error
	err := wait.ExponentialBackoffWithContext(ctx, patience, func(ctx context.Context) (bool, error) {
		if !from.live && c.live != nil || from.absent || from.object != nil { // no need to wait if it proves wrong
			guess, v, err := c.step(ctx, name, from, decide)
			if v == acknowledged {
				out = guess
				return true, nil
			}
			last, from = err, source{live: true}
		}
		b, v, err := c.step(ctx, name, source{live: true}, decide)
		out, last = b, err
		if v == again {
			return false, permanent(err)
		}
		return true, err
	})
	switch {
	case err == nil:
		return out, nil
	case wait.Interrupted(err) && last != nil:
		err = errors.Join(last, ctx.Err())
	}
	return ipam.Block{}, typed(err)
}

// verdict is how a step ended.
type verdict int

const (
	again        verdict = iota // look again
	settled                     // nothing to write, or an error that no other look at the same object changes
	acknowledged                // the API server did what was decided
)

// step looks, decides and writes once.
func (c *Claimer) step(ctx context.Context, name string, from source, decide decision) (ipam.Block, verdict, error) {
	obj, exists, err := c.look(ctx, name, from)
	if err != nil {
		return ipam.Block{}, again, fmt.Errorf("read block %s: %w", name, err)
	}
	var cur *view
	if exists {
		b, err := obj.Block()
		if err != nil {
			return ipam.Block{}, settled, &unreadableError{err}
		}
		cur = &view{b, obj.DeletionTimestamp != nil, c.now()}
	}
	want, err := decide(cur)
	if err != nil {
		return ipam.Block{}, settled, err
	}
	b, v, err := c.write(ctx, obj, want)
	if err != nil {
		err = fmt.Errorf("write block %s: %w", name, err)
	}
	return b, v, err
}

// permanent is err if repeating cannot help.
func permanent(err error) error {
	if err != nil && outcomeOf(err) == refused {
		return err
	}
	return nil
}

// look reads the block, and says whether there is one.
func (c *Claimer) look(ctx context.Context, name string, from source) (*v1alpha1.IPBlock, bool, error) {
	switch {
	case from.absent:
		return nil, false, nil
	case from.object != nil:
		return from.object.DeepCopy(), true, nil
	}
	var reader client.Reader = c.api
	if from.live && c.live != nil {
		reader = c.live
	}
	obj := &v1alpha1.IPBlock{}
	err := reader.Get(ctx, client.ObjectKey{Name: name}, obj)
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	return obj, true, err
}

// write makes obj what want says by one request at most. Obj is nil where there is no block, the zero want is none.
func (c *Claimer) write(ctx context.Context, obj *v1alpha1.IPBlock, want ipam.Block) (ipam.Block, verdict, error) {
	none := want.Name == ""
	switch {
	case obj == nil && none:
		return ipam.Block{}, settled, nil
	case obj == nil:
		obj = v1alpha1.FromBlock(want)
		return answer(obj, c.api.Create(ctx, obj))
	case none && len(obj.Finalizers) == 0:
		err := c.api.Delete(ctx, obj, client.Preconditions{UID: &obj.UID, ResourceVersion: &obj.ResourceVersion})
		if err != nil && !apierrors.IsNotFound(err) {
			return ipam.Block{}, again, err
		}
		return ipam.Block{}, acknowledged, nil
	case none: // somebody's finalizer keeps the object: what counts is that nobody has a share
		want.Pool = obj.Spec.Pool
	}
	next := obj.DeepCopy()
	next.SetShares(want)
	if equality.Semantic.DeepEqual(obj.Spec, next.Spec) && equality.Semantic.DeepEqual(obj.Labels, next.Labels) {
		b, err := obj.Block()
		return b, settled, err
	}
	want.Wants = standing(want.Wants, c.now()) // whoever writes sweeps
	next.SetShares(want)
	return answer(next, c.api.Update(ctx, next))
}

// answer is what the API server says it stored.
func answer(obj *v1alpha1.IPBlock, err error) (ipam.Block, verdict, error) {
	if err != nil {
		return ipam.Block{}, again, err
	}
	b, err := obj.Block()
	if err != nil {
		return ipam.Block{}, settled, &unreadableError{err}
	}
	return b, acknowledged, nil
}
