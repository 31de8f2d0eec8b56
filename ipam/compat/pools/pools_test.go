// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/claim"
	"github.com/railyard-net/railyard/ipam/compat"
	"github.com/railyard-net/railyard/ipam/controller"
	"github.com/railyard-net/railyard/test/cluster"
)

// api is the one API server of this package's tests, where this controller and that of pools run.
var (
	api     client.Client
	server0 *cluster.API
)

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
	server0 = a
	done := make(chan struct{})
	defer func() { cancel(); <-done; _ = a.Stop() }()
	scheme := runtime.NewScheme()
	cfg := a.RESTConfig()
	cfg.QPS = -1
	err = errors.Join(a.Apply(ctx, "manifests/crd/ipam.railyard.dev_ippools.yaml", "manifests/crd/ipam.railyard.dev_ipblocks.yaml", "manifests/install/multus-crd"),
		v1alpha1.AddToScheme(scheme), nadv1.AddToScheme(scheme), corev1.AddToScheme(scheme), eventsv1.AddToScheme(scheme))
	if err == nil {
		api, err = client.New(cfg, client.Options{Scheme: scheme})
	}
	var mgr ctrl.Manager
	if err == nil {
		mgr, err = ctrl.NewManager(cfg, ctrl.Options{Scheme: scheme, Metrics: server.Options{BindAddress: "0"}})
	}
	if err == nil {
		err = errors.Join(Setup(mgr), controller.Setup(mgr))
	}
	if err != nil {
		close(done)
		return 1, err
	}
	go func() {
		defer close(done)
		if err := mgr.Start(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	return m.Run(), nil
}

// subnets has a subnet for each test of this process, so that their pools do not meet.
var subnets struct {
	sync.Mutex
	n int
}

// subnet is the first two bytes of a /16 that no other test has.
func newSubnet() string {
	subnets.Lock()
	defer subnets.Unlock()
	subnets.n++
	return fmt.Sprintf("10.%d", subnets.n)
}

func define(t *testing.T, config string) *nadv1.NetworkAttachmentDefinition {
	t.Helper()
	nad := &nadv1.NetworkAttachmentDefinition{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", GenerateName: "net-"},
		Spec:       nadv1.NetworkAttachmentDefinitionSpec{Config: config},
	}
	if err := api.Create(t.Context(), nad); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = api.Delete(context.Background(), nad) })
	return nad
}

func config(section string) string {
	return `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"macvlan","ipam":{"type":"whereabouts",` + section + `}}]}`
}

func poolOf(t *testing.T, nad *nadv1.NetworkAttachmentDefinition) string {
	t.Helper()
	return poolNames(nad)[0]
}

// await reads the pool until it is as wanted.
func await(t *testing.T, name, what string, ok func(*v1alpha1.IPPool) bool) {
	t.Helper()
	cluster.Eventually(t, "IPPool "+name+": "+what, func() error {
		var p v1alpha1.IPPool
		if err := api.Get(t.Context(), client.ObjectKey{Name: name}, &p); err != nil {
			return err
		}
		if !ok(&p) {
			return fmt.Errorf("it is %+v %+v", p.Spec, p.Status.Conditions)
		}
		return nil
	})
}

func awaitGone(t *testing.T, name string) {
	t.Helper()
	cluster.Eventually(t, "IPPool "+name+" is gone", func() error {
		var p v1alpha1.IPPool
		err := api.Get(t.Context(), client.ObjectKey{Name: name}, &p)
		if err == nil {
			return errors.New("it is there")
		}
		return client.IgnoreNotFound(err)
	})
}

func awaitEvent(t *testing.T, nad *nadv1.NetworkAttachmentDefinition, reason, words string) {
	t.Helper()
	cluster.Eventually(t, "event "+reason, func() error {
		var list eventsv1.EventList
		if err := api.List(t.Context(), &list, client.InNamespace(nad.Namespace)); err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Regarding.UID == nad.UID && e.Reason == reason && strings.Contains(e.Note, words) {
				return nil
			}
		}
		return errors.New("not there")
	})
}

func accepted(p *v1alpha1.IPPool) bool {
	return meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionAccepted)
}

func TestPoolOfDefinitions(t *testing.T) {
	net := newSubnet()
	section := fmt.Sprintf(`"range":"%s.0.0/16","range_start":"%[1]s.1.0","exclude":["%[1]s.9.0/24"],"node_slice_size":"/26"`, net)
	first := define(t, config(section+fmt.Sprintf(`,"gateway":"%s.0.1"`, net)))
	name := poolOf(t, first)
	await(t, name, "accepted", func(p *v1alpha1.IPPool) bool {
		s := p.Spec.IPv4
		return accepted(p) && !IsClosed(p) && s.Gateway == net+".0.1" && s.BlockSize == 64 && s.Ranges[0] == v1alpha1.AddressRange(net+".1.0-"+net+".255.255") &&
			s.Reserved[0] == v1alpha1.AddressRange(net+".9.0/24") && p.Spec.Domain == compat.DefaultDomain && p.Labels[Label] == compat.TypeWhereabouts
	})
	second := define(t, config(section+fmt.Sprintf(`,"gateway":"%s.0.2"`, net)))
	if poolOf(t, second) != name {
		t.Fatal("the same range has two pools")
	}
	await(t, name, "the second gateway is excluded", func(p *v1alpha1.IPPool) bool {
		return p.Spec.IPv4.Gateway == net+".0.1" && len(p.Spec.IPv4.Exclude) == 1 && string(p.Spec.IPv4.Exclude[0]) == net+".0.2"
	})
	if err := errors.Join(api.Delete(t.Context(), first), api.Delete(t.Context(), second)); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, name)
}

// TestPoolInUse: a pool that no definition means stays while a node has addresses of it, whoever asks.
func TestPoolInUse(t *testing.T) {
	nad := define(t, config(`"range":"`+newSubnet()+`.0.0/24"`))
	name := poolOf(t, nad)
	await(t, name, "accepted", accepted)
	var obj v1alpha1.IPPool
	if err := api.Get(t.Context(), client.ObjectKey{Name: name}, &obj); err != nil {
		t.Fatal(err)
	}
	pool, err := obj.Parse()
	if err != nil {
		t.Fatal(err)
	}
	me := ipam.Owner{Node: "n", NodeUID: "u", Session: "s"}
	b, err := claim.New(api, nil).Claim(t.Context(), me, pool, true)
	if err != nil {
		t.Fatal(err)
	}
	r := &reconciler{api: api, live: api}
	again, err := r.remove(t.Context(), &obj)
	if err != nil || again != lookAgain {
		t.Errorf("%v, %v: want another look", again, err)
	}
	if err := claim.New(api, nil).Release(t.Context(), me, b.Name); err != nil {
		t.Fatal(err)
	}
	if err := api.Delete(t.Context(), nad); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, name)
}

func TestOverlap(t *testing.T) {
	net := newSubnet()
	define(t, config(`"range":"`+net+`.0.0/16"`))
	awaitAccepted := func(name string) { await(t, name, "accepted", accepted) }
	whole, err := compat.Find(config(`"range":"`+net+`.0.0/16"`), "x")
	if err != nil {
		t.Fatal(err)
	}
	awaitAccepted(whole[0].Pools[0].Name)
	part := define(t, config(`"range":"`+net+`.1.0/24"`))
	awaitEvent(t, part, reasonNotAccepted, "Overlaps")
	other := define(t, config(`"range":"`+net+`.1.0/24","network_name":"another"`))
	awaitAccepted(poolOf(t, other))
}

func TestInvalid(t *testing.T) {
	awaitEvent(t, define(t, config(`"range":"here"`)), reasonInvalid, "ipam.range")
}

// TestForeignPool: somebody's own pool of that name is used as it is.
func TestForeignPool(t *testing.T) {
	section := config(`"range":"` + newSubnet() + `.0.0/16","gateway":"10.0.0.1"`)
	calls, err := compat.Find(section, "x")
	if err != nil {
		t.Fatal(err)
	}
	p := Object([]compat.Range{*calls[0].Pools[0].Range})
	p.Labels, p.Spec.IPv4.Gateway = nil, ""
	if err := api.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = api.Delete(context.Background(), p) })
	await(t, p.Name, "accepted", accepted)
	nad := define(t, section)
	r := &reconciler{api: indexed{api, []nadv1.NetworkAttachmentDefinition{*nad}}, live: api}
	if _, err := r.pool(t.Context(), p.Name); err != nil {
		t.Fatal(err)
	}
	r.api = indexed{api, nil}
	if _, err := r.pool(t.Context(), p.Name); err != nil {
		t.Fatal(err)
	}
	var now v1alpha1.IPPool
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(p), &now); err != nil || now.Spec.IPv4.Gateway != "" || now.DeletionTimestamp != nil {
		t.Errorf("%v: %+v", err, now.Spec)
	}
}

// indexed answers the one query by index that a client without a cache cannot.
type indexed struct {
	client.Client
	nads []nadv1.NetworkAttachmentDefinition
}

// creating keeps what is created, which the controller of this API server would remove.
type creating struct {
	indexed
	made *v1alpha1.IPPool
}

func (c *creating) Create(_ context.Context, o client.Object, _ ...client.CreateOption) error {
	c.made = o.(*v1alpha1.IPPool)
	return nil
}

func (i indexed) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	if l, ok := list.(*nadv1.NetworkAttachmentDefinitionList); ok {
		l.Items = i.nads
		return nil
	}
	return i.Client.List(ctx, list, opts...)
}

// TestBesideWhereabouts: while whereabouts' objects are there, a new pool is closed, and says so.
func TestBesideWhereabouts(t *testing.T) {
	nad := nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "beside"}}
	nad.Spec.Config = config(`"range":"` + newSubnet() + `.0.0/16"`)
	said := events.NewFakeRecorder(1)
	there := true
	c := &creating{indexed: indexed{api, []nadv1.NetworkAttachmentDefinition{nad}}}
	r := &reconciler{api: c, live: api, events: said, beside: func() (bool, error) { return there, nil }}
	if _, err := r.pool(t.Context(), poolNames(&nad)[0]); err != nil || !IsClosed(c.made) {
		t.Errorf("%v: %+v", err, c.made)
	}
	if got := <-said.Events; !strings.Contains(got, reasonWaits) {
		t.Errorf("event %q", got)
	}
	there = false
	if _, err := r.pool(t.Context(), poolNames(&nad)[0]); err != nil || IsClosed(c.made) {
		t.Errorf("%v: %+v", err, c.made)
	}
}

// TestBeside: whether whereabouts' objects are there is what the API server says now.
func TestBeside(t *testing.T) {
	d := discovery.NewDiscoveryClientForConfigOrDie(server0.RESTConfig())
	const crd = `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: things.whereabouts.cni.cncf.io}, spec: {group: whereabouts.cni.cncf.io,
		scope: Namespaced, names: {kind: Thing, plural: things}, versions: [{name: v1alpha1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}}`
	is := func(want bool) {
		t.Helper()
		cluster.Eventually(t, fmt.Sprint("whereabouts is there: ", want), func() error {
			got, err := beside(d)
			if err == nil && got != want {
				err = errors.New("not so")
			}
			return err
		})
	}
	is(false)
	if err := server0.ApplyYAML(t.Context(), crd); err != nil {
		t.Fatal(err)
	}
	remove := func() {
		if out, err := server0.Kubectl(context.Background(), "delete", "--ignore-not-found", "crd", "things.whereabouts.cni.cncf.io").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
	t.Cleanup(remove)
	is(true)
	remove()
	is(false)
}

func TestGate(t *testing.T) {
	p := &v1alpha1.IPPool{}
	p.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
	for range 2 {
		Close(p)
	}
	if !IsClosed(p) || len(p.Spec.NodeSelector.MatchExpressions) != 1 {
		t.Errorf("%+v", p.Spec.NodeSelector)
	}
	p.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue}}
	if p.Open(map[string]string{"a": "b"}) == "" {
		t.Error("a node can lease from it")
	}
	Open(p)
	if IsClosed(p) || p.Open(map[string]string{"a": "b"}) != "" || p.Open(nil) == "" {
		t.Errorf("%+v", p.Spec.NodeSelector)
	}
	q := &v1alpha1.IPPool{}
	Close(q)
	Open(q)
	if q.Spec.NodeSelector != nil {
		t.Errorf("%+v", q.Spec.NodeSelector)
	}
}

func TestObject(t *testing.T) {
	r := compat.Range{Network: "n", Subnet: netip.MustParsePrefix("fd00::/64")}
	a, b := r, r
	a.Gateway, b.Gateway, b.BlockSize = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"), 16
	p := Object([]compat.Range{r, a, b, a})
	if s := p.Spec.IPv6; p.Spec.IPv4 != nil || s.Gateway != "fd00::1" || s.BlockSize != 16 || len(s.Exclude) != 1 || p.Spec.Domain != r.Domain() {
		t.Errorf("%+v", p.Spec)
	}
	if _, err := p.Parse(); err != nil {
		t.Error(err)
	}
}
