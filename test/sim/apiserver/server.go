// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package apiserver is a Kubernetes API server in memory, as far as its clients can tell by the answers to single
// requests on cluster-scoped objects: versions, UIDs, generations, preconditions, finalizers, the status apart from the
// rest, and which error comes when. What it refuses, and what it answers otherwise, is compared with a real server by the
// tests of this package, on random sequences of requests.
//
// It has no watch, no cache, no time-outs and no network: whoever uses it makes those. Nothing in here is concurrent.
package apiserver

import (
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

// Key names an object.
type Key struct{ Kind, Name string }

// KeyOf is the key of o: its kind is that of its metadata for a PartialObjectMetadata, and its type's name otherwise.
func KeyOf(o client.Object) Key {
	if p, ok := o.(*metav1.PartialObjectMetadata); ok {
		return Key{p.Kind, p.Name}
	}
	return Key{reflect.TypeOf(o).Elem().Name(), o.GetName()}
}

// Server holds objects. The zero value is empty and ready.
type Server struct {
	objects map[Key]client.Object
	version int64
	made    int64
}

func resource(k Key) schema.GroupResource {
	return schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: k.Kind}
}

// Get reads into the object, whose name (and kind) are set.
func (s *Server) Get(into client.Object) error {
	k := KeyOf(into)
	is, ok := s.objects[k]
	if !ok {
		return apierrors.NewNotFound(resource(k), k.Name)
	}
	return fill(into, is)
}

// List fills the list with copies of the objects of its kind that the selector matches, by name.
func (s *Server) List(into client.ObjectList, sel labels.Selector) error {
	kind := kindOfList(into)
	var out []runtime.Object
	for _, k := range slices.SortedFunc(maps.Keys(s.objects), byName) {
		o := s.objects[k]
		if k.Kind == kind && (sel == nil || sel.Matches(labels.Set(o.GetLabels()))) {
			out = append(out, o.DeepCopyObject())
		}
	}
	into.SetResourceVersion(strconv.FormatInt(s.version, 10))
	return meta.SetList(into, out)
}

func byName(a, b Key) int {
	switch {
	case a.Name < b.Name:
		return -1
	case a.Name > b.Name:
		return 1
	}
	return 0
}

func kindOfList(l client.ObjectList) string {
	name := reflect.TypeOf(l).Elem().Name()
	return name[:len(name)-len("List")]
}

// Create makes the object, and fills in what the server says about it.
func (s *Server) Create(o client.Object) error {
	k := KeyOf(o)
	if o.GetResourceVersion() != "" {
		return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
			Message: "resourceVersion should not be set on objects to be created"}}
	}
	is := o.DeepCopyObject().(client.Object)
	if f, ok := fieldOf(is, "Status"); ok {
		f.SetZero()
	}
	if err := validate(nil, is); err != nil {
		return err
	}
	if _, ok := s.objects[k]; ok {
		return apierrors.NewAlreadyExists(resource(k), k.Name)
	}
	s.made++
	is.SetUID(types.UID(fmt.Sprintf("uid-%d", s.made)))
	is.SetCreationTimestamp(metav1.NewTime(time.Now().Truncate(time.Second)))
	is.SetDeletionTimestamp(nil)
	is.SetDeletionGracePeriodSeconds(nil)
	is.SetGeneration(1)
	return fill(o, s.put(k, is))
}

// Update replaces all of the object but its status, which UpdateStatus replaces alone. Both need the version that they
// were decided on.
func (s *Server) Update(o client.Object) error { return s.update(o, false) }

// UpdateStatus is Update for the status.
func (s *Server) UpdateStatus(o client.Object) error { return s.update(o, true) }

func (s *Server) update(o client.Object, status bool) error {
	k := KeyOf(o)
	was, ok := s.objects[k]
	switch {
	case !ok:
		return apierrors.NewNotFound(resource(k), k.Name)
	case o.GetUID() != "" && o.GetUID() != was.GetUID():
		return conflict(k, "the UID in the precondition is %s, the object's is %s", o.GetUID(), was.GetUID())
	case o.GetResourceVersion() == "":
		return invalid(k, field.Invalid(field.NewPath("metadata", "resourceVersion"), "", "must be specified for an update"))
	case o.GetResourceVersion() != was.GetResourceVersion():
		return conflict(k, "the object has been modified; please apply your changes to the latest version and try again")
	}
	is := was.DeepCopyObject().(client.Object)
	from := o.DeepCopyObject().(client.Object)
	if status {
		copyField(is, from, "Status")
	} else {
		copyField(is, from, "Spec")
		is.SetLabels(from.GetLabels())
		is.SetAnnotations(from.GetAnnotations())
		is.SetFinalizers(from.GetFinalizers())
		if a, ok := fieldOf(is, "Spec"); ok {
			if b, _ := fieldOf(was, "Spec"); !equality.Semantic.DeepEqual(a.Interface(), b.Interface()) {
				is.SetGeneration(was.GetGeneration() + 1)
			}
		}
	}
	if err := validate(was, is); err != nil {
		return err
	}
	if equality.Semantic.DeepEqual(was, is) {
		return fill(o, was) // nothing is written
	}
	if is.GetDeletionTimestamp() != nil && len(is.GetFinalizers()) == 0 { // gone without having been written
		s.version++
		delete(s.objects, k)
		return fill(o, is)
	}
	return fill(o, s.put(k, is))
}

// Delete deletes the object of o's name, if it is as the preconditions say; one with finalizers stays, and is dying.
func (s *Server) Delete(o client.Object, pre *metav1.Preconditions) error {
	k := KeyOf(o)
	is, ok := s.objects[k]
	switch {
	case !ok:
		return apierrors.NewNotFound(resource(k), k.Name)
	case pre != nil && pre.UID != nil && *pre.UID != is.GetUID():
		return conflict(k, "the UID in the precondition is %s, the object's is %s", *pre.UID, is.GetUID())
	case pre != nil && pre.ResourceVersion != nil && *pre.ResourceVersion != is.GetResourceVersion():
		return conflict(k, "the resourceVersion in the precondition is %s, the object's is %s", *pre.ResourceVersion, is.GetResourceVersion())
	case len(is.GetFinalizers()) == 0:
		s.version++
		delete(s.objects, k)
	case is.GetDeletionTimestamp() == nil:
		is = is.DeepCopyObject().(client.Object)
		now, zero := metav1.NewTime(time.Now().Truncate(time.Second)), int64(0)
		is.SetDeletionTimestamp(&now)
		is.SetDeletionGracePeriodSeconds(&zero)
		is.SetGeneration(is.GetGeneration() + 1)
		s.put(k, is)
	}
	return nil
}

// put stores o, which is the server's from then on, in a new version.
func (s *Server) put(k Key, o client.Object) client.Object {
	if s.objects == nil {
		s.objects = map[Key]client.Object{}
	}
	s.version++
	o.SetResourceVersion(strconv.FormatInt(s.version, 10))
	s.objects[k] = o
	return o
}

// Backup is the server's content at a time.
type Backup map[Key]client.Object

// Backup takes one.
func (s *Server) Backup() Backup { return maps.Clone(s.objects) }

// Restore makes the objects of a kind those of the backup, in new versions: as after a restore of etcd with its
// revision raised, without which clients could mistake an old version for a new one.
func (s *Server) Restore(b Backup, kind string) {
	for k := range s.objects {
		if k.Kind == kind {
			delete(s.objects, k)
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(b), byName) {
		if k.Kind == kind {
			s.put(k, b[k].DeepCopyObject().(client.Object))
		}
	}
}

func fill(into, from client.Object) error {
	a, b := reflect.ValueOf(into), reflect.ValueOf(from.DeepCopyObject())
	if a.Type() != b.Type() {
		return fmt.Errorf("apiserver: a %T is asked for, and the object is a %T", into, from)
	}
	gvk := into.GetObjectKind().GroupVersionKind()
	a.Elem().Set(b.Elem())
	into.GetObjectKind().SetGroupVersionKind(gvk)
	return nil
}

func fieldOf(o client.Object, name string) (reflect.Value, bool) {
	f := reflect.ValueOf(o).Elem().FieldByName(name)
	return f, f.IsValid()
}

func copyField(into, from client.Object, name string) {
	if f, ok := fieldOf(into, name); ok {
		g, _ := fieldOf(from, name)
		f.Set(g)
	}
}

func conflict(k Key, format string, args ...any) error {
	return apierrors.NewConflict(resource(k), k.Name, fmt.Errorf(format, args...))
}

func invalid(k Key, errs ...*field.Error) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: v1alpha1.GroupVersion.Group, Kind: k.Kind}, k.Name, errs)
}
