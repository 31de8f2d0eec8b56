// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

// page is how many objects one request asks for.
const page = 500

// state is everything that a plan depends on, as it was read.
type state struct {
	// live are the addresses in use by the old objects, blocks the runs of addresses that nodes have by them.
	live   []use
	blocks []oldBlock
	// wants are the pools that there should be.
	wants []want
	pods  map[string]pod // by namespace/name
	nodes map[string]string
	// have and fenced are our own objects.
	have   map[string]v1alpha1.IPPool
	fenced []v1alpha1.IPBlock
	// giving are the reasons to believe that the old management still gives addresses.
	giving []string
	// broken is what of the old objects could not be read, and lost what of them has no counterpart.
	broken, lost []string
}

// use is one address that somebody has.
type use struct {
	addr netip.Addr
	// network is the network_name that the address belongs to; any says that it is not known.
	network string
	any     bool
	// pod is namespace/name.
	pod string
	why string
}

// By what an address is known to be in use.
const (
	byAllocation  = "allocation"
	byReservation = "reservation"
	byStatus      = "network-status"
)

// oldBlock is a node's run of addresses.
type oldBlock struct {
	pool, node string
	from, to   netip.Addr
}

// want is a pool that there should be. Networks are those that its addresses are given for.
type want struct {
	pool    *v1alpha1.IPPool
	network string
	nads    []string // namespace/name; empty: any
}

type pod struct {
	name, uid, node string
	// has are the addresses of its secondary interfaces by its network-status.
	has []attached
}

type attached struct {
	nad  string // namespace/name
	addr netip.Addr
}

// read gathers what does not depend on whose addresses are taken over. The pods come after the old objects: a pod exists
// before it gets an address.
func (m *Migration) read(ctx context.Context) (state, error) {
	s := state{pods: map[string]pod{}, nodes: map[string]string{}, have: map[string]v1alpha1.IPPool{}}
	if err := m.from.read(ctx, m.api, &s); err != nil {
		return state{}, err
	}
	if err := m.readPods(ctx, &s); err != nil {
		return state{}, err
	}
	var nodes corev1.NodeList
	if err := m.api.List(ctx, &nodes); err != nil {
		return state{}, fmt.Errorf("list nodes: %w", err)
	}
	for _, n := range nodes.Items {
		s.nodes[n.Name] = string(n.UID)
	}
	var have v1alpha1.IPPoolList
	if err := m.api.List(ctx, &have); err != nil {
		return state{}, fmt.Errorf("list IPPools: %w", err)
	}
	for _, p := range have.Items {
		s.have[p.Name] = p
	}
	var blocks v1alpha1.IPBlockList
	if err := m.api.List(ctx, &blocks); err != nil {
		return state{}, fmt.Errorf("list IPBlocks: %w", err)
	}
	s.fenced = blocks.Items
	return s, nil
}

func (m *Migration) readPods(ctx context.Context, s *state) error {
	var list corev1.PodList
	for {
		if err := m.api.List(ctx, &list, client.Limit(page), client.Continue(list.Continue)); err != nil {
			return fmt.Errorf("list pods: %w", err)
		}
		for i := range list.Items {
			p := &list.Items[i]
			name := p.Namespace + "/" + p.Name
			out := pod{name: name, uid: string(p.UID), node: p.Spec.NodeName}
			if !finished(p) {
				var err error
				if out.has, err = attachments(p); err != nil {
					s.broken = append(s.broken, fmt.Sprintf("pod %s: annotation %s: %v", name, nadv1.NetworkStatusAnnot, err))
				}
				if why := m.from.gives(p); why != "" {
					s.giving = append(s.giving, why)
				}
			}
			s.pods[name] = out
		}
		if list.Continue == "" {
			return nil
		}
	}
}

func finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// attachments are the addresses of a pod's interfaces but those of the cluster's own network.
func attachments(p *corev1.Pod) ([]attached, error) {
	text := p.Annotations[nadv1.NetworkStatusAnnot]
	if text == "" {
		return nil, nil
	}
	var list []nadv1.NetworkStatus
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, err
	}
	var out []attached
	for _, n := range list {
		for _, ip := range n.IPs {
			a, err := netip.ParseAddr(ip)
			if err != nil {
				return nil, err
			}
			if !n.Default {
				out = append(out, attached{n.Name, a.Unmap()})
			}
		}
	}
	return out, nil
}

// listOld reads objects of a kind that may not be there, in every namespace, into items.
func listOld[T any](ctx context.Context, api client.Client, gvk schema.GroupVersionKind, visit func(namespace, name string, item T) error) error {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
	for {
		err := api.List(ctx, list, client.Limit(page), client.Continue(list.GetContinue()))
		switch {
		case meta.IsNoMatchError(err):
			return nil
		case err != nil:
			return fmt.Errorf("list %s: %w", gvk.GroupKind(), err)
		}
		for _, o := range list.Items {
			var item T
			err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &item)
			if err == nil {
				err = visit(o.GetNamespace(), o.GetName(), item)
			}
			if err != nil {
				return fmt.Errorf("%s %s/%s: %w", gvk.GroupKind(), o.GetNamespace(), o.GetName(), err)
			}
		}
		if list.GetContinue() == "" {
			return nil
		}
	}
}

func sortUses(list []use) {
	slices.SortStableFunc(list, func(a, b use) int { return a.addr.Compare(b.addr) })
}
