// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package manifests holds no code: its tests apply the manifests of this folder to a real API server and ask it what they allow.
package manifests

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/railyard-net/railyard/ipam/api/v1alpha1"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/iprange"
	netdefv1alpha1 "github.com/railyard-net/railyard/netdef/api/v1alpha1"
	"github.com/railyard-net/railyard/test/cluster"
)

const moreSamples = "manifests/samples/more"

var api *cluster.API

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	ctx := context.Background()
	var err error
	if api, err = cluster.StartAPI(ctx, cluster.APIOptions{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = api.Stop() }()
	if err := api.Apply(ctx, "manifests/install/multus", "manifests/install", "manifests/samples", moreSamples); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// TestAgain: an installation can be applied over itself, and samples too.
func TestAgain(t *testing.T) {
	if err := api.Apply(t.Context(), "manifests/install", "manifests/samples", moreSamples); err != nil {
		t.Fatal(err)
	}
}

func newClient(t *testing.T, cfg *rest.Config, err error) client.Client {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), ipamv1alpha1.AddToScheme(scheme), netdefv1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// nodeClient writes as the agent of that node does.
func nodeClient(t *testing.T, node string) client.Client {
	t.Helper()
	cfg, err := api.NodeConfig(t.Context(), node)
	return newClient(t, cfg, err)
}

// TestPermissions asks the API server what each service account may do.
func TestPermissions(t *testing.T) {
	const pools, networks = "ipam.railyard.dev", "railyard.dev"
	for account, tc := range map[string]struct{ can, cannot []string }{
		cluster.AgentServiceAccount: {
			can: []string{
				"list ippools " + pools, "watch ippools " + pools, "create ipblocks " + pools, "update ipblocks " + pools,
				"delete ipblocks " + pools, "watch ipblocks " + pools, "update ipblocks/status " + pools, "get nodes", "watch nodes", "create events events.k8s.io",
				"watch ipreservations " + pools, "create ipreservations " + pools, "update ipreservations " + pools, "get pods", "get ipamclaims k8s.cni.cncf.io",
			},
			cannot: []string{
				"delete ipreservations " + pools, "update ipreservations/status " + pools, "list ipamclaims k8s.cni.cncf.io", "deletecollection ipblocks " + pools, "update ippools " + pools, "update ippools/status " + pools, "delete ippools " + pools,
				"update nodes", "patch nodes/status", "list events events.k8s.io", "list pods", "list secrets", "get secrets", "create pods", "create serviceaccounts/token",
				"create network-attachment-definitions k8s.cni.cncf.io", "list macvlannetworks " + networks, "update leases coordination.k8s.io",
			},
		},
		cluster.ControllerServiceAccount: {
			can: []string{
				"patch macvlannetworks " + networks, "patch macvlannetworks/status " + networks, "patch ippools " + pools,
				"update ippools/status " + pools, "list ipblocks " + pools, "create ipblocks " + pools, "update ipblocks " + pools, "delete ipblocks " + pools,
				"list ipreservations " + pools, "update ipreservations " + pools, "delete ipreservations " + pools, "patch ipreservations/status " + pools,
				"get statefulsets apps", "get ipamclaims k8s.cni.cncf.io", "patch ipamclaims/status k8s.cni.cncf.io", "create ippools " + pools, "delete ippools " + pools, "get nodes", "watch nodes", "create network-attachment-definitions k8s.cni.cncf.io",
				"delete network-attachment-definitions k8s.cni.cncf.io", "patch nodes", "watch pods", "watch namespaces", "create leases coordination.k8s.io railyard-system",
				"update leases/railyard-controller coordination.k8s.io railyard-system", "create events events.k8s.io",
			},
			cannot: []string{
				"create ipreservations " + pools, "list statefulsets apps", "update ipamclaims k8s.cni.cncf.io", "deletecollection ipblocks " + pools, "update ipblocks/status " + pools, "delete macvlannetworks " + networks,
				"delete pods", "create pods", "list secrets", "update nodes", "delete nodes", "delete namespaces", "update leases/other coordination.k8s.io railyard-system",
				"create leases coordination.k8s.io kube-system",
			},
		},
	} {
		for _, q := range tc.can {
			if !allowed(t, account, q) {
				t.Errorf("%s cannot %s", account, q)
			}
		}
		for _, q := range tc.cannot {
			if allowed(t, account, q) {
				t.Errorf("%s can %s", account, q)
			}
		}
	}
}

// allowed asks "VERB RESOURCE[/SUBRESOURCE or NAME] [GROUP [NAMESPACE]]" for the service account.
func allowed(t *testing.T, account, question string) bool {
	t.Helper()
	words := append(strings.Fields(question), "", "")
	a := &authorizationv1.ResourceAttributes{Verb: words[0], Group: words[2], Namespace: words[3]}
	a.Resource, a.Subresource, _ = strings.Cut(words[1], "/")
	if a.Namespace != "" {
		a.Name, a.Subresource = a.Subresource, ""
	}
	user := "system:serviceaccount:" + cluster.AgentNamespace
	review, err := api.Client().AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{ResourceAttributes: a, User: user + ":" + account, Groups: []string{
			"system:serviceaccounts", "system:serviceaccounts:" + cluster.AgentNamespace, "system:authenticated",
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return review.Status.Allowed
}

// block is one of a pool of its own, in which the nodes have one address each.
func block(pool string, nodes ...string) *ipamv1alpha1.IPBlock {
	slot := netip.MustParsePrefix("10.9.0.0/26")
	b := ipam.Block{Name: ipam.BlockName(pool, slot), Pool: pool, PoolUID: "uid", Slot: slot}
	for _, node := range nodes {
		last := node[len(node)-1] - 'a' + 1
		b.Shares = append(b.Shares, ipam.Share{
			Node: node, NodeUID: "uid-" + node, Session: "session", Ranges: []iprange.Range{iprange.Of(netip.AddrFrom4([4]byte{10, 9, 0, last}))},
		})
	}
	return ipamv1alpha1.FromBlock(b)
}

func shares(nodes ...string) func(*ipamv1alpha1.IPBlock) {
	return func(o *ipamv1alpha1.IPBlock) { o.Spec.Shares = block("any", nodes...).Spec.Shares }
}

// The writes that a test makes with the client's credential.
func update(c client.Client, change func(*ipamv1alpha1.IPBlock)) func(context.Context, *ipamv1alpha1.IPBlock) error {
	return func(ctx context.Context, o *ipamv1alpha1.IPBlock) error {
		change(o)
		return c.Update(ctx, o)
	}
}

func status(c client.Client, change func(*ipamv1alpha1.IPBlockStatus)) func(context.Context, *ipamv1alpha1.IPBlock) error {
	return func(ctx context.Context, o *ipamv1alpha1.IPBlock) error {
		change(&o.Status)
		return c.Status().Update(ctx, o)
	}
}

func remove(c client.Client) func(context.Context, *ipamv1alpha1.IPBlock) error {
	return func(ctx context.Context, o *ipamv1alpha1.IPBlock) error { return c.Delete(ctx, o) }
}

func create(c client.Client, owners []metav1.OwnerReference, nodes ...string) func(context.Context, *ipamv1alpha1.IPBlock) error {
	return func(ctx context.Context, o *ipamv1alpha1.IPBlock) error {
		n := block(o.Spec.Pool, nodes...)
		n.OwnerReferences = owners
		return c.Create(ctx, n)
	}
}

// afterLeaving has node-b leave without a word in the mirror; node-a then leases its address.
func afterLeaving(admin, a client.Client) func(context.Context, *ipamv1alpha1.IPBlock) error {
	return func(ctx context.Context, o *ipamv1alpha1.IPBlock) error {
		shares("node-a")(o)
		if err := admin.Update(ctx, o); err != nil {
			return err
		}
		o.Status.Leases[1].Node, o.Status.Nodes = "node-a", o.Status.Nodes[:1]
		return a.Status().Update(ctx, o)
	}
}

// wants has a node ask another.
func wants(node, from string) func(*ipamv1alpha1.IPBlock) {
	return func(o *ipamv1alpha1.IPBlock) {
		o.Spec.Wants = append(o.Spec.Wants, ipamv1alpha1.Want{
			Node: node, NodeUID: "uid-" + node, Session: "session", From: from, Count: 1, Expires: metav1.NewMicroTime(time.Unix(1_900_000_000, 0)),
		})
	}
}

// asked has node-c ask from, before c changes the block.
func asked(admin, c client.Client, from string, change func(*ipamv1alpha1.IPBlock)) func(context.Context, *ipamv1alpha1.IPBlock) error {
	return func(ctx context.Context, o *ipamv1alpha1.IPBlock) error {
		wants("node-c", from)(o)
		if err := admin.Update(ctx, o); err != nil {
			return err
		}
		change(o)
		return c.Update(ctx, o)
	}
}

func answering(admin, c client.Client, from, offer string) func(context.Context, *ipamv1alpha1.IPBlock) error {
	return asked(admin, c, from, func(o *ipamv1alpha1.IPBlock) { o.Spec.Wants[0].Offered = []string{offer} })
}

func dropping(admin, c client.Client) func(context.Context, *ipamv1alpha1.IPBlock) error {
	return asked(admin, c, "node-b", func(o *ipamv1alpha1.IPBlock) { o.Spec.Wants = nil })
}

func redirecting(admin, c client.Client) func(context.Context, *ipamv1alpha1.IPBlock) error {
	return asked(admin, c, "node-b", func(o *ipamv1alpha1.IPBlock) { o.Spec.Wants[0].From = "node-a" })
}

// TestNodeWritesOnlyItsOwnShares drives the admission policy with the credentials that agents have: tokens bound to their nodes.
func TestNodeWritesOnlyItsOwnShares(t *testing.T) {
	ctx := t.Context()
	admin := newClient(t, api.RESTConfig(), nil)
	a, b := nodeClient(t, "node-a"), nodeClient(t, "node-b")
	cfg, err := api.ServiceAccountConfig(ctx, cluster.AgentNamespace, cluster.AgentServiceAccount)
	unbound := newClient(t, cfg, err)
	awaitPolicy(t, a)

	owner := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "gone", UID: "gone"}
	for name, tc := range map[string]struct {
		before []string // the sharers; nil: none, do creates
		do     func(context.Context, *ipamv1alpha1.IPBlock) error
		ok     bool
	}{
		"create own":             {nil, create(a, nil, "node-a"), true},
		"create another's":       {nil, create(a, nil, "node-b"), false},
		"create for both":        {nil, create(a, nil, "node-a", "node-b"), false},
		"create with no node":    {nil, create(unbound, nil, "node-a"), false},
		"create with owner":      {nil, create(a, []metav1.OwnerReference{owner}, "node-a"), false},
		"join":                   {[]string{"node-b"}, update(a, shares("node-b", "node-a")), true},
		"join an empty block":    {[]string{}, update(a, shares("node-a")), true},
		"leave":                  {[]string{"node-b", "node-a"}, update(a, shares("node-b")), true},
		"change own":             {[]string{"node-a", "node-b"}, update(a, func(o *ipamv1alpha1.IPBlock) { o.Spec.Shares[0].Session = "new" }), true},
		"change another's":       {[]string{"node-a", "node-b"}, update(a, func(o *ipamv1alpha1.IPBlock) { o.Spec.Shares[1].Session = "new" }), false},
		"shrink another's":       {[]string{"node-a", "node-b"}, update(a, func(o *ipamv1alpha1.IPBlock) { o.Spec.Shares[1].Ranges = []string{"10.9.0.9"} }), false},
		"take over":              {[]string{"node-b"}, update(a, shares("node-a")), false},
		"rename another's":       {[]string{"node-b"}, update(a, func(o *ipamv1alpha1.IPBlock) { o.Spec.Shares[0].Node = "node-a" }), false},
		"drop another":           {[]string{"node-a", "node-b"}, update(a, shares("node-a")), false},
		"drop all":               {[]string{"node-a", "node-b"}, update(a, shares()), false},
		"give to another":        {[]string{"node-a"}, update(a, shares("node-a", "node-b")), false},
		"set an owner":           {[]string{"node-a", "node-b"}, update(a, func(o *ipamv1alpha1.IPBlock) { o.OwnerReferences = []metav1.OwnerReference{owner} }), false},
		"set a finalizer":        {[]string{"node-a"}, update(a, func(o *ipamv1alpha1.IPBlock) { o.Finalizers = []string{"example.com/x"} }), false},
		"delete own":             {[]string{"node-a"}, remove(a), true},
		"delete an empty one":    {[]string{}, remove(a), true},
		"delete another's":       {[]string{"node-b"}, remove(a), false},
		"delete a shared one":    {[]string{"node-a", "node-b"}, remove(a), false},
		"delete with no node":    {[]string{"node-a"}, remove(unbound), false},
		"the other node":         {[]string{"node-b"}, remove(b), true},
		"an administrator":       {[]string{"node-a", "node-b"}, remove(admin), true},
		"want":                   {[]string{"node-b"}, update(a, wants("node-a", "node-b")), true},
		"want for another":       {[]string{"node-a", "node-b"}, update(a, wants("node-c", "node-b")), false},
		"answer":                 {[]string{"node-a", "node-b"}, answering(admin, a, "node-a", "10.9.0.1"), true},
		"answer for another":     {[]string{"node-a", "node-b"}, answering(admin, a, "node-b", "10.9.0.1"), false},
		"drop another's want":    {[]string{"node-a", "node-b"}, dropping(admin, a), true},
		"redirect a want":        {[]string{"node-a", "node-b"}, redirecting(admin, a), false},
		"hold own":               {[]string{"node-a", "node-b"}, update(a, holds(0)), true},
		"hold another's":         {[]string{"node-a", "node-b"}, update(a, holds(1)), false},
		"end a hold":             {[]string{"node-a", "node-b"}, held(admin, a, func(o *ipamv1alpha1.IPBlock) { o.Spec.Shares = o.Spec.Shares[:1] }), false},
		"rename a hold":          {[]string{"node-a", "node-b"}, held(admin, a, func(o *ipamv1alpha1.IPBlock) { o.Spec.Shares[1].NodeUID = "mine" }), false},
		"add to a hold":          {[]string{"node-a", "node-b"}, held(admin, a, func(o *ipamv1alpha1.IPBlock) { o.Spec.Shares[1].Ranges = append(o.Spec.Shares[1].Ranges, "10.9.0.9") }), true},
		"mirror own":             {[]string{"node-a", "node-b"}, status(a, func(s *ipamv1alpha1.IPBlockStatus) { s.Leases[0].Pod = "new"; s.Nodes[0].Leased = 7; s.Leased = 8 }), true},
		"mirror away who left":   {[]string{"node-a", "node-b"}, afterLeaving(admin, a), true},
		"mirror another's lease": {[]string{"node-a", "node-b"}, status(a, func(s *ipamv1alpha1.IPBlockStatus) { s.Leases[1].Pod = "new" }), false},
		"mirror another's usage": {[]string{"node-a", "node-b"}, status(a, func(s *ipamv1alpha1.IPBlockStatus) { s.Nodes[1].Leased = 7 }), false},
		"mirror away another's":  {[]string{"node-a", "node-b"}, status(a, func(s *ipamv1alpha1.IPBlockStatus) { s.Leases = s.Leases[:1] }), false},
	} {
		t.Run(name, func(t *testing.T) {
			o := stored(t, admin, name, tc.before)
			switch err := tc.do(ctx, o.DeepCopy()); {
			case tc.ok && err != nil:
				t.Errorf("refused: %v", err)
			case !tc.ok && err == nil:
				t.Error("not refused")
			case !tc.ok && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "railyard-agent-own-shares")):
				t.Errorf("not refused by the policy: %v", err)
			}
		})
	}
}

// holds puts the address of a share into a hold.
func holds(i int) func(*ipamv1alpha1.IPBlock) {
	return func(o *ipamv1alpha1.IPBlock) {
		hold := ipam.Reserved("id")
		s := ipamv1alpha1.Share{Node: hold.Node, NodeUID: hold.NodeUID, Session: hold.Session, Ranges: o.Spec.Shares[i].Ranges}
		o.Spec.Shares = append(slices.Delete(o.Spec.Shares, i, i+1), s)
	}
}

// held has the address of node-b in a hold, before c changes the block.
func held(admin, c client.Client, change func(*ipamv1alpha1.IPBlock)) func(context.Context, *ipamv1alpha1.IPBlock) error {
	return func(ctx context.Context, o *ipamv1alpha1.IPBlock) error {
		holds(1)(o)
		if err := admin.Update(ctx, o); err != nil {
			return err
		}
		change(o)
		return c.Update(ctx, o)
	}
}

// TestNodeWritesOnlyItsOwnUses is the same for reservations.
func TestNodeWritesOnlyItsOwnUses(t *testing.T) {
	ctx := t.Context()
	admin := newClient(t, api.RESTConfig(), nil)
	a := nodeClient(t, "node-a")
	awaitPolicy(t, a)
	user := func(node string) *ipamv1alpha1.ReservationUser {
		if node == "" {
			return nil
		}
		return &ipamv1alpha1.ReservationUser{Node: node, NodeUID: "uid-" + node, Session: "session", Network: "net", ContainerID: "c", Since: metav1.NewMicroTime(time.Unix(1_900_000_000, 0))}
	}
	make := func(pod, node string) *ipamv1alpha1.IPReservation {
		h := ipamv1alpha1.Holder{Kind: ipamv1alpha1.HolderStatefulSet, Namespace: "default", Name: "set", Pod: pod, Interface: "net1"}
		return ipamv1alpha1.NewReservation(ipam.Pool{Name: "uses", UID: "uid"}, h, []netip.Addr{netip.MustParseAddr("10.9.0.1")}, user(node))
	}
	uses := func(node string) func(*ipamv1alpha1.IPReservation) {
		return func(r *ipamv1alpha1.IPReservation) { r.SetUser(user(node)) }
	}
	for name, tc := range map[string]struct {
		before string
		change func(*ipamv1alpha1.IPReservation)
		ok     bool
	}{
		"use what nobody uses":     {"", uses("node-a"), true},
		"use for another":          {"", uses("node-b"), false},
		"end own use":              {"node-a", uses(""), true},
		"end another's":            {"node-b", uses(""), false},
		"take another's":           {"node-b", uses("node-a"), false},
		"give away":                {"node-a", uses("node-b"), false},
		"change what nobody uses":  {"", func(r *ipamv1alpha1.IPReservation) { r.Labels = map[string]string{"x": "y"} }, false},
		"change own addresses":     {"node-a", func(r *ipamv1alpha1.IPReservation) { r.Spec.Addresses = []string{"10.9.0.2"} }, true},
		"change them as it begins": {"", func(r *ipamv1alpha1.IPReservation) { uses("node-a")(r); r.Spec.Addresses = []string{"10.9.0.2"} }, false},
		"drop the finalizer":       {"node-a", func(r *ipamv1alpha1.IPReservation) { r.Finalizers = nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := make(strings.ReplaceAll(name, " ", "-"), tc.before)
			if err := admin.Create(ctx, r); err != nil {
				t.Fatal(err)
			}
			tc.change(r)
			switch err := a.Update(ctx, r); {
			case tc.ok && err != nil:
				t.Errorf("refused: %v", err)
			case !tc.ok && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "railyard-agent-own-uses")):
				t.Errorf("not refused by the policy: %v", err)
			}
		})
	}
	if err := a.Create(ctx, make("made", "node-a")); err != nil {
		t.Errorf("reserve: %v", err)
	}
	if err := a.Create(ctx, make("made-for-another", "node-b")); !apierrors.IsForbidden(err) {
		t.Errorf("reserve for another: %v", err)
	}
	if err := a.Create(ctx, make("made-for-nobody", "")); !apierrors.IsForbidden(err) {
		t.Errorf("reserve for nobody: %v", err)
	}
}

// stored is a block of a pool of its own, stored with a status if there is a list of sharers.
func stored(t *testing.T, admin client.Client, name string, before []string) *ipamv1alpha1.IPBlock {
	t.Helper()
	pool := "p-" + strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), "'", "")
	o := block(pool, before...)
	if before != nil {
		if err := admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		for _, s := range o.Spec.Shares {
			o.Status.Nodes = append(o.Status.Nodes, ipamv1alpha1.NodeUsage{Node: s.Node, Leased: 1})
			o.Status.Leases = append(o.Status.Leases, ipamv1alpha1.BlockLease{Address: s.Ranges[0], Node: s.Node})
		}
		if err := admin.Status().Update(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// awaitPolicy returns when the policy is in force: the API server compiles policies a little after they are stored.
func awaitPolicy(t *testing.T, c client.Client) {
	t.Helper()
	for i := 0; ; i++ {
		o := block(fmt.Sprintf("await-%d", i), "node-b")
		err := c.Create(t.Context(), o)
		if apierrors.IsForbidden(err) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if t.Context().Err() != nil || i > 3000 {
			t.Fatal("the policy is not in force")
		}
	}
}

// TestPolicyBearsLargestBlock: the cost of the expressions stays inside of what the API server allows for the largest status.
func TestPolicyBearsLargestBlock(t *testing.T) {
	ctx := t.Context()
	admin := newClient(t, api.RESTConfig(), nil)
	a := nodeClient(t, "node-a")
	slot := netip.MustParsePrefix("10.96.0.0/20")
	b := ipam.Block{Name: ipam.BlockName("large", slot), Pool: "large", PoolUID: "uid", Slot: slot}
	for i := range 1024 { // sharers, one a node: more than share a block in any cluster
		node := fmt.Sprintf("node-%d", i)
		if i == 0 {
			node = "node-a"
		}
		b.Shares = append(b.Shares, ipam.Share{
			Node: node, NodeUID: "uid-" + node, Session: "session", Ranges: []iprange.Range{iprange.Of(netip.AddrFrom4([4]byte{10, 96, byte(i / 256), byte(i)}))},
		})
	}
	o := ipamv1alpha1.FromBlock(b)
	o.Labels = nil
	for i := range 64 {
		wants(fmt.Sprintf("asker-%d", i), "node-a")(o)
	}
	if err := admin.Create(ctx, o); err != nil {
		t.Fatal(err)
	}
	for i := range 4096 {
		o.Status.Leases = append(o.Status.Leases, ipamv1alpha1.BlockLease{
			Address: fmt.Sprintf("10.96.%d.%d", i/256, i%256), Node: b.Shares[i%len(b.Shares)].Node, Network: "rail0",
			ContainerID: strings.Repeat("c", 64), IfName: "net1", Namespace: "default", Pod: fmt.Sprintf("pod-%d", i),
		})
	}
	if err := admin.Status().Update(ctx, o); err != nil {
		t.Fatal(err)
	}
	o.Status.Leases[0].Pod = "new"
	if err := a.Status().Update(ctx, o); err != nil {
		t.Errorf("status: %v", err)
	}
	o.Spec.Shares[0].Session = "new"
	for i := range o.Spec.Wants {
		o.Spec.Wants[i].Offered = []string{"10.96.9.9"}
	}
	if err := a.Update(ctx, o); err != nil {
		t.Errorf("spec: %v", err)
	}
}

// TestWorkloads: the pods of both workloads are what the API server would take at their creation, not only at the workload's.
func TestWorkloads(t *testing.T) {
	ds, err := api.Client().AppsV1().DaemonSets(cluster.AgentNamespace).Get(t.Context(), "railyard-agent", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	deploy, err := api.Client().AppsV1().Deployments(cluster.AgentNamespace).Get(t.Context(), "railyard-controller", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, template := range map[string]corev1.PodTemplateSpec{"agent": ds.Spec.Template, "controller": deploy.Spec.Template} {
		pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
		pod.Name = "try-" + name
		if _, err := api.Client().CoreV1().Pods(cluster.AgentNamespace).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if sc := template.Spec.Containers[0].SecurityContext; sc.ReadOnlyRootFilesystem == nil || !*sc.ReadOnlyRootFilesystem || sc.Privileged != nil && *sc.Privileged {
			t.Errorf("%s: security context %+v", name, sc)
		}
	}
}
