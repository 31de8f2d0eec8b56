// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// world is a machine on which the contract is tried: a device in one of two namespaces.
type world struct {
	home, pod     *Handle
	homeNS, podNS int // file descriptors
	id            ID
}

// contract holds a Handle to what its documentation says, on the fake and on real kernels, whatever their mode and driver. The device is in
// home before and after. It returns whether it could be moved.
func contract(t *testing.T, w world) (moved bool) {
	t.Helper()
	mode, err := w.home.Mode()
	if err != nil {
		t.Fatal(err)
	}
	if other, err := w.pod.Mode(); err != nil || other != mode {
		t.Errorf("the mode is %v, but %v (%v) in the other namespace", mode, other, err)
	}
	name := w.found(t)
	w.missing(t)
	if mode == Shared {
		w.at(t, true, true)
		err := w.home.Move(t.Context(), w.id, w.podNS)
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "netns mode is shared") {
			t.Errorf("got %v, want a word about the shared mode", err)
		}
		w.at(t, true, true)
		return false
	}
	w.at(t, true, false)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.home.Move(cancelled, w.id, w.podNS); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want it to be cancelled", err)
	}
	if err := w.home.Move(t.Context(), w.id, w.homeNS); err != nil {
		t.Errorf("move to where it is: %v", err)
	}
	if err := w.pod.Move(t.Context(), w.id, w.podNS); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want no move by a Handle that does not see the device", err)
	}
	w.at(t, true, false)
	err = w.home.Move(t.Context(), w.id, w.podNS)
	if errors.Is(err, ErrUnsupported) && strings.Contains(err.Error(), "driver") {
		w.at(t, true, false)
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	w.at(t, false, true)
	if err := w.home.Move(t.Context(), w.id, w.podNS); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v for a move done before, want ErrNotFound", err)
	}
	if err := w.pod.Move(t.Context(), w.id, w.homeNS); err != nil {
		t.Fatal(err)
	}
	w.at(t, true, false)
	if r, err := w.home.ByID(w.id); err != nil || r.Name != name {
		t.Errorf("it left as %s and is back as %v, %v", name, r, err)
	}
	return true
}

// found looks for the device in every way and returns its name.
func (w world) found(t *testing.T) string {
	t.Helper()
	r, err := w.home.ByID(w.id)
	if err != nil || r.ID != w.id || r.Name == "" {
		t.Fatalf("got %+v, %v for %v", r, err, w.id)
	}
	if byName, err := w.home.ByName(r.Name); err != nil || byName != r {
		t.Errorf("got %+v, %v by name, %+v by ID", byName, err, r)
	}
	if id, err := w.home.Identify(Device{Name: r.Name, NodeGUID: w.id.NodeGUID}); err != nil || id != w.id {
		t.Errorf("identified as %v, %v, want %v", id, err, w.id)
	}
	return r.Name
}

// missing looks for what is not there, and moves it.
func (w world) missing(t *testing.T) {
	t.Helper()
	other := ID{w.id.Index, ^w.id.NodeGUID}
	r, err := w.home.ByID(w.id)
	if err != nil {
		t.Fatal(err)
	}
	_, byID := w.home.ByID(other)
	_, byIndex := w.home.ByID(ID{1 << 30, w.id.NodeGUID})
	_, byName := w.home.ByName("no such device")
	_, identified := w.home.Identify(Device{Name: r.Name, NodeGUID: other.NodeGUID})
	for what, err := range map[string]error{
		"another GUID": byID, "another index": byIndex, "another name": byName, "a name that is another's": identified,
		"move of another": w.home.Move(t.Context(), other, w.podNS),
	} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: got %v, want ErrNotFound", what, err)
		}
	}
}

// at says where the device must be seen.
func (w world) at(t *testing.T, home, pod bool) {
	t.Helper()
	for _, place := range []struct {
		name string
		h    *Handle
		want bool
	}{{"home", w.home, home}, {"pod", w.pod, pod}} {
		r, err := place.h.ByID(w.id)
		if err != nil && !errors.Is(err, ErrNotFound) || (err == nil) != place.want {
			t.Errorf("seen in %s: got %+v, %v, want %v", place.name, r, err, place.want)
		}
	}
}
