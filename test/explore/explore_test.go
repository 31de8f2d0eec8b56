// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package explore

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

// jugs are two, of three and five litres: of the two ways to measure four, the shorter has six steps.
func jugs(check func([2]int) error) Model[[2]int] {
	return Model[[2]int]{
		Check: check,
		Steps: func(s [2]int, _ bool) (out []Step[[2]int]) {
			add := func(name string, a, b int) { out = append(out, Step[[2]int]{name, [2]int{a, b}}) }
			add("fill 3", 3, s[1])
			add("fill 5", s[0], 5)
			add("empty 3", 0, s[1])
			add("empty 5", s[0], 0)
			n := min(s[0], 5-s[1])
			add("pour 3 into 5", s[0]-n, s[1]+n)
			n = min(s[1], 3-s[0])
			add("pour 5 into 3", s[0]+n, s[1]-n)
			return out
		},
	}
}

func TestShortestWay(t *testing.T) {
	four := errors.New("four litres")
	_, err := Run(jugs(func(s [2]int) error {
		if s[1] == 4 {
			return four
		}
		return nil
	}), 100)
	wrong, ok := errors.AsType[*WrongError](err)
	want := []string{"fill 5", "pour 5 into 3", "empty 3", "pour 5 into 3", "fill 5", "pour 5 into 3"}
	if !ok || !errors.Is(err, four) || !slices.Equal(wrong.Trace, want) {
		t.Errorf("got %v, want the way %q", err, want)
	}
}

func TestEveryState(t *testing.T) {
	seen := map[[2]int]bool{}
	sound := func(s [2]int) error {
		if seen[s] {
			return fmt.Errorf("%v is visited twice", s)
		}
		seen[s] = true
		return nil
	}
	if r, err := Run(jugs(sound), 100); err != nil || r.States != 16 || r.Steps != 6*16 {
		t.Errorf("got %s, %v; want 16 states", r, err)
	}
	clear(seen)
	if _, err := Run(jugs(sound), 15); err == nil {
		t.Error("16 states passed for 15 at most")
	}
}

func TestStuck(t *testing.T) {
	m := Model[int]{
		Check: func(int) error { return nil },
		Goal:  func(s int) bool { return s == 5 },
		Steps: func(s int, _ bool) []Step[int] { // up to five, or down a hole that has no way out
			switch {
			case s == 5:
				return nil
			case s < 0:
				return []Step[int]{{"stay", s}}
			case s == 3:
				return []Step[int]{{"up", 4}, {"fall", -1}}
			}
			return []Step[int]{{"up", s + 1}}
		},
	}
	_, err := Run(m, 100)
	wrong, ok := errors.AsType[*WrongError](err)
	if !ok || !errors.Is(err, ErrStuck) || !slices.Equal(wrong.Trace, []string{"up", "up", "up", "fall"}) {
		t.Errorf("got %v, want to be stuck after the fall", err)
	}
	m.Goal = func(s int) bool { return s == 5 || s < 0 }
	if r, err := Run(m, 100); err != nil || r.States != 7 {
		t.Errorf("got %s, %v", r, err)
	}
}
