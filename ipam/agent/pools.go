// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

const (
	closedGone    = "the pool does not exist any more"
	closedAnother = "the pool was deleted and made anew; its new form opens when the node's last block of the old one is gone"
)

// poolState is what the store should have of a pool, given what it has (nil if nothing) and the object. ok is
// false if that is nothing: a pool whose first form is wrong never reaches the store.
//
// A bad edit freezes the pool in its last good form; an edit that the controller has not judged yet changes
// nothing until it has.
func poolState(obj *v1alpha1.IPPool, was *ipam.Pool, held bool, nodeLabels map[string]string) (is ipam.Pool, ok bool) {
	if was != nil && was.UID != string(obj.UID) && held {
		is = *was
		is.Closed = closedAnother
		return is, true
	}
	if was != nil && was.UID != string(obj.UID) {
		was = nil
	}
	if was != nil && was.Closed == "" && awaitsJudgement(obj) {
		return *was, true
	}
	is, err := obj.Parse()
	switch {
	case err != nil && was == nil:
		return ipam.Pool{}, false
	case err != nil:
		is = *was
		is.Closed = fmt.Sprintf("the last edit is wrong, what was leased before stays: %v", err)
		return is, true
	}
	if why := obj.Open(nodeLabels); why != "" {
		if was != nil {
			is = *was
		}
		is.Closed = why
	}
	return is, true
}

// awaitsJudgement: accepted, then edited, and not judged since.
func awaitsJudgement(obj *v1alpha1.IPPool) bool {
	c := meta.FindStatusCondition(obj.Status.Conditions, v1alpha1.ConditionAccepted)
	return obj.DeletionTimestamp == nil && c != nil && c.Status == metav1.ConditionTrue && c.ObservedGeneration != obj.Generation
}

// syncPools makes the store's pools those of the watch cache.
func (a *Agent) syncPools(ctx context.Context, nodeLabels map[string]string) error {
	var list v1alpha1.IPPoolList
	if err := a.cfg.Cache.List(ctx, &list); err != nil {
		return fmt.Errorf("list pools: %w", err)
	}
	stored, held, err := a.storedPools()
	if err != nil {
		return err
	}
	var errs []error
	there := map[string]bool{}
	for i := range list.Items {
		obj := &list.Items[i]
		there[obj.Name] = true
		a.users.put(obj.Name, int(obj.Status.Nodes))
		a.blocks.put(obj.Name, int(obj.Status.Blocks))
		var was *ipam.Pool
		if p, ok := stored[obj.Name]; ok {
			was = &p
		}
		is, ok := poolState(obj, was, held[obj.Name], nodeLabels)
		if ok {
			errs = append(errs, a.setPool(ctx, was, is))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(stored)) {
		was := stored[name]
		if there[name] {
			continue
		}
		if !held[name] && a.store.DropPool(name) == nil {
			a.log.InfoContext(ctx, "pool is gone", "pool", name)
			continue
		}
		is := was
		is.Closed = closedGone
		errs = append(errs, a.setPool(ctx, &was, is))
	}
	return errors.Join(errs...)
}

// setPool records is, or was frozen if it cannot replace it.
func (a *Agent) setPool(ctx context.Context, was *ipam.Pool, is ipam.Pool) error {
	if was != nil && reflect.DeepEqual(*was, is) {
		return nil
	}
	err := a.store.SetPool(is)
	if errors.Is(err, ipam.ErrInvalid) && was != nil {
		frozen := *was
		frozen.Closed = err.Error()
		is, err = frozen, a.store.SetPool(frozen)
	}
	if err != nil {
		return fmt.Errorf("record pool %s: %w", is.Name, err)
	}
	if was == nil || was.Closed != is.Closed {
		a.log.InfoContext(ctx, "pool", "pool", is.Name, "uid", is.UID, "open", is.Closed == "", "closed", is.Closed)
	}
	return nil
}

// storedPools are the store's pools by name, and those of which it holds blocks.
func (a *Agent) storedPools() (pools map[string]ipam.Pool, held map[string]bool, err error) {
	list, err := a.store.Pools()
	if err != nil {
		return nil, nil, err
	}
	holdings, err := a.store.Holdings()
	if err != nil {
		return nil, nil, err
	}
	pools, held = map[string]ipam.Pool{}, map[string]bool{}
	for _, p := range list {
		pools[p.Name] = p
	}
	for _, h := range holdings {
		held[h.Pool] = true
	}
	return pools, held, nil
}
