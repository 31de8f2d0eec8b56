// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/railyard-net/railyard/netdef/api/v1alpha1"
	"github.com/railyard-net/railyard/test/cluster"
)

// env is the API server that the tests of this package share, with one manager running on it.
type env struct {
	api    *cluster.API
	client client.Client // the administrator's
}

var shared *env

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	flag.Parse()
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		return m.Run() // what is fuzzed here needs no API server, and each worker would start one
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	api, err := cluster.StartAPI(ctx, cluster.APIOptions{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = api.Stop() }()
	if err := start(ctx, api); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// start applies the manifests and runs a manager as the service account that a cluster would run it as.
func start(ctx context.Context, api *cluster.API) error {
	for _, path := range []string{"manifests/crd", "manifests/install/multus-crd", "manifests/install/namespace.yaml", "manifests/rbac"} {
		if err := api.Apply(ctx, path); err != nil {
			return err
		}
	}
	scheme := newScheme()
	admin, err := client.New(api.RESTConfig(), client.Options{Scheme: scheme})
	if err != nil {
		return err
	}
	shared = &env{api: api, client: admin}
	cfg, err := api.ServiceAccountConfig(ctx, cluster.AgentNamespace, cluster.ControllerServiceAccount)
	if err != nil {
		return err
	}
	mgr, err := newManager(cfg, nil)
	if err != nil {
		return err
	}
	go func() {
		if err := mgr.Start(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "manager:", err)
		}
	}()
	return nil
}

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return scheme
}

// newManager makes a manager as railyard-controller does; wrap may put faults between it and the API server.
func newManager(cfg *rest.Config, wrap client.NewClientFunc) (ctrl.Manager, error) {
	log := logr.FromSlogHandler(slog.DiscardHandler)
	if testing.Verbose() {
		log = logr.FromSlogHandler(slog.NewTextHandler(os.Stderr, nil))
	}
	ctrl.SetLogger(log)
	skip := true
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme: newScheme(), Logger: log, NewClient: wrap,
		Metrics:    server.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: &skip},
		Cache:      cache.Options{ByObject: CacheByObject(), DefaultTransform: cache.TransformStripManagedFields()},
	})
	if err != nil {
		return nil, err
	}
	return mgr, Setup(mgr)
}

var counter atomic.Int32

// unique is a name that no other test uses.
func unique(prefix string) string { return fmt.Sprintf("%s-%d", prefix, counter.Add(1)) }

func (e *env) create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := e.client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = e.client.Delete(context.Background(), o, client.GracePeriodSeconds(0))
		})
	}
}

// edit changes an object under whatever version it has.
func edit[T client.Object](t *testing.T, e *env, o T, change func(T)) {
	t.Helper()
	base := o.DeepCopyObject().(T)
	if err := e.client.Get(t.Context(), client.ObjectKeyFromObject(o), base); err != nil {
		t.Fatal(err)
	}
	changed := base.DeepCopyObject().(T)
	change(changed)
	if err := e.client.Patch(t.Context(), changed, client.MergeFrom(base)); err != nil {
		t.Fatal(err)
	}
}

func network(name string, spec v1alpha1.MacvlanNetworkSpec) *v1alpha1.MacvlanNetwork {
	return &v1alpha1.MacvlanNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
}

func (e *env) namespace(t *testing.T) string {
	t.Helper()
	name := unique("ns")
	e.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	return name
}

// pod makes one that was not scheduled: it may start at any time, so it counts as a user.
func (e *env) pod(t *testing.T, namespace string, annotations map[string]string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: unique("pod"), Namespace: namespace, Annotations: annotations},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "none.invalid/none"}}},
	}
	e.create(t, pod)
	return pod
}

func selecting(text string) map[string]string {
	return map[string]string{nadv1.NetworkAttachmentAnnot: text}
}

func (e *env) nad(t *testing.T, namespace, name string) (*nadv1.NetworkAttachmentDefinition, error) {
	t.Helper()
	nad := &nadv1.NetworkAttachmentDefinition{}
	return nad, e.client.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: name}, nad)
}

// awaitReady is await for the MacvlanNetwork of that name, which it returns.
func (e *env) awaitReady(t *testing.T, name, reason string) *v1alpha1.MacvlanNetwork {
	t.Helper()
	n := network(name, v1alpha1.MacvlanNetworkSpec{})
	e.await(t, n, reason)
	return n
}

// await reads n until its Ready condition speaks of its newest spec and has the reason, and returns the status.
func (e *env) await(t *testing.T, n v1alpha1.Network, reason string) v1alpha1.NetworkStatus {
	t.Helper()
	_, status := n.Common()
	cluster.Eventually(t, "Ready of "+n.GetName()+" becomes "+reason, func() error {
		if err := e.client.Get(t.Context(), client.ObjectKeyFromObject(n), n); err != nil {
			return err
		}
		c := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady)
		if c == nil || c.Reason != reason || c.ObservedGeneration != n.GetGeneration() || status.ObservedGeneration != n.GetGeneration() {
			return fmt.Errorf("generation %d, status %+v", n.GetGeneration(), status)
		}
		return nil
	})
	return *status
}

// awaitInUse waits until n's condition InUse has the reason ("": is absent) and its message contains text.
func (e *env) awaitInUse(t *testing.T, n v1alpha1.Network, reason, text string) {
	t.Helper()
	n = copyOf(n)
	_, status := n.Common()
	cluster.Eventually(t, "InUse of "+n.GetName()+" becomes "+reason, func() error {
		if err := e.client.Get(t.Context(), client.ObjectKeyFromObject(n), n); err != nil {
			return err
		}
		c := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionInUse)
		if (c == nil) != (reason == "") || c != nil && (c.Reason != reason || !strings.Contains(c.Message, text)) {
			return fmt.Errorf("conditions %+v", status.Conditions)
		}
		return nil
	})
}

func (e *env) awaitGone(t *testing.T, o client.Object) {
	t.Helper()
	cluster.Eventually(t, fmt.Sprintf("%T %s is gone", o, o.GetName()), func() error {
		err := e.client.Get(t.Context(), client.ObjectKeyFromObject(o), o)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there (%w); finalizers %v", err, o.GetFinalizers())
	})
}

// pool makes an IPPool and accepts it, as the pools' controller would; there is none here.
func (e *env) pool(t *testing.T, name string) *unstructured.Unstructured {
	t.Helper()
	pool := &unstructured.Unstructured{Object: map[string]any{
		"spec": map[string]any{"domain": name, "ipv4": map[string]any{"subnet": "10.20.0.0/16"}},
	}}
	pool.SetGroupVersionKind(poolGVK)
	pool.SetName(name)
	e.create(t, pool)
	return pool
}

func (e *env) accept(t *testing.T, pool *unstructured.Unstructured, status metav1.ConditionStatus, message string) {
	t.Helper()
	if err := e.client.Get(t.Context(), client.ObjectKeyFromObject(pool), pool); err != nil {
		t.Fatal(err)
	}
	pool.Object["status"] = map[string]any{"blocks": int64(0), "conditions": []any{map[string]any{
		"type": conditionAccepted, "status": string(status), "reason": "Test", "message": message,
		"observedGeneration": pool.GetGeneration(), "lastTransitionTime": time.Now().UTC().Format(time.RFC3339),
	}}}
	if err := e.client.Status().Update(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
}
