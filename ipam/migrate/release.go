// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

const (
	// releaseEvery is how often holds are looked at, releaseGrace how long a holder must have been gone.
	releaseEvery, releaseGrace = time.Minute, 5 * time.Minute
)

// releaser ends the holds of pods that are gone.
//
// Gone means that the API server knows no pod of that UID that runs, at two looks with the grace between, and that the
// pod's node is ready at both: its kubelet talks to the API server, so it has learnt that the pod is not to run. What
// runs on a node that is away or that does not exist any more is not known, so those holds stay.
type releaser struct {
	api  client.Client // reads come from the cache, which has all blocks
	live client.Reader // and these do not
	log  logr.Logger
	now  func() time.Time
	// since is when a holder was first seen gone.
	since map[holder]time.Time
}

type holder struct{ uid, node string }

// Setup adds to mgr what ends holds. Its cache must have all IPBlocks.
//
// +kubebuilder:rbac:groups=ipam.railyard.dev,resources=ipblocks,verbs=get;list;watch;update
// +kubebuilder:rbac:groups="",resources=pods,verbs=list
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get
func Setup(mgr ctrl.Manager) error {
	r := &releaser{api: mgr.GetClient(), live: mgr.GetAPIReader(), log: mgr.GetLogger().WithName("holds"), now: time.Now}
	return mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		tick := time.NewTicker(releaseEvery)
		defer tick.Stop()
		for {
			if err := r.pass(ctx); err != nil && ctx.Err() == nil {
				r.log.Error(err, "try again later", "doing", "end the holds of pods that are gone")
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	}))
}

// pass looks once.
func (r *releaser) pass(ctx context.Context) error {
	blocks, err := heldBlocks(ctx, r.api)
	if err != nil {
		return err
	}
	holders := map[holder]bool{}
	for i := range blocks {
		for _, s := range blocks[i].Spec.Shares {
			if h, ok := holderOf(s); ok {
				holders[h] = true
			}
		}
	}
	if len(holders) == 0 {
		r.since = nil
		return nil
	}
	// After the blocks: a hold is made for a pod that exists.
	running, err := runningPods(ctx, r.live)
	if err != nil {
		return err
	}
	since, over := map[holder]time.Time{}, map[holder]bool{}
	var errs []error
	for h := range holders {
		if running[h.uid] {
			continue
		}
		ready, err := r.ready(ctx, h.node)
		if errs = append(errs, err); !ready {
			continue
		}
		first, ok := r.since[h]
		if !ok {
			first = r.now()
		}
		since[h] = first
		over[h] = ok && r.now().Sub(first) >= releaseGrace
	}
	r.since = since
	for i := range blocks {
		n, err := dropHolds(ctx, r.api, &blocks[i], func(s v1alpha1.Share) bool {
			h, ok := holderOf(s)
			return ok && over[h]
		})
		if errs = append(errs, err); n > 0 {
			r.log.Info("holds ended, their pods are gone", "block", blocks[i].Name, "holds", n)
		}
	}
	return errors.Join(errs...)
}

// holderOf is the holder of a hold that can end by itself.
func holderOf(s v1alpha1.Share) (holder, bool) {
	node, ok := ipam.Share{Node: s.Node}.Held()
	return holder{s.NodeUID, node}, ok && s.NodeUID != ipam.HoldUnknown && node != ""
}

func (r *releaser) ready(ctx context.Context, name string) (bool, error) {
	var n corev1.Node
	if err := r.live.Get(ctx, client.ObjectKey{Name: name}, &n); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	}), nil
}

// runningPods are the UIDs of the pods that have not finished.
func runningPods(ctx context.Context, live client.Reader) (map[string]bool, error) {
	out := map[string]bool{}
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	running := fields.AndSelectors(
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)),
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed)),
	)
	for {
		err := live.List(ctx, list, client.MatchingFieldsSelector{Selector: running}, client.Limit(page), client.Continue(list.Continue))
		if err != nil {
			return nil, fmt.Errorf("list the running pods: %w", err)
		}
		for i := range list.Items {
			out[string(list.Items[i].UID)] = true
		}
		if list.Continue == "" {
			return out, nil
		}
	}
}

// heldBlocks are the blocks with a hold.
func heldBlocks(ctx context.Context, api client.Reader) ([]v1alpha1.IPBlock, error) {
	var list v1alpha1.IPBlockList
	if err := api.List(ctx, &list); err != nil {
		return nil, fmt.Errorf("list IPBlocks: %w", err)
	}
	return slices.DeleteFunc(list.Items, func(b v1alpha1.IPBlock) bool {
		return !slices.ContainsFunc(b.Spec.Shares, func(s v1alpha1.Share) bool {
			_, held := ipam.Share{Node: s.Node}.Held()
			return held
		})
	}), nil
}

// dropHolds takes the shares that end says out of the block, over what was read. A block without shares is swept by the
// controller of pools. A conflict is the next pass's.
func dropHolds(ctx context.Context, api client.Client, obj *v1alpha1.IPBlock, end func(v1alpha1.Share) bool) (int, error) {
	b, err := obj.Block()
	if err != nil {
		return 0, err
	}
	was := len(b.Shares)
	kept := b.Shares[:0]
	for i, s := range obj.Spec.Shares {
		if !end(s) {
			kept = append(kept, b.Shares[i])
		}
	}
	if b.Shares = kept; len(kept) == was {
		return 0, nil
	}
	next := obj.DeepCopy()
	next.SetShares(b)
	err = api.Update(ctx, next)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("end holds in IPBlock %s: %w", obj.Name, err)
	}
	return was - len(kept), nil
}

// Forget ends the holds whose holder nobody knows, which a person has looked after, and says how many.
func (m *Migration) Forget(ctx context.Context) (int, error) {
	blocks, err := heldBlocks(ctx, m.api)
	if err != nil {
		return 0, err
	}
	sum := 0
	var errs []error
	for i := range blocks {
		n, err := dropHolds(ctx, m.api, &blocks[i], func(s v1alpha1.Share) bool {
			_, held := ipam.Share{Node: s.Node}.Held()
			return held && s.NodeUID == ipam.HoldUnknown
		})
		sum, errs = sum+n, append(errs, err)
	}
	return sum, errors.Join(errs...)
}
