// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

// Connect makes the client and the cache of a node's agent. It sends no request: the agent starts while the API
// server is down.
func Connect(cfg *rest.Config, node string) (client.Client, cache.Cache, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(v1alpha1.AddToScheme(scheme), eventsv1.AddToScheme(scheme)); err != nil {
		return nil, nil, err
	}
	web, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to the API server: %w", err)
	}
	mapper := newMapper()
	direct, err := client.New(cfg, client.Options{HTTPClient: web, Scheme: scheme, Mapper: mapper})
	if err != nil {
		return nil, nil, fmt.Errorf("connect to the API server: %w", err)
	}
	mine := labels.SelectorFromSet(labels.Set{v1alpha1.NodeLabel(node): ""})
	watched, err := cache.New(cfg, cache.Options{
		HTTPClient: web, Scheme: scheme, Mapper: mapper,
		ReaderFailOnMissingInformer: true, // a read must never start a watch of more than this
		DefaultTransform:            strip,
		ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.IPPool{}:        {},
			&v1alpha1.IPBlock{}:       {Label: mine},
			&v1alpha1.IPReservation{}: {Label: mine},
			nodeObject():              {Field: fields.OneTermEqualSelector(metav1.ObjectNameField, node)},
		},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("make the watch cache: %w", err)
	}
	return direct, watched, nil
}

var nodeKind = schema.GroupVersionKind{Version: "v1", Kind: "Node"}

// nodeObject is a Node of which only the metadata are read.
func nodeObject() *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{}
	o.SetGroupVersionKind(nodeKind)
	return o
}

// newMapper knows the kinds that the agent reads and writes, so that no discovery is asked for them.
func newMapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper([]schema.GroupVersion{v1alpha1.GroupVersion, nodeKind.GroupVersion(), eventsv1.SchemeGroupVersion, claimKind.GroupVersion()})
	m.Add(v1alpha1.GroupVersion.WithKind("IPPool"), meta.RESTScopeRoot)
	m.Add(v1alpha1.GroupVersion.WithKind("IPBlock"), meta.RESTScopeRoot)
	m.Add(v1alpha1.GroupVersion.WithKind("IPReservation"), meta.RESTScopeRoot)
	m.Add(nodeKind, meta.RESTScopeRoot)
	m.Add(podKind, meta.RESTScopeNamespace)
	m.Add(claimKind, meta.RESTScopeNamespace)
	m.Add(eventsv1.SchemeGroupVersion.WithKind("Event"), meta.RESTScopeNamespace)
	return m
}

// strip drops from what is cached the parts that nobody here reads: they would be most of it.
func strip(obj any) (any, error) {
	o, ok := obj.(metav1.Object)
	if !ok {
		return obj, nil // a tombstone
	}
	o.SetManagedFields(nil)
	if b, ok := obj.(*v1alpha1.IPBlock); ok {
		b.Status = v1alpha1.IPBlockStatus{} // the leases themselves are in the store
	} else {
		o.SetAnnotations(nil) // a block is written as it is cached
	}
	return obj, nil
}

// watch has every change of what is watched wake sync.
func (a *Agent) watch(ctx context.Context) error {
	for _, obj := range []client.Object{&v1alpha1.IPPool{}, &v1alpha1.IPBlock{}, &v1alpha1.IPReservation{}, nodeObject()} {
		inf, err := a.cfg.Cache.GetInformer(ctx, obj, cache.BlockUntilSynced(false))
		if err != nil {
			return fmt.Errorf("watch %T: %w", obj, err)
		}
		if _, err := inf.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc:    func(is any) { a.noticed(nil, is) },
			DeleteFunc: func(was any) { a.noticed(was, nil) },
			UpdateFunc: func(was, is any) {
				if !sameBlock(was, is) {
					a.noticed(was, is)
				}
			},
		}); err != nil {
			return fmt.Errorf("watch %T: %w", obj, err)
		}
	}
	return nil
}

// noticed wakes those whom a change concerns.
func (a *Agent) noticed(was, is any) {
	if r, ok := cmp.Or(is, was).(*v1alpha1.IPReservation); ok {
		if r.Spec.User != nil {
			poke(a.unused)
		}
		return
	}
	a.wake()
	if hasWants(was) || hasWants(is) || is == nil {
		a.bell.ring()
		poke(a.trading)
	}
}

func hasWants(obj any) bool {
	b, ok := obj.(*v1alpha1.IPBlock)
	return ok && len(b.Spec.Wants) > 0
}

// sameBlock: an update that is the mirror's only, which there are many of.
func sameBlock(was, is any) bool {
	x, ok := was.(*v1alpha1.IPBlock)
	y, ok2 := is.(*v1alpha1.IPBlock)
	return ok && ok2 && x.UID == y.UID && x.Generation == y.Generation
}
