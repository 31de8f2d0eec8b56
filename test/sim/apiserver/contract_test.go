// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/test/cluster"
)

// server is what both are to their clients.
type server interface {
	Get(client.Object) error
	List(client.ObjectList, labels.Selector) error
	Create(client.Object) error
	Update(client.Object) error
	UpdateStatus(client.Object) error
	Delete(client.Object, *metav1.Preconditions) error
}

type real struct {
	ctx context.Context
	client.Client
}

func (r real) Get(o client.Object) error {
	return r.Client.Get(r.ctx, client.ObjectKeyFromObject(o), o)
}

func (r real) List(l client.ObjectList, s labels.Selector) error {
	return r.Client.List(r.ctx, l, client.MatchingLabelsSelector{Selector: s})
}
func (r real) Create(o client.Object) error       { return r.Client.Create(r.ctx, o) }
func (r real) Update(o client.Object) error       { return r.Client.Update(r.ctx, o) }
func (r real) UpdateStatus(o client.Object) error { return r.Status().Update(r.ctx, o) }

func (r real) Delete(o client.Object, pre *metav1.Preconditions) error {
	return r.Client.Delete(r.ctx, o, &client.DeleteOptions{Preconditions: pre})
}

// side is one of the servers, with what its clients have seen: copies of objects, some of them old.
type side struct {
	server
	seen     []*v1alpha1.IPBlock
	uids     map[types.UID]int
	versions map[string]int
}

// says is an answer in terms that both servers can agree on: the error's reason, and the object with UIDs and versions
// numbered in the order in which they were first seen.
func (s *side) says(err error, o *v1alpha1.IPBlock) string {
	if err != nil {
		return string(apierrors.ReasonForError(err))
	}
	return s.describe(o)
}

func (s *side) describe(o *v1alpha1.IPBlock) string {
	number(s.uids, o.UID)
	number(s.versions, o.ResourceVersion)
	dying := o.DeletionTimestamp != nil && o.DeletionGracePeriodSeconds != nil && *o.DeletionGracePeriodSeconds == 0
	return fmt.Sprintf("%s uid %d version %d generation %d labels %v finalizers %v dying %v created %v spec %+v status %+v", o.Name,
		s.uids[o.UID], s.versions[o.ResourceVersion], o.Generation, o.Labels, o.Finalizers, dying, !o.CreationTimestamp.IsZero(), o.Spec, o.Status)
}

func number[K comparable](m map[K]int, k K) {
	if _, ok := m[k]; !ok {
		m[k] = len(m)
	}
}

// step does one request, drawn from r, and says how it ended.
func (s *side) step(prefix string, r *rand.Rand) (what, answer string) {
	slot := r.IntN(3)
	name := fmt.Sprintf("%s.10-0-0-%d", prefix, 4*slot)
	o := block(prefix, name, slot, r)
	verb, older, edit, pre := r.IntN(12), r.IntN(3), r.IntN(10), r.IntN(5)
	known := s.known(name, older)
	switch {
	case verb < 2:
		return "get " + name, s.says(s.Get(o), o)
	case verb < 3:
		var l v1alpha1.IPBlockList
		sel, _ := labels.Parse("p=" + prefix + ",sel!=" + string("ab"[r.IntN(2)]))
		err := s.List(&l, sel)
		out := []string{string(apierrors.ReasonForError(err))}
		for i := range l.Items {
			out = append(out, s.describe(&l.Items[i]))
			s.seen = append(s.seen, &l.Items[i])
		}
		return "list", strings.Join(out, "; ")
	case verb < 6 || known == nil:
		if edit == 0 {
			o.ResourceVersion = "1"
		}
		err := s.Create(o)
		s.saw(err, o)
		return "create " + name, s.says(err, o)
	case verb < 8:
		change(known, o, edit)
		err := s.Update(known)
		s.saw(err, known)
		return fmt.Sprintf("update %s older %d edit %d", name, older, edit), s.says(err, known)
	case verb < 10:
		known.Status.Leased, known.Labels = int32(edit), map[string]string{"ignored": "true"}
		if edit == 0 {
			known.ResourceVersion = ""
		}
		err := s.UpdateStatus(known)
		s.saw(err, known)
		return fmt.Sprintf("update status of %s older %d edit %d", name, older, edit), s.says(err, known)
	}
	p := &metav1.Preconditions{}
	if pre > 0 {
		p.UID = &known.UID
	}
	if pre > 1 {
		p.ResourceVersion = &known.ResourceVersion
	}
	return fmt.Sprintf("delete %s older %d pre %d", name, older, pre), string(apierrors.ReasonForError(s.Delete(known, p)))
}

// known is a copy of what was seen of the object, the latest or an older one.
func (s *side) known(name string, older int) *v1alpha1.IPBlock {
	for i := len(s.seen) - 1; i >= 0; i-- {
		if s.seen[i].Name != name {
			continue
		}
		if older--; older < 1 {
			return s.seen[i].DeepCopy()
		}
	}
	return nil
}

func (s *side) saw(err error, o *v1alpha1.IPBlock) {
	if err == nil {
		s.seen = append(s.seen, o.DeepCopy())
	}
}

func block(prefix, name string, slot int, r *rand.Rand) *v1alpha1.IPBlock {
	b := &v1alpha1.IPBlock{Spec: v1alpha1.IPBlockSpec{Pool: prefix, PoolUID: "pool-uid", Slot: fmt.Sprintf("10.0.0.%d/30", 4*slot)}}
	b.Name = name
	b.Labels = map[string]string{"p": prefix, "sel": string("ab"[r.IntN(2)])}
	if r.IntN(4) == 0 {
		b.Finalizers = []string{"test.railyard.dev/keep"}
	}
	for i := range r.IntN(3) {
		b.Spec.Shares = append(b.Spec.Shares, v1alpha1.Share{Node: fmt.Sprint("node-", i), NodeUID: "u", Session: "s", Ranges: []string{fmt.Sprintf("10.0.0.%d", 4*slot+i)}})
	}
	return b
}

// change edits o towards to in one of the ways that an agent has, and in some that it has not.
func change(o, to *v1alpha1.IPBlock, edit int) {
	switch edit {
	case 0: // nothing
	case 1:
		o.ResourceVersion = ""
	case 2:
		o.UID = ""
	case 3:
		o.UID = "another"
	case 4:
		o.Finalizers = nil
	case 5:
		o.Spec.PoolUID = "changed"
	case 6:
		o.Spec.Shares = []v1alpha1.Share{{Node: "n", NodeUID: "u", Session: "s"}}
	case 7:
		one := v1alpha1.Share{Node: "n", NodeUID: "u", Session: "s", Ranges: []string{"10.0.0.1"}}
		o.Spec.Shares = []v1alpha1.Share{one, one}
	case 8:
		o.Labels = to.Labels
	default:
		o.Spec.Shares = to.Spec.Shares
	}
}

// TestAnswersAsTheRealServer sends the same random requests to both and compares the answers.
func TestAnswersAsTheRealServer(t *testing.T) {
	api, err := cluster.StartAPI(t.Context(), cluster.APIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := api.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if err := api.Apply(t.Context(), "manifests/crd/ipam.railyard.dev_ipblocks.yaml"); err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	cfg := api.RESTConfig()
	cfg.QPS = -1
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]int{}
	for seed := range uint64(12) {
		prefix := fmt.Sprintf("seed%d", seed)
		fake := &side{server: &Server{}, uids: map[types.UID]int{}, versions: map[string]int{}}
		theirs := &side{server: real{t.Context(), c}, uids: map[types.UID]int{}, versions: map[string]int{}}
		rf, rt := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 1))
		for n := range 100 {
			what, got := fake.step(prefix, rf)
			_, want := theirs.step(prefix, rt)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("seed %d, request %d, %s: the real server and this one differ (-real +this):\n%s", seed, n, what, diff)
			}
			reasons[strings.Fields(want + " ok")[0]]++
		}
	}
	for _, r := range []metav1.StatusReason{metav1.StatusReasonAlreadyExists, metav1.StatusReasonConflict, metav1.StatusReasonNotFound, metav1.StatusReasonInvalid} {
		if reasons[string(r)] < 10 {
			t.Errorf("only %d requests were answered %s: the comparison says little", reasons[string(r)], r)
		}
	}
}
