// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

// node is what decides whether the owner of a share still is one.
type node struct {
	uid          types.UID
	made         time.Time
	outOfService bool
}

func nodeOf(o *corev1.Node) node {
	return node{
		uid: o.UID, made: o.CreationTimestamp.Time,
		outOfService: slices.ContainsFunc(o.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService }),
	}
}

// gone says why the owner of a share is a node no more, by the nodes that there are; empty: it is one, or nobody knows. A cluster
// without any node has lost its memory and not its nodes.
func gone(s ipam.Share, nodes map[string]node) string {
	n, there := nodes[s.Node]
	_, held := s.Held()
	switch {
	case len(nodes) == 0 || s.NodeUID == "" || held: // for a pod, and not owned by a node
		return ""
	case !there:
		return "has no Node object"
	case string(n.uid) != s.NodeUID:
		return "is another node of that name by now"
	case n.outOfService:
		return "is out of service"
	}
	return ""
}

// owner is whose shares are judged alike: one life of a node's store.
type owner struct{ node, uid, session string }

// quarantined is what a lost node owns in a pool.
type quarantined struct {
	owner
	why    string
	blocks []string
	// until is when it ends; pods are those that keep it from that.
	until time.Time
	pods  int
}

// quarantine gives back what lost nodes own in the pool, once they have been lost for Options.Quarantine at every look of this
// controller and no pod is bound to them. It says what is held until then, and when to look again.
func (r *reconciler) quarantine(ctx context.Context, p *v1alpha1.IPPool, blocks []v1alpha1.IPBlock) ([]quarantined, time.Duration, error) {
	nodes, err := r.nodes(ctx)
	if err != nil {
		return nil, 0, err
	}
	now, next := time.Now(), time.Duration(0)
	var left []quarantined
	for _, h := range r.lostIn(p, blocks, nodes, now) {
		wait := h.until.Sub(now)
		if wait <= 0 {
			done, err := r.release(ctx, &h)
			if err != nil {
				return left, 0, err
			}
			if done {
				continue
			}
			wait = 10 * r.Interval
		}
		if next == 0 || wait < next {
			next = wait
		}
		left = append(left, h)
	}
	return left, next, nil
}

// nodes are those of the cache.
func (r *reconciler) nodes(ctx context.Context) (map[string]node, error) {
	var l corev1.NodeList
	if err := r.api.List(ctx, &l, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	out := map[string]node{}
	for i := range l.Items {
		out[l.Items[i].Name] = nodeOf(&l.Items[i])
	}
	return out, nil
}

// lostIn are the lost owners of the pool's blocks, by name. Since when they are lost is remembered from look to look, on the clock
// that does not jump; a controller that begins to lead begins anew.
func (r *reconciler) lostIn(p *v1alpha1.IPPool, blocks []v1alpha1.IPBlock, nodes map[string]node, now time.Time) []quarantined {
	r.forget(blocks)
	by := map[owner]*quarantined{}
	for _, obj := range ofPool(blocks, p) {
		b, err := obj.Block()
		if err != nil {
			continue // whose it is cannot be read
		}
		for _, s := range b.Shares {
			why, o := gone(s, nodes), owner{s.Node, s.NodeUID, s.Session}
			if why == "" {
				delete(r.lost, o)
				continue
			}
			if _, known := r.lost[o]; !known {
				r.lost[o] = now
			}
			if by[o] == nil {
				by[o] = &quarantined{owner: o, why: why, until: r.lost[o].Add(r.Quarantine)}
			}
			by[o].blocks = append(by[o].blocks, b.Name)
		}
	}
	var out []quarantined
	for _, h := range by {
		out = append(out, *h)
	}
	slices.SortFunc(out, func(a, b quarantined) int {
		return cmp.Or(strings.Compare(a.node, b.node), strings.Compare(a.session, b.session))
	})
	return out
}

// forget drops the lost owners that own nothing any more, in any pool.
func (r *reconciler) forget(all []v1alpha1.IPBlock) {
	if len(r.lost) == 0 {
		return
	}
	owners := map[owner]bool{}
	for i := range all {
		for _, s := range all[i].Spec.Shares {
			owners[owner{s.Node, s.NodeUID, s.Session}] = true
		}
	}
	maps.DeleteFunc(r.lost, func(o owner, _ time.Time) bool { return !owners[o] })
}

// release gives back what h holds, unless the API server, and not the cache, knows the node after all, or pods that are bound to it.
func (r *reconciler) release(ctx context.Context, h *quarantined) (bool, error) {
	lost, pods, err := r.lostForGood(ctx, h.node, h.uid)
	if h.pods = pods; err != nil || !lost || pods > 0 {
		return false, err
	}
	for _, block := range h.blocks {
		// A node that is back by now has written its new UID, or session, and keeps its share.
		if err := r.claims.Evict(ctx, block, ipam.Owner{Node: h.node, NodeUID: h.uid, Session: h.session}); err != nil {
			return false, fmt.Errorf("give back what the lost node %s owns: %w", h.node, err)
		}
		r.log.Info("the addresses of a lost node are free again", "node", h.node, "uid", h.uid, "why", h.why, "block", block)
	}
	return true, nil
}

// lostForGood says whether the API server, and not the cache, has no such node either, and how many pods are bound to it.
func (r *reconciler) lostForGood(ctx context.Context, name, uid string) (lost bool, bound int, err error) {
	var o corev1.Node
	err = r.live.Get(ctx, client.ObjectKey{Name: name}, &o)
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return false, 0, fmt.Errorf("look for node %s: %w", name, err)
	case gone(ipam.Share{Node: name, NodeUID: uid}, map[string]node{name: nodeOf(&o)}) == "":
		return false, 0, nil
	}
	var pods metav1.PartialObjectMetadataList
	pods.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	if err := r.live.List(ctx, &pods, client.MatchingFieldsSelector{Selector: unfinishedOn(name)}); err != nil {
		return false, 0, fmt.Errorf("list the pods of node %s: %w", name, err)
	}
	for _, p := range pods.Items {
		if string(o.UID) == uid || o.UID == "" || p.CreationTimestamp.Before(&o.CreationTimestamp) { // or it is one of the node of that name by now
			bound++
		}
	}
	return true, bound, nil
}

// unfinishedOn selects the pods of a node that may have an address.
func unfinishedOn(node string) fields.Selector {
	return fields.AndSelectors(
		fields.OneTermEqualSelector("spec.nodeName", node),
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)),
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed)),
	)
}

// sayLost sets the condition; a pool that never lost a node has none.
func sayLost(s *v1alpha1.IPPoolStatus, generation int64, all []quarantined) {
	c := metav1.Condition{Type: v1alpha1.ConditionNodesLost, ObservedGeneration: generation}
	if len(all) == 0 {
		if meta.FindStatusCondition(s.Conditions, c.Type) == nil {
			return
		}
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, v1alpha1.ReasonNone, "every owner of an address is a node"
	} else {
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonQuarantine
		var lines []string
		for _, h := range all {
			line := fmt.Sprintf("node %s %s; its addresses (%s) are held until %s", h.node, h.why, some(h.blocks), h.until.UTC().Format(time.RFC3339))
			if h.pods > 0 {
				line = fmt.Sprintf("node %s %s, but %d pods are bound to it: delete them if they are dead; its addresses (%s) are held until then", h.node, h.why, h.pods, some(h.blocks))
			}
			lines = append(lines, line)
		}
		c.Message = clip(strings.Join(lines, "\n"))
	}
	meta.SetStatusCondition(&s.Conditions, c)
}

// nodeEvents passes on what decides about a node, and no heartbeat.
func nodeEvents() predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, ok := e.ObjectOld.(*corev1.Node)
			after, is := e.ObjectNew.(*corev1.Node)
			return ok && is && nodeOf(before) != nodeOf(after)
		},
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// CacheByObject is how the manager's cache should treat nodes (cache.Options.ByObject): of each it needs little.
func CacheByObject() map[client.Object]cache.ByObject {
	return map[client.Object]cache.ByObject{&corev1.Node{}: {Transform: func(o any) (any, error) {
		n, ok := o.(*corev1.Node)
		if !ok {
			return o, nil
		}
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion, CreationTimestamp: n.CreationTimestamp},
			Spec:       corev1.NodeSpec{Taints: n.Spec.Taints},
		}, nil
	}}}
}

// ofNode are the pools in which the node may own addresses: all, since they are few and a node's coming and going is rare.
func (r *reconciler) ofNode(ctx context.Context, _ client.Object) []reconcile.Request {
	var l v1alpha1.IPPoolList
	if err := r.api.List(ctx, &l, client.UnsafeDisableDeepCopy); err != nil {
		return nil // the cache has stopped, and everything with it
	}
	var out []reconcile.Request
	for i := range l.Items {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&l.Items[i])})
	}
	return out
}
