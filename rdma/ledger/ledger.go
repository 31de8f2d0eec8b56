// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Unit is a piece of hardware, such as "gpu 0000:1b:00.0". Who makes devices of the same hardware gives it the same name.
type Unit string

// Claim is what a device takes of a unit. Any number may share one; whoever does not is alone with it.
type Claim struct {
	Unit   Unit `json:"unit"`
	Shared bool `json:"shared,omitempty"`
}

// Device is what a front end hands out: an ID, which is unique in its resource.
type Device struct {
	Resource string `json:"resource"`
	ID       string `json:"id"`
}

func (d Device) String() string { return d.Resource + " " + d.ID }

func compareDevices(a, b Device) int {
	return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.ID, b.ID))
}

// Holder is the container that has a device.
type Holder struct{ Namespace, Pod, Container string }

// Record is a device that was given, with what it was made of then.
type Record struct {
	Device Device  `json:"device"`
	Claims []Claim `json:"claims"`
}

// ErrUnknown: no front end knows a device of that name.
var ErrUnknown = errors.New("no such device")

// ConflictError says that hardware is in use by another device.
type ConflictError struct {
	Device Device
	Unit   Unit
	By     Device
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s needs %s, which is in use as %s", e.Device, e.Unit, e.By)
}

// Ledger is the accounts. Its methods may be called concurrently.
type Ledger struct {
	now   func() time.Time
	grace time.Duration
	save  func([]Record) error

	mu     sync.Mutex
	known  map[Device][]Claim
	used   map[Device]*use
	synced bool
}

// use is a device that is given or held.
type use struct {
	claims []Claim
	seen   time.Time // when it was given, or last seen in a pod
	holder *Holder   // nil: no Sync has shown it yet
}

// New makes a ledger of the records that an earlier one saved. Grace is how long a kubelet may need to list what it was
// given, or, when it starts, what its pods have. Save must store the records so that they outlive the process; it may be nil.
func New(records []Record, now func() time.Time, grace time.Duration, save func([]Record) error) *Ledger {
	l := &Ledger{now: now, grace: grace, save: save, known: map[Device][]Claim{}, used: map[Device]*use{}}
	if save == nil {
		l.save = func([]Record) error { return nil }
	}
	for _, r := range records {
		l.used[r.Device] = &use{claims: slices.Clone(r.Claims), seen: now()} // perhaps given a moment ago
	}
	return l
}

// Know replaces what is offered. What is in use keeps the claims with which it was given.
func (l *Ledger) Know(devices map[Device][]Claim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known = maps.Clone(devices)
	for d, u := range l.used {
		if u.claims == nil {
			u.claims = l.known[d]
		}
	}
}

// Take gives devices, all or none: an error is an ErrUnknown, a *ConflictError, or one of Save. Taking what is in use already is no error: the
// kubelet may have ended the pod that had it, which no Sync has shown yet, or ask again after an answer that it did not get. The claims are then those of now.
func (l *Ledger) Take(devices ...Device) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, d := range devices {
		claims, ok := l.known[d]
		if !ok {
			return fmt.Errorf("%s: %w", d, ErrUnknown)
		}
		if err := l.conflict(d, claims); err != nil {
			return err
		}
		for _, other := range devices[:i] {
			if unit, ok := clash(claims, l.known[other]); ok && other != d {
				return &ConflictError{d, unit, other}
			}
		}
	}
	before := maps.Clone(l.used)
	for _, d := range devices {
		u := &use{claims: l.known[d], seen: l.now()}
		if old := l.used[d]; old != nil {
			u.holder = old.holder
		}
		l.used[d] = u
	}
	if err := l.save(l.records()); err != nil {
		l.used = before
		return fmt.Errorf("record what is given: %w", err)
	}
	return nil
}

// Sync replaces what is held by what a kubelet said that pods have, where asked is when it was asked. It returns whether anything became free or was new. An error
// is that of Save, and everything is as it should be but the records.
func (l *Ledger) Sync(held map[Device]Holder, asked time.Time) (changed bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	changed = !l.synced
	l.synced = true
	for d, u := range l.used {
		if _, ok := held[d]; !ok && !u.seen.Add(l.grace).After(asked) {
			delete(l.used, d)
			changed = true
		}
	}
	for d, h := range held {
		u := l.used[d]
		if u == nil {
			u = &use{claims: l.known[d]}
			l.used[d], changed = u, true
		}
		u.holder, u.seen = &h, asked
	}
	if !changed {
		return false, nil
	}
	return true, l.save(l.records())
}

// Conflict says why a device can't be given now: a *ConflictError, or nil.
func (l *Ledger) Conflict(d Device, claims []Claim) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conflict(d, claims)
}

func (l *Ledger) conflict(d Device, claims []Claim) error {
	for _, other := range slices.SortedFunc(maps.Keys(l.used), compareDevices) {
		if other == d {
			continue
		}
		if unit, ok := clash(claims, l.used[other].claims); ok {
			return &ConflictError{d, unit, other}
		}
	}
	return nil
}

func clash(a, b []Claim) (Unit, bool) {
	for _, x := range a {
		for _, y := range b {
			if x.Unit == y.Unit && !(x.Shared && y.Shared) {
				return x.Unit, true
			}
		}
	}
	return "", false
}

// Used is what is given or held, in order. A record without claims is of a device that nobody knows.
func (l *Ledger) Used() []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.records()
}

func (l *Ledger) records() []Record {
	var all []Record
	for _, d := range slices.SortedFunc(maps.Keys(l.used), compareDevices) {
		all = append(all, Record{d, slices.Clone(l.used[d].claims)})
	}
	return all
}

// Holders are the containers that have devices, as the last Sync said.
func (l *Ledger) Holders() map[Device]Holder {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[Device]Holder{}
	for d, u := range l.used {
		if u.holder != nil {
			all[d] = *u.holder
		}
	}
	return all
}

// Check returns an error for each unit that two have who must not: a config was changed under running pods, or two programs hand out the same hardware.
func (l *Ledger) Check() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	devices := slices.SortedFunc(maps.Keys(l.used), compareDevices)
	for i, a := range devices {
		for _, b := range devices[i+1:] {
			if unit, ok := clash(l.used[a].claims, l.used[b].claims); ok {
				errs = append(errs, &ConflictError{a, unit, b})
			}
		}
	}
	return errors.Join(errs...)
}
