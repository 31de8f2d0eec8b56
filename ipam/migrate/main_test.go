// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/claim"
	"github.com/railyard-net/railyard/ipam/controller"
	"github.com/railyard-net/railyard/test/cluster"
)

// old is a cluster of a test's own with what the old address managements leave in it, and our controller of pools.
type old struct {
	t   *testing.T
	api client.Client
	srv *cluster.API
}

func newOld(t *testing.T) *old {
	t.Helper()
	log.SetLogger(logr.Discard())
	srv := cluster.NewAPI(t, "manifests/crd", "manifests/install/multus-crd", "ipam/migrate/testdata/old-crds.yaml")
	scheme := runtime.NewScheme()
	must(t, AddToScheme(scheme))
	cfg := srv.RESTConfig()
	cfg.QPS = -1
	api, err := client.New(cfg, client.Options{Scheme: scheme})
	must(t, err)
	skip := true // the tests of one process run one after the other
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{Scheme: scheme, Metrics: server.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: &skip}})
	must(t, err)
	must(t, controller.SetupWith(mgr, controller.Options{Interval: 50 * time.Millisecond, Grace: 50 * time.Millisecond, Recheck: 200 * time.Millisecond}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	t.Cleanup(func() { cancel(); must(t, <-done) })
	return &old{t, api, srv}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (o *old) create(obj client.Object) {
	o.t.Helper()
	must(o.t, o.api.Create(o.t.Context(), obj))
}

// object makes one of another's objects.
func (o *old) object(gvk schema.GroupVersionKind, name string, content map[string]any) *unstructured.Unstructured {
	o.t.Helper()
	u := &unstructured.Unstructured{Object: content}
	u.SetGroupVersionKind(gvk)
	u.SetNamespace("default")
	u.SetName(name)
	o.create(u)
	return u
}

func (o *old) allocations(name, cidr string, of map[string]string) *unstructured.Unstructured {
	all := map[string]any{}
	for offset, pod := range of {
		all[offset] = map[string]any{"id": "c-" + offset, "podref": pod, "ifname": "net1"}
	}
	return o.object(whereaboutsKind("IPPool"), name, map[string]any{"spec": map[string]any{"range": cidr, "allocations": all}})
}

// define makes a definition in namespace default.
func (o *old) define(name, section string) {
	o.create(&nadv1.NetworkAttachmentDefinition{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       nadv1.NetworkAttachmentDefinitionSpec{Config: `{"type":"macvlan","ipam":` + section + `}`},
	})
}

// pod makes one on a node, with these addresses on its secondary network.
func (o *old) pod(name, node, nad string, ips ...string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	if len(ips) > 0 {
		p.Annotations = map[string]string{nadv1.NetworkStatusAnnot: fmt.Sprintf(`[{"name":"x","default":true,"ips":["10.244.0.9"]},{"name":%q,"interface":"net1","ips":[%q]}]`, "default/"+nad, ips[0])}
	}
	o.create(p)
	return p
}

func (o *old) node(name string, ready corev1.ConditionStatus) *corev1.Node {
	n, err := o.srv.EnsureNode(o.t.Context(), name)
	must(o.t, err)
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	n.ManagedFields = nil
	must(o.t, o.api.Status().Update(o.t.Context(), n))
	return n
}

func (o *old) migration(from string) *Migration {
	m, err := New(o.api, from, Options{Settle: 50 * time.Millisecond, Accept: 10 * time.Second, Namespace: "default", Account: "whereabouts"})
	must(o.t, err)
	return m
}

func (o *old) blocks() []v1alpha1.IPBlock {
	o.t.Helper()
	var list v1alpha1.IPBlockList
	must(o.t, o.api.List(o.t.Context(), &list))
	return list.Items
}

// ownersOf says who owns each address of the blocks of a pool.
func (o *old) ownersOf(pool string) map[string]string {
	o.t.Helper()
	out := map[string]string{}
	for _, obj := range o.blocks() {
		if obj.Spec.Pool != pool {
			continue
		}
		b, err := obj.Block() // which refuses an address with two owners
		must(o.t, err)
		for _, s := range b.Shares {
			for _, r := range s.Ranges {
				for a := r.From(); ; a = a.Next() {
					if out[a.String()] = s.Node; a == r.To() {
						break
					}
				}
			}
		}
	}
	return out
}

// greedy is a node that takes all it can have of every pool that it may lease from, until stop: what a cluster full of
// waiting pods would do.
func (o *old) greedy(name string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	claims := claim.New(o.api, nil)
	pass := func() error {
		var list v1alpha1.IPPoolList
		if err := o.api.List(ctx, &list); err != nil {
			return err
		}
		for i := range list.Items {
			pool, err := list.Items[i].Parse()
			if err != nil {
				return err
			}
			pool.Closed = list.Items[i].Open(nil)
			for _, s := range pool.Subnets {
				_, err := claims.Claim(ctx, ipam.Owner{Node: name, NodeUID: "u-" + name, Session: "s"}, pool, s.Is4())
				if err != nil && !errors.Is(err, ipam.ErrPoolFull) && !errors.Is(err, ipam.ErrPoolClosed) && !errors.Is(err, ipam.ErrUnavailable) {
					return err
				}
			}
		}
		return nil
	}
	go func() {
		var err error
		for ctx.Err() == nil && err == nil {
			err = pass()
		}
		if ctx.Err() != nil {
			err = nil
		}
		done <- err
	}()
	return func() {
		cancel()
		must(o.t, <-done)
	}
}
