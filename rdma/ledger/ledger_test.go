// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var (
	gpu0   = Device{"r/gpu", "GPU-0"}
	gpu1   = Device{"r/gpu", "GPU-1"}
	pair0  = Device{"r/pair", "nic0"}
	pair1  = Device{"r/pair", "nic1"}
	slot0  = Device{"r/shared", "nic0#0"}
	slot1  = Device{"r/shared", "nic0#1"}
	alone  = func(u ...Unit) (c []Claim) { return claims(false, u) }
	shared = func(u ...Unit) (c []Claim) { return claims(true, u) }
)

func claims(shared bool, units []Unit) (c []Claim) {
	for _, u := range units {
		c = append(c, Claim{u, shared})
	}
	return c
}

func offered() map[Device][]Claim {
	return map[Device][]Claim{
		gpu0: alone("g0"), gpu1: alone("g1"), pair0: alone("g0", "n0"), pair1: alone("g1", "n1"), slot0: shared("n0"), slot1: shared("n0"),
	}
}

// clock is a time that the test moves, and the records that were saved.
type clock struct {
	time    time.Time
	saved   []Record
	saveErr error
}

func (c *clock) now() time.Time { return c.time }
func (c *clock) save(r []Record) error {
	if c.saveErr == nil {
		c.saved = r
	}
	return c.saveErr
}

func open(c *clock) *Ledger {
	l := New(c.saved, c.now, time.Minute, c.save)
	l.Know(offered())
	return l
}

func TestTake(t *testing.T) {
	c := &clock{time: time.Unix(1000, 0)}
	l := open(c)
	if err := errors.Join(l.Take(gpu0), l.Take(slot0), l.Take(slot1), l.Take(gpu0)); err != nil {
		t.Fatal(err)
	}
	var conflict *ConflictError
	if err := l.Take(pair0); !errors.As(err, &conflict) || *conflict != (ConflictError{pair0, "g0", gpu0}) {
		t.Errorf("a pair whose GPU is given: %v", err)
	}
	if err := l.Take(pair1, gpu1); !errors.As(err, &conflict) || conflict.By != pair1 {
		t.Errorf("two of one call that are the same hardware: %v", err)
	}
	if err := l.Take(pair1, Device{"r/pair", "x"}); !errors.Is(err, ErrUnknown) {
		t.Errorf("a device that nobody knows: %v", err)
	}
	c.saveErr = errors.New("disk full")
	if err := l.Take(pair1); !errors.Is(err, c.saveErr) {
		t.Errorf("what can't be recorded is given: %v", err)
	}
	c.saveErr = nil
	if err := l.Conflict(gpu1, alone("g1")); err != nil {
		t.Errorf("a refused pair keeps its GPU: %v", err)
	}
}

func TestSync(t *testing.T) {
	c := &clock{time: time.Unix(1000, 0)}
	l := open(c)
	if err := l.Take(gpu0, pair1); err != nil {
		t.Fatal(err)
	}
	sync := func(held map[Device]Holder) {
		t.Helper()
		if _, err := l.Sync(held, c.time); err != nil {
			t.Fatal(err)
		}
	}
	sync(nil)
	if len(l.Used()) != 2 {
		t.Fatalf("a kubelet that does not list yet what it was given a moment ago: %v", l.Used())
	}
	c.time = c.time.Add(time.Minute)
	sync(map[Device]Holder{gpu0: {"d", "p", "c"}})
	if diff := cmp.Diff(map[Device]Holder{gpu0: {"d", "p", "c"}}, l.Holders()); diff != "" || len(l.Used()) != 1 {
		t.Errorf("%v (-want +got):\n%s", l.Used(), diff)
	}
	if err := l.Take(gpu1); err != nil {
		t.Errorf("what no pod took is not free again: %v", err)
	}
}

// After a crash the records count, with what devices were made of when they were given.
func TestRestart(t *testing.T) {
	c := &clock{time: time.Unix(1000, 0)}
	if err := open(c).Take(pair0); err != nil {
		t.Fatal(err)
	}
	l := New(c.saved, c.now, time.Minute, c.save)
	now := offered()
	now[pair0] = alone("g1", "n0") // the pairs are others today
	l.Know(now)
	if err := l.Take(gpu0); err == nil {
		t.Error("the GPU of a pair that was given is given again")
	}
	if err := l.Take(gpu1); err != nil {
		t.Errorf("the GPU that would be in the pair today: %v", err)
	}
	if _, err := l.Sync(map[Device]Holder{pair0: {}, gpu1: {}}, c.time); err != nil {
		t.Fatal(err)
	}
	if err := l.Check(); err != nil {
		t.Error(err)
	}
	// Records lost: what the front end says today.
	l = New(nil, c.now, time.Minute, nil)
	if _, err := l.Sync(map[Device]Holder{pair1: {}, {"r/gone", "x"}: {}}, c.time); err != nil {
		t.Fatal(err)
	}
	l.Know(offered())
	if err := l.Take(gpu1); err == nil {
		t.Error("the GPU of a pair that a pod has is given again")
	}
}

func TestCheck(t *testing.T) {
	l := open(&clock{})
	if _, err := l.Sync(map[Device]Holder{gpu0: {}, pair0: {}, slot0: {}, slot1: {}}, time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	err := l.Check()
	if err == nil || len(err.(interface{ Unwrap() []error }).Unwrap()) != 3 { // the pair with the GPU, and with each slot
		t.Errorf("Check: %v", err)
	}
}

// TestModel plays kubelets that keep to the rules of the API on a ledger that crashes, and looks at the invariant after each step.
func TestModel(t *testing.T) {
	all := []Device{gpu0, gpu1, pair0, pair1, slot0, slot1}
	rapid.Check(t, func(t *rapid.T) {
		c := &clock{time: time.Unix(1000, 0)}
		l := open(c)
		pods := map[Device]Holder{} // what the kubelet has given to pods
		t.Repeat(map[string]func(*rapid.T){
			"admit": func(t *rapid.T) {
				d := rapid.SampledFrom(all).Draw(t, "device")
				if _, busy := pods[d]; busy {
					t.Skip("the kubelet gives nothing twice")
				}
				if l.Take(d) == nil && rapid.Bool().Draw(t, "the answer arrives") {
					pods[d] = Holder{Pod: fmt.Sprint(len(pods))}
				}
			},
			"end": func(t *rapid.T) {
				d := rapid.SampledFrom(all).Draw(t, "device")
				delete(pods, d)
			},
			"sync": func(t *rapid.T) {
				if _, err := l.Sync(maps.Clone(pods), c.time); err != nil {
					t.Fatal(err)
				}
			},
			"wait":  func(t *rapid.T) { c.time = c.time.Add(40 * time.Second) },
			"crash": func(t *rapid.T) { l = open(c) },
			"": func(t *rapid.T) {
				if err := l.Check(); err != nil {
					t.Fatal(err)
				}
				units := map[Unit]Device{}
				for d := range pods {
					for _, claim := range offered()[d] {
						if by, busy := units[claim.Unit]; busy && !claim.Shared {
							t.Fatalf("%s is in two pods, as %s and %s", claim.Unit, d, by)
						}
						units[claim.Unit] = d
					}
				}
			},
		})
	})
}
