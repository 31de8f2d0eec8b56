// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// Name of the controller in logs and metrics.
const Name = "railyard-gate"

const indexNode = "spec.nodeName"

// Options say whose agents count.
type Options struct {
	Mode      Mode
	Namespace string            // of the agents' pods
	Labels    map[string]string // of these
}

// Setup adds the controller to mgr, with a cache of its own: agents' pods, and of nodes what matters here.
func Setup(ctx context.Context, mgr ctrl.Manager, o Options) error {
	if o.Mode == Off {
		return nil
	}
	c, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}:  {Namespaces: map[string]cache.Config{o.Namespace: {LabelSelector: labels.SelectorFromSet(o.Labels)}}, Transform: slimPod},
			&corev1.Node{}: {Transform: slimNode},
		},
	})
	if err != nil {
		return err
	}
	onNode := func(obj client.Object) []string { return []string{obj.(*corev1.Pod).Spec.NodeName} }
	if err := c.IndexField(ctx, &corev1.Pod{}, indexNode, onNode); err != nil {
		return err
	}
	if err := mgr.Add(c); err != nil {
		return err
	}
	r := &reconciler{Options: o, nodes: mgr.GetClient(), cache: c}
	k, err := controller.New(Name, mgr, controller.Options{Reconciler: r})
	if err != nil {
		return err
	}
	itself := handler.TypedEnqueueRequestsFromMapFunc(func(_ context.Context, n *corev1.Node) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: n.Name}}}
	})
	its := handler.TypedEnqueueRequestsFromMapFunc(func(_ context.Context, p *corev1.Pod) []reconcile.Request {
		if p.Spec.NodeName == "" {
			return nil
		}
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: p.Spec.NodeName}}}
	})
	if err := k.Watch(source.Kind(c, &corev1.Node{}, itself)); err != nil {
		return err
	}
	return k.Watch(source.Kind(c, &corev1.Pod{}, its))
}

type reconciler struct {
	Options
	nodes client.Writer
	cache cache.Cache
}

// Reconcile implements reconcile.Reconciler, for one node.
func (r *reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var before corev1.Node
	if err := r.cache.Get(ctx, req.NamespacedName, &before); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	var pods corev1.PodList
	if err := r.cache.List(ctx, &pods, client.InNamespace(r.Namespace), client.MatchingFields{indexNode: req.Name}); err != nil {
		return reconcile.Result{}, err
	}
	var agents []agent
	for i := range pods.Items {
		agents = append(agents, agentOf(&pods.Items[i]))
	}
	after := before.DeepCopy()
	judge(after, agents, r.Mode)
	if equality.Semantic.DeepEqual(&before, after) {
		return reconcile.Result{}, nil
	}
	// Taints are one list, which others write too: the lock has whoever looked at an older one look again.
	err := r.nodes.Patch(ctx, after, client.MergeFromWithOptions(&before, client.MergeFromWithOptimisticLock{}), client.FieldOwner("railyard-controller"))
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // the event of what was written meanwhile comes, or has come
		return reconcile.Result{}, nil
	case err != nil:
		return reconcile.Result{}, fmt.Errorf("set the taint %s of node %s: %w", Taint, req.Name, err)
	}
	log.FromContext(ctx).Info("node is gated or opened", "node", req.Name, "gated", len(after.Spec.Taints) > len(before.Spec.Taints), "agents", len(agents))
	return reconcile.Result{}, nil
}

func slimNode(o any) (any, error) {
	n, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	slim := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion}}
	if text, there := n.Annotations[Annotation]; there {
		slim.Annotations = map[string]string{Annotation: text}
	}
	slim.Spec.Taints, slim.Status.NodeInfo.BootID = n.Spec.Taints, n.Status.NodeInfo.BootID
	return slim, nil
}

func slimPod(o any) (any, error) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	slim := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: p.Name, Namespace: p.Namespace, UID: p.UID, ResourceVersion: p.ResourceVersion, DeletionTimestamp: p.DeletionTimestamp,
	}}
	slim.Spec.NodeName, slim.Status.Conditions = p.Spec.NodeName, p.Status.Conditions
	for _, s := range p.Status.ContainerStatuses {
		slim.Status.ContainerStatuses = append(slim.Status.ContainerStatuses, corev1.ContainerStatus{Name: s.Name, ContainerID: s.ContainerID})
	}
	return slim, nil
}
