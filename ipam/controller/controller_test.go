// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/claim"
	"github.com/railyard-net/railyard/test/cluster"
)

// quarantine is the controller's in these tests.
const quarantine = 500 * time.Millisecond

// api is the one API server of this package's tests, where one controller runs.
var api client.Client

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	ctx, cancel := context.WithCancel(context.Background())
	log.SetLogger(logr.Discard())
	a, err := cluster.StartAPI(ctx, cluster.APIOptions{})
	if err != nil {
		cancel()
		return 1, err
	}
	done := make(chan struct{})
	close(done)
	defer func() { cancel(); <-done; _ = a.Stop() }()
	if err := a.Apply(ctx, "manifests/crd/ipam.railyard.dev_ippools.yaml", "manifests/crd/ipam.railyard.dev_ipblocks.yaml",
		"manifests/crd/ipam.railyard.dev_ipreservations.yaml", "ipam/testdata/crd"); err != nil {
		return 1, err
	}
	scheme := runtime.NewScheme()
	_ = v1alpha1.AddToScheme(scheme)
	_ = clientgoscheme.AddToScheme(scheme)
	cfg := a.RESTConfig()
	cfg.QPS = -1
	if api, err = client.New(cfg, client.Options{Scheme: scheme}); err != nil {
		return 1, err
	}
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{Scheme: scheme, Metrics: server.Options{BindAddress: "0"},
		Cache: cache.Options{ByObject: CacheByObject()}})
	if err != nil {
		return 1, err
	}
	if err := SetupWith(mgr, Options{Interval: 50 * time.Millisecond, Grace: 50 * time.Millisecond, Recheck: 200 * time.Millisecond, Quarantine: quarantine}); err != nil {
		return 1, err
	}
	done = make(chan struct{})
	go func() {
		defer close(done)
		if err := mgr.Start(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	return m.Run(), nil
}

// runs are the tests of this process, a repeated one (go test -count) each time anew.
var runs struct {
	sync.Mutex
	of map[*testing.T]int
}

// id is a name that no other run of a test has.
func id(t *testing.T) string {
	runs.Lock()
	defer runs.Unlock()
	if runs.of == nil {
		runs.of = map[*testing.T]int{}
	}
	if runs.of[t] == 0 {
		runs.of[t] = len(runs.of) + 1
	}
	return fmt.Sprintf("%s-%d", strings.ToLower(strings.TrimPrefix(t.Name(), "Test")), runs.of[t])
}

// newPool makes a pool in a domain of the test's own.
func newPool(t *testing.T, name string, size int32, opts ...option) *v1alpha1.IPPool {
	t.Helper()
	prefix := id(t)
	p := pool(prefix+"-"+name, 0, "10.0.0.0/24", opts...)
	if p.Spec.Domain == "default" {
		p.Spec.Domain = prefix
	}
	p.Spec.IPv4.BlockSize = size
	n := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: p.Name}, Spec: p.Spec}
	if err := api.Create(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	return n
}

// await reads the pool until it is as wanted.
func await(t *testing.T, p *v1alpha1.IPPool, what string, ok func(*v1alpha1.IPPool) bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, 20*time.Second, true, func(ctx context.Context) (bool, error) {
		if err := api.Get(ctx, client.ObjectKeyFromObject(p), p); err != nil {
			return false, err
		}
		return ok(p), nil
	})
	if err != nil {
		t.Fatalf("pool %s: waited for %s: %v\n%+v", p.Name, what, err, p.Status)
	}
}

func awaitReason(t *testing.T, p *v1alpha1.IPPool, reason string, says ...string) {
	t.Helper()
	await(t, p, reason, func(p *v1alpha1.IPPool) bool {
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionAccepted)
		return c != nil && c.Reason == reason && c.ObservedGeneration == p.Generation && p.Status.ObservedGeneration == p.Generation
	})
	c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionAccepted)
	if (c.Status == metav1.ConditionTrue) != (reason == v1alpha1.ReasonAccepted) {
		t.Errorf("status %s with reason %s", c.Status, reason)
	}
	for _, s := range says {
		if !strings.Contains(c.Message, s) {
			t.Errorf("%q does not say %q", c.Message, s)
		}
	}
}

func awaitGone(t *testing.T, p *v1alpha1.IPPool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, 20*time.Second, true, func(ctx context.Context) (bool, error) {
		err := api.Get(ctx, client.ObjectKeyFromObject(p), p)
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
	if err != nil {
		t.Fatalf("pool %s is still there: %v\n%+v", p.Name, err, p.Status)
	}
}

var nodeA = ipam.Owner{Node: "a", NodeUID: "ua", Session: "sa"}

func claimBlock(t *testing.T, p *v1alpha1.IPPool) string {
	t.Helper()
	parsed, err := p.Parse()
	if err != nil {
		t.Fatal(err)
	}
	b, err := claim.New(api, nil).Claim(t.Context(), nodeA, parsed, true)
	if err != nil {
		t.Fatal(err)
	}
	return b.Name
}

func TestAcceptedWithFinalizerAndFigures(t *testing.T) {
	p := newPool(t, "p", 64)
	awaitReason(t, p, v1alpha1.ReasonAccepted)
	if len(p.Finalizers) != 1 || p.Finalizers[0] != v1alpha1.FinalizerBlocks {
		t.Errorf("finalizers %v", p.Finalizers)
	}
	if got := p.Open(nil); got != "" {
		t.Errorf("closed: %s", got)
	}
	name := claimBlock(t, p)
	var b v1alpha1.IPBlock
	if err := api.Get(t.Context(), client.ObjectKey{Name: name}, &b); err != nil {
		t.Fatal(err)
	}
	b.Status.SetNode(v1alpha1.NodeUsage{Node: "a", Leased: 2, Free: 60}, []v1alpha1.BlockLease{{Node: "a", Address: "10.0.0.5"}})
	if err := api.Status().Update(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	await(t, p, "figures", func(p *v1alpha1.IPPool) bool { return p.Status.Leased == "2" })
	if p.Status.Capacity != "254" || p.Status.Blocks != 1 || (p.Status.Owned != "63" && p.Status.Owned != "64") {
		t.Errorf("figures %+v", p.Status)
	}
}

// What the schema cannot see, the condition says.
func TestInvalid(t *testing.T) {
	p := newPool(t, "p", 64, func(p *v1alpha1.IPPool) {
		p.Spec.IPv4.Ranges = []v1alpha1.AddressRange{"10.0.0.9-10.0.0.3"}
		p.Spec.IPv4.Exclude = []v1alpha1.AddressRange{"10.0.0.0/24"}
	})
	awaitReason(t, p, v1alpha1.ReasonInvalid, "spec.ipv4.ranges[0]", "10.0.0.3-10.0.0.9")
	if len(p.Finalizers) > 0 {
		t.Error("a pool that was never accepted has the finalizer")
	}
	p.Spec.IPv4.Ranges, p.Spec.IPv4.Exclude = nil, nil
	if err := api.Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	awaitReason(t, p, v1alpha1.ReasonAccepted)
	p.Spec.NodeSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "rail", Operator: "Like"}}}
	if err := api.Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	awaitReason(t, p, v1alpha1.ReasonInvalid, "spec.nodeSelector")
	if len(p.Status.Granted) != 1 || p.Status.Capacity != "254" {
		t.Errorf("a bad edit changed more than the condition: %+v", p.Status)
	}
}

func TestOverlapIsFirstComeAndHealsOnDelete(t *testing.T) {
	first := newPool(t, "z-first", 64)
	awaitReason(t, first, v1alpha1.ReasonAccepted)
	second := newPool(t, "second", 64, func(p *v1alpha1.IPPool) { p.Spec.IPv4.Subnet = "10.0.0.0/16" })
	elsewhere := newPool(t, "elsewhere", 64, in(id(t)+"-elsewhere"))
	awaitReason(t, second, v1alpha1.ReasonOverlaps, first.Name, "10.0.0.0/24")
	awaitReason(t, elsewhere, v1alpha1.ReasonAccepted)
	if err := api.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, first)
	awaitReason(t, second, v1alpha1.ReasonAccepted)
}

func TestManyOverlapAtOnce(t *testing.T) {
	var pools []*v1alpha1.IPPool
	for i := range 8 {
		pools = append(pools, newPool(t, fmt.Sprint(i), 64))
	}
	accepted := 0
	for _, p := range pools {
		await(t, p, "a verdict", func(p *v1alpha1.IPPool) bool { return len(p.Status.Conditions) > 0 })
		if len(p.Status.Granted) > 0 {
			accepted++
		}
	}
	if accepted != 1 {
		t.Errorf("%d of 8 overlapping pools are accepted", accepted)
	}
}

func TestDeletionWaitsForBlocks(t *testing.T) {
	p := newPool(t, "p", 64)
	awaitReason(t, p, v1alpha1.ReasonAccepted)
	name := claimBlock(t, p)
	if err := api.Delete(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	awaitReason(t, p, v1alpha1.ReasonDeleting, name, "nodes: a")
	if err := claim.New(api, nil).Release(t.Context(), nodeA, name); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, p)
}

// A pool whose finalizer somebody took off is made again, cut differently, while a node holds a block of the old.
func TestLeftoverHoldsNewPool(t *testing.T) {
	p := newPool(t, "p", 64)
	awaitReason(t, p, v1alpha1.ReasonAccepted)
	name := claimBlock(t, p)
	if err := api.Delete(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 20*time.Second, true, func(ctx context.Context) (bool, error) {
		if err := api.Get(ctx, client.ObjectKeyFromObject(p), p); err != nil {
			return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
		}
		p.Finalizers = nil
		err := api.Update(ctx, p)
		return false, client.IgnoreNotFound(ignoreConflict(err))
	})
	if err != nil {
		t.Fatal(err)
	}
	again := newPool(t, "p", 16)
	awaitReason(t, again, v1alpha1.ReasonLeftover, name, "nodes: a")
	other := newPool(t, "z-other", 16)
	awaitReason(t, other, v1alpha1.ReasonLeftover, name)
	if err := claim.New(api, nil).Release(t.Context(), nodeA, name); err != nil {
		t.Fatal(err)
	}
	awaitReason(t, again, v1alpha1.ReasonAccepted)
	awaitReason(t, other, v1alpha1.ReasonOverlaps, again.Name)
}

func ignoreConflict(err error) error {
	if apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func TestUnownedBlocksAreSwept(t *testing.T) {
	p := newPool(t, "p", 64)
	awaitReason(t, p, v1alpha1.ReasonAccepted)
	o := v1alpha1.FromBlock(ipam.Block{Name: p.Name + ".10-0-0-0", Pool: p.Name, PoolUID: string(p.UID), Slot: netip.MustParsePrefix("10.0.0.0/26")})
	if err := api.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, 20*time.Second, true, func(ctx context.Context) (bool, error) {
		err := api.Get(ctx, client.ObjectKeyFromObject(o), o)
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
	if err != nil {
		t.Error(err)
	}
}
