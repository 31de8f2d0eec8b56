// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/railyard-net/railyard/netdef/api/v1alpha1"
	"github.com/railyard-net/railyard/netdef/render"
)

// summary is what a plan does, in words.
func summary(p plan) []string {
	var out []string
	if p.create != nil {
		out = append(out, "create "+keyOf(p.create).String())
	}
	if p.update != nil {
		out = append(out, "update "+keyOf(p.update).String())
	}
	for _, nad := range p.remove {
		out = append(out, "remove "+keyOf(&nad).String())
	}
	if p.release {
		out = append(out, "release")
	}
	if p.usable != nil {
		out = append(out, "usable "+keyOf(p.usable).String())
	}
	if p.note != "" {
		out = append(out, "note")
	}
	out = append(out, p.ready.Reason)
	if p.inUse != nil {
		out = append(out, p.inUse.Reason)
	}
	return out
}

func TestDecide(t *testing.T) {
	n := network("n", v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{NetworkNamespace: "new"}})
	want, err := render.Network(n)
	if err != nil {
		t.Fatal(err)
	}
	at := func(namespace string) nadv1.NetworkAttachmentDefinition {
		nad := *want.DeepCopy()
		nad.Namespace, nad.Annotations = namespace, map[string]string{render.OwnerAnnotation: render.Owner(n, namespace)}
		return nad
	}
	now := metav1.NewTime(time.Now())
	deleted := n.DeepCopy()
	deleted.DeletionTimestamp = &now
	drifted, foreign, terminating := at("new"), at("new"), at("new")
	drifted.Spec.Config = "{}"
	foreign.Annotations = nil
	terminating.DeletionTimestamp = &now
	good := at("new")
	used := func(namespace string) map[types.NamespacedName][]string {
		return map[types.NamespacedName][]string{{Namespace: namespace, Name: "n"}: {"a/p"}}
	}
	list := func(nads ...nadv1.NetworkAttachmentDefinition) []nadv1.NetworkAttachmentDefinition { return nads }
	for name, tc := range map[string]struct {
		v    view
		want []string
	}{
		"new":                   {view{want: want, namespace: namespaceActive}, []string{"create new/n", "usable new/n", "Rendered"}},
		"nothing to do":         {view{want: want, namespace: namespaceActive, found: &good}, []string{"usable new/n", "Rendered"}},
		"in use, nothing to do": {view{want: want, namespace: namespaceActive, found: &good, users: used("new")}, []string{"usable new/n", "Rendered"}},
		"drift":                 {view{want: want, namespace: namespaceActive, found: &drifted}, []string{"update new/n", "usable new/n", "Rendered"}},
		"drift in use":          {view{want: want, namespace: namespaceActive, found: &drifted, users: used("new")}, []string{"update new/n", "usable new/n", "note", "Rendered"}},
		"pool not ready":        {view{want: want, namespace: namespaceActive, pool: "why"}, []string{"create new/n", "usable new/n", "PoolNotReady"}},
		"foreign":               {view{want: want, namespace: namespaceActive, found: &foreign}, []string{"Conflict"}},
		"foreign after a move":  {view{want: want, namespace: namespaceActive, found: &foreign, former: list(at("old"))}, []string{"usable old/n", "Conflict"}},
		"definition going":      {view{want: want, namespace: namespaceActive, found: &terminating}, []string{"Failed"}},
		"namespace missing":     {view{want: want, former: list(at("old"))}, []string{"usable old/n", "NamespaceNotFound"}},
		"namespace going":       {view{want: want, namespace: namespaceTerminating, found: &good}, []string{"NamespaceTerminating"}},
		"moved":                 {view{want: want, namespace: namespaceActive, former: list(at("old"))}, []string{"create new/n", "remove old/n", "usable new/n", "Rendered"}},
		"moved in use":          {view{want: want, namespace: namespaceActive, found: &good, former: list(at("old"), at("older")), users: used("old")}, []string{"remove older/n", "usable new/n", "Rendered", "FormerNamespaceStillIn"}},
		"invalid":               {view{invalid: errors.New("why")}, []string{"InvalidSpec"}},
		"invalid edit":          {view{invalid: errors.New("why"), found: &good, former: list(at("old"))}, []string{"usable new/n", "InvalidSpec"}},
		"invalid over foreign":  {view{invalid: errors.New("why"), found: &foreign}, []string{"InvalidSpec"}},
		"deleted":               {view{network: deleted, former: list(at("new"), at("old"))}, []string{"remove new/n", "remove old/n", "release", "Deleting"}},
		"deleted in use":        {view{network: deleted, former: list(at("new"), at("old")), users: used("new")}, []string{"remove old/n", "usable new/n", "Deleting", "DeletionWaits"}},
		"deleted, nothing left": {view{network: deleted, invalid: errors.New("why")}, []string{"release", "Deleting"}},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.v.network == nil {
				tc.v.network = n
			}
			checkPlan(t, tc.v, tc.want)
		})
	}
}

// TestConflict: who has the definition is said, if a network has it.
func TestConflict(t *testing.T) {
	at := func(owner string) *nadv1.NetworkAttachmentDefinition {
		return &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "n", Annotations: map[string]string{render.OwnerAnnotation: owner}}}
	}
	want := at("railnetwork.railyard.dev/n in ns")
	for owner, words := range map[string]string{
		"macvlannetwork.railyard.dev/n in ns":    "is that of macvlannetwork.railyard.dev/n: rename",
		"macvlannetwork.railyard.dev/n in other": "is not this network's", // a copy
		"":                                       "is not this network's",
	} {
		if got := conflict(keyOf(want), at(owner), want); !strings.Contains(got, words) {
			t.Errorf("%q: %s", owner, got)
		}
	}
}

// checkPlan decides on v and checks what no plan may do.
func checkPlan(t *testing.T, v view, want []string) {
	t.Helper()
	p := decide(v)
	if diff := cmp.Diff(want, summary(p)); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
	for _, nad := range p.remove {
		if !owns(v.network, &nad) || len(v.users[keyOf(&nad)]) > 0 {
			t.Errorf("removes %s, which is foreign or in use", keyOf(&nad))
		}
	}
	if p.ready.Reason != v1alpha1.ReasonRendered && p.ready.Message == "" {
		t.Error("the condition has no message")
	}
}

func TestStatusOfLongMessages(t *testing.T) {
	p := plan{ready: notReady(v1alpha1.ReasonInvalidSpec, strings.Repeat("€", 40000))}
	if n := len(newStatus(v1alpha1.NetworkStatus{}, 1, p).Conditions[0].Message); n > 32768 {
		t.Errorf("message of %d bytes: the API server takes 32768", n)
	}
}

func TestSelected(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "[]",
		"a":                                 "[pods/a]",
		"a@if, other/b@net2 ,a":             "[other/b pods/a]",
		`[{"name":"a"}]`:                    "[pods/a]",
		`[{"name":"a","namespace":"x"}]`:    "[x/a]",
		`[null,{"name":"a"}]`:               "[pods/a]",
		`[{"namespace":"x"}]`:               "[]",
		`[{"name":"a","ips":"10.0.0.1"}]`:   "[]",
		`{"name":"a"}`:                      "[]",
		"a/b/c":                             "[]",
		"UPPER":                             "[]",
		`[{"name":"a"},{"name":"b"}`:        "[]",
		`[{"name":"a","cni-args":{"x":1}}]`: "[pods/a]",
	} {
		pod := metadataOf("Pod")
		pod.Namespace, pod.Annotations = "pods", selecting(text)
		if got := fmt.Sprint(selected(pod)); got != want {
			t.Errorf("%q selects %s, want %s", text, got, want)
		}
	}
}

func TestNamePods(t *testing.T) {
	pods := []string{"a/1", "a/2", "a/3", "a/4", "a/5", "a/6", "a/7"}
	if got := namePods(pods[:2]); got != "a/1, a/2" {
		t.Error(got)
	}
	if got := namePods(pods); got != "a/1, a/2, a/3, a/4, a/5 and 2 more" {
		t.Error(got)
	}
}

// FuzzSelected: any user may put any text into an annotation of their pod; the controller reads them all.
func FuzzSelected(f *testing.F) {
	for _, text := range []string{"a", "ns/a@if", `[{"name":"a"}]`, "[null]", `[{"name":"a","default-route":["x"]}]`, `"`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, nad := range parseSelection(text, "pods") {
			if nad.Name == "" || nad.Namespace == "" {
				t.Errorf("%q selects %q", text, nad)
			}
		}
	})
}
