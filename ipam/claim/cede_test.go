// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

var ownerC = ipam.Owner{Node: "c", NodeUID: "uc", Session: "sc"}

// want is o's of b, until an hour after noon.
func want(o ipam.Owner, from string, offered ...string) ipam.Want {
	return ipam.Want{
		Node: o.Node, NodeUID: o.NodeUID, Session: o.Session, From: from, Count: 2, Expires: noon.Add(time.Hour), Offered: rs(offered...),
	}
}

func withWants(b ipam.Block, wants ...ipam.Want) ipam.Block {
	b.Wants = wants
	return b
}

// textWants is text, with the wants.
func textWants(b ipam.Block) string {
	out := []string{text(b)}
	for _, w := range b.Wants {
		out = append(out, fmt.Sprintf("%s asks %s: %v", w.Node, w.From, w.Offered))
	}
	return strings.Join(out, "; ")
}

func TestCedePlans(t *testing.T) {
	late := noon.Add(2 * time.Hour)
	aHas := block("10.0.0.0/28", share(ownerA, "10.0.0.0/29"))
	asked := withWants(aHas, want(ownerB, "a"))
	two := withWants(aHas, want(ownerB, "a"), want(ownerC, "a"))
	offered := withWants(block("10.0.0.0/28", share(ownerA, "10.0.0.0/30")), want(ownerB, "a", "10.0.0.4/30"))
	ask := func(b ipam.Block, w ipam.Want) ipam.Block {
		out, err := WithWant(b, w, noon)
		if err != nil {
			t.Error(err)
		}
		return out
	}
	reborn := ownerB
	reborn.Session = "new"
	for title, tc := range map[string]struct {
		got  ipam.Block
		want string
	}{
		"ask":                       {ask(aHas, want(ownerB, "a")), "a/ua/sa [10.0.0.0/29]; b asks a: []"},
		"ask another instead":       {ask(asked, want(ownerB, "x")), "a/ua/sa [10.0.0.0/29]; b asks x: []"},
		"ask after a reboot":        {ask(asked, want(reborn, "a")), "a/ua/sa [10.0.0.0/29]; b asks a: []"},
		"offer":                     {WithOffer(asked, ownerA, want(ownerB, "a"), rs("10.0.0.4/30"), noon), "a/ua/sa [10.0.0.0/30]; b asks a: [10.0.0.4/30]"},
		"offer to one of two":       {WithOffer(two, ownerA, want(ownerC, "a"), rs("10.0.0.7"), noon), "a/ua/sa [10.0.0.0-10.0.0.6]; b asks a: []; c asks a: [10.0.0.7]"},
		"offer all there is":        {WithOffer(asked, ownerA, want(ownerB, "a"), rs("10.0.0.0/29"), noon), "; b asks a: [10.0.0.0/29]"},
		"offer after its end":       {WithOffer(asked, ownerA, want(ownerB, "a"), rs("10.0.0.4/30"), late), "a/ua/sa [10.0.0.0/30]; b asks a: []"},
		"offer all after its end":   {WithOffer(asked, ownerA, want(ownerB, "a"), rs("10.0.0.0/29"), late), ""},
		"offer to a former life":    {WithOffer(asked, ownerA, want(reborn, "a"), rs("10.0.0.4/30"), noon), "a/ua/sa [10.0.0.0/30]; b asks a: []"},
		"offer when none is wanted": {WithOffer(aHas, ownerA, want(ownerB, "a"), rs("10.0.0.4/30"), noon), "a/ua/sa [10.0.0.0/30]"},
		"offer again":               {WithOffer(offered, ownerA, want(ownerB, "a"), rs("10.0.0.4/30"), noon), textWants(offered)},
		"offer a second time":       {WithOffer(offered, ownerA, want(ownerB, "a"), rs("10.0.0.0"), noon), "a/ua/sa [10.0.0.1-10.0.0.3]; b asks a: [10.0.0.4/30]"},
		"offer what is another's":   {WithOffer(asked, ownerA, want(ownerB, "a"), rs("10.0.0.8"), noon), textWants(asked)},
		"take":                      {WithTaken(offered, ownerB, rs("10.0.0.4/30"), noon), "a/ua/sa [10.0.0.0/30]; b/ub/sb [10.0.0.4/30]"},
		"take nothing":              {WithTaken(two, ownerB, nil, noon), "a/ua/sa [10.0.0.0/29]; c asks a: []"},
		"leave with an offer open":  {leave(offered, ownerA, nil, noon), "; b asks a: [10.0.0.4/30]"},
		"leave with one past":       {leave(offered, ownerA, nil, late), ""},
	} {
		t.Run(title, func(t *testing.T) {
			if d := cmp.Diff(tc.want, textWants(tc.got)); d != "" {
				t.Error(d)
			}
		})
	}
	if got := textWants(asked); got != "a/ua/sa [10.0.0.0/29]; b asks a: []" {
		t.Errorf("the block was changed to %s", got)
	}
	for who, c := range map[string]struct {
		owner ipam.Owner
		now   time.Time
		want  string
	}{
		"whom it is offered":  {ownerB, noon, "10.0.0.4/30"},
		"its next life":       {reborn, noon, "10.0.0.4/30"},
		"another":             {ownerC, noon, ""},
		"another, afterwards": {ownerC, late, "10.0.0.4/30"},
	} {
		if got := strings.Trim(fmt.Sprint(offered.Free(c.owner, rs("10.0.0.0/29"), c.now)), "[]"); got != c.want {
			t.Errorf("free to %s: %s, want %s", who, got, c.want)
		}
	}
}

func TestTooManyWants(t *testing.T) {
	b := block("10.0.0.0/28", share(ownerA, "10.0.0.0/29"))
	for i := range maxWants {
		b.Wants = append(b.Wants, want(node(i), "a"))
	}
	if _, err := WithWant(b, want(ownerB, "a"), noon); !errors.Is(err, ipam.ErrUnavailable) {
		t.Errorf("one want too many: %v", err)
	}
	if _, err := WithWant(b, want(node(3), "a"), noon); err != nil {
		t.Errorf("in the place of an own one: %v", err)
	}
	b.Wants[9].Expires = noon
	if _, err := WithWant(b, want(ownerB, "a"), noon); err != nil {
		t.Errorf("in the place of a past one: %v", err)
	}
}

func TestAskings(t *testing.T) {
	pool := mustPool(t, ipam.PoolSpec{Name: "p", UID: "u", IPv4: v4("10.0.0.0/24", 64)})
	usage := func(n string, free, cooling int32) v1alpha1.NodeUsage {
		return v1alpha1.NodeUsage{Node: n, Free: free, Cooling: cooling, Leased: 1}
	}
	x := v1alpha1.FromBlock(block("10.0.0.0/26", share(ownerA, "10.0.0.0/28"), share(ownerB, "10.0.0.16/28"), share(ownerC, "10.0.0.32/28")))
	x.Status.Nodes = []v1alpha1.NodeUsage{usage("a", 9, 0), usage("b", 0, 0), usage("c", 0, 4)}
	y := v1alpha1.FromBlock(block("10.0.0.64/26", share(ownerC, "10.0.0.64/28")))
	y.Status.Nodes = []v1alpha1.NodeUsage{usage("c", 90, 0)} // of before it ceded most of it
	foreign := v1alpha1.FromBlock(block("10.0.0.128/26", share(ownerC, "10.0.0.128/28")))
	foreign.Spec.PoolUID = "another"
	objects := []v1alpha1.IPBlock{*x, *y, *foreign}
	classes := func(o ipam.Owner, salt string) (out []string) {
		for _, a := range askings(o, pool, pool.Subnets[0], objects, salt) {
			out = append(out, fmt.Sprintf("%s of %s: %d, %d", a.From, a.Block, a.Free, a.Cooling))
		}
		return out
	}
	got := classes(ipam.Owner{Node: "d"}, "1")
	if len(got) != 4 || got[2] != "c of p.10-0-0-0: 0, 4" || got[3] != "b of p.10-0-0-0: 0, 0" || cmp.Equal(got[0], got[1]) {
		t.Errorf("got %q, want those with free addresses, then the cooling, then the full", got)
	}
	if got := classes(ownerA, "1"); len(got) != 3 {
		t.Errorf("a asks itself: %q", got)
	}
	first := map[string]int{}
	for i := range 400 {
		first[classes(ipam.Owner{Node: fmt.Sprint("node-", i)}, "1")[0]]++
	}
	a, c := first["a of p.10-0-0-0: 9, 0"], first["c of p.10-0-0-64: 16, 0"]
	if a+c != 400 || a < 90 || c < 190 { // 144 and 256 on average
		t.Errorf("400 askers ask first: %v", first)
	}
}

// TestHandOver takes addresses through an API server, each step by itself.
func TestHandOver(t *testing.T) {
	ctx := t.Context()
	pool := newPool(t, ipam.PoolSpec{IPv4: v4("10.0.0.0/28", 16)})
	c, a, b, third := New(api, nil), node(1), node(2), node(3)
	name := mustClaim(t, a, pool).Name
	_, err := c.Claim(ctx, b, pool, true)
	full, ok := errors.AsType[*FullError](err)
	if !ok || !errors.Is(err, ipam.ErrPoolFull) || len(full.Askings) != 1 || full.Askings[0].From != a.Node {
		t.Fatalf("claim from a full pool: %v, %+v", err, full)
	}
	if err := c.Ask(ctx, b, full.Askings[0], 3, true, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	read := func() *v1alpha1.IPBlock {
		var o v1alpha1.IPBlock
		if err := api.Get(ctx, client.ObjectKey{Name: name}, &o); err != nil {
			t.Fatal(err)
		}
		return &o
	}
	obj := read()
	if _, ok := obj.Labels[v1alpha1.NodeLabel(b.Node)]; !ok {
		t.Error("the asker's watch does not show the block")
	}
	asked, err := obj.Block()
	if err != nil || len(asked.Wants) != 1 {
		t.Fatalf("%+v, %v", asked, err)
	}
	for range 2 { // again, as after a lost answer
		if stood, err := c.Offer(ctx, a, obj, asked.Wants[0], rs("10.0.0.13-10.0.0.14")...); !stood || err != nil {
			t.Fatalf("offer: stood %v, %v", stood, err)
		}
	}
	if _, err := c.Claim(ctx, third, pool, true); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("a third node claims what is offered: %v", err)
	}
	for _, want := range []int{2, 0} {
		got, joined, err := c.Take(ctx, b, pool, name, nil)
		if joined != want || err != nil || textWants(got) != "node-1/uid-1/session-1 [10.0.0.1-10.0.0.12]; node-2/uid-2/session-2 [10.0.0.13-10.0.0.14]" {
			t.Fatalf("take: %d, %s, %v", joined, textWants(got), err)
		}
	}
	// One that is past is nobody's, and whoever writes sweeps it.
	gone := node(4)
	if err := c.Ask(ctx, gone, Asking{Block: name, From: a.Node}, 1, false, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	asked, err = read().Block()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Offer(ctx, a, read(), asked.Wants[0], rs("10.0.0.12")...); err != nil {
		t.Fatal(err)
	}
	later := New(api, nil)
	later.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	if got, err := later.Claim(ctx, third, pool, true); err != nil || textWants(got) != "node-1/uid-1/session-1 [10.0.0.1-10.0.0.11]; node-2/uid-2/session-2 [10.0.0.13-10.0.0.14]; node-3/uid-3/session-3 [10.0.0.12]" {
		t.Errorf("claim after the end of a want: %s, %v", textWants(got), err)
	}
	if _, ok := read().Labels[v1alpha1.NodeLabel(gone.Node)]; ok {
		t.Error("the label of a want that is past stays")
	}
	if err := c.Ask(ctx, gone, Asking{Block: name, From: "nobody"}, 1, false, time.Now().Add(time.Hour)); !errors.Is(err, ErrNoShare) {
		t.Errorf("ask one without a share: %v", err)
	}
	check(t, pool)
}

// An API server whose resource is older drops the field.
func TestOldResource(t *testing.T) {
	pool := newPool(t, ipam.PoolSpec{IPv4: v4("10.0.0.0/28", 16)})
	name := mustClaim(t, node(1), pool).Name
	old := New(interceptor.NewClient(api, interceptor.Funcs{
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			o.(*v1alpha1.IPBlock).Spec.Wants = nil
			return c.Update(ctx, o, opts...)
		},
	}), nil)
	if err := old.Ask(t.Context(), node(2), Asking{Block: name, From: "node-1"}, 1, false, time.Now().Add(time.Hour)); !errors.Is(err, ErrNoCeding) {
		t.Errorf("got %v, want %v", err, ErrNoCeding)
	}
}
