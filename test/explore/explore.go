// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package explore visits every state that a model can reach, breadth first, so that what it finds wrong comes with a
// shortest way there. A model is a comparable value and a function that gives its next ones; nothing is random, and
// nothing is left out but what the model leaves out.
package explore

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Step is one atomic step from a state.
type Step[S comparable] struct {
	Name string
	To   S
}

// Model is what is explored.
type Model[S comparable] struct {
	Start S
	// Steps are all that can happen next, always in the same order. Names are needed only if named, for the steps of a
	// trace: making them takes longer than all else.
	Steps func(s S, named bool) []Step[S]
	// Check says what is wrong with a state.
	Check func(S) error
	// Goal, if it is not nil, is what must stay within reach of every state.
	Goal func(S) bool
}

// Result is how far an exploration went.
type Result struct{ States, Steps, Depth int }

func (r Result) String() string {
	return fmt.Sprintf("%d states, %d steps, at most %d from the start", r.States, r.Steps, r.Depth)
}

// WrongError is a state that Check refuses, and the steps to it from the start.
type WrongError struct {
	Err   error
	Trace []string
}

func (e *WrongError) Error() string {
	return fmt.Sprintf("%v, after\n\t%s", e.Err, strings.Join(e.Trace, "\n\t"))
}

func (e *WrongError) Unwrap() error { return e.Err }

// Run explores m. The error is a *WrongError for the first state that is wrong, or says that there are more states
// than most.
func Run[S comparable](m Model[S], most int) (Result, error) {
	type node struct {
		state        S
		parent, step int32
		depth        int32
	}
	seen, nodes, r := map[S]int32{m.Start: 0}, []node{{state: m.Start}}, Result{}
	var edges [][2]int32
	trace := func(i int) (out []string) {
		for ; i > 0; i = int(nodes[i].parent) {
			n := nodes[i]
			out = append(out, m.Steps(nodes[n.parent].state, true)[n.step].Name)
		}
		slices.Reverse(out)
		return out
	}
	for i := 0; i < len(nodes); i++ {
		r.States, r.Depth = i+1, int(nodes[i].depth)
		if err := m.Check(nodes[i].state); err != nil {
			return r, &WrongError{err, trace(i)}
		}
		for j, s := range m.Steps(nodes[i].state, false) {
			r.Steps++
			to, known := seen[s.To]
			if !known {
				if len(nodes) == most {
					return r, fmt.Errorf("more than %d states: make the model smaller", most)
				}
				to = int32(len(nodes))
				seen[s.To] = to
				nodes = append(nodes, node{s.To, int32(i), int32(j), nodes[i].depth + 1})
			}
			if m.Goal != nil {
				edges = append(edges, [2]int32{int32(i), to})
			}
		}
	}
	if m.Goal == nil {
		return r, nil
	}
	if i := stuck(len(nodes), edges, func(i int) bool { return m.Goal(nodes[i].state) }); i >= 0 {
		return r, &WrongError{ErrStuck, trace(i)}
	}
	return r, nil
}

// ErrStuck: from that state on the goal is out of reach.
var ErrStuck = errors.New("nothing leads to the goal any more")

// stuck is the first of n states from which no edges lead to a goal; -1 is none.
func stuck(n int, edges [][2]int32, goal func(int) bool) int {
	first, next := make([]int32, n), make([]int32, len(edges)) // the edges into each state, as lists
	for i := range first {
		first[i] = -1
	}
	for e, x := range edges {
		next[e], first[x[1]] = first[x[1]], int32(e)
	}
	good := make([]bool, n)
	var todo []int32
	for i := range n {
		if goal(i) {
			good[i] = true
			todo = append(todo, int32(i))
		}
	}
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for e := first[i]; e >= 0; e = next[e] {
			if from := edges[e][0]; !good[from] {
				good[from] = true
				todo = append(todo, from)
			}
		}
	}
	return slices.Index(good, false)
}
