// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"slices"
	"strings"
)

// exhaustive is how many sets are compared before Prefer is content with adding the best device one by one. Eight of sixteen are 12,870.
const exhaustive = 15_000

// Prefer chooses size devices of those available, with those that must be in it. The best set is, in this order:
//
//  1. with the best ways between its GPUs: NVLink, then PCI;
//  2. whose neighbours are in use already, so that GPUs and NICs that are beside each other stay free together;
//  3. that takes whole groups of GPUs beside the same NICs, for the same reason;
//  4. spread over cards, or over the GPUs of replicas unless they are to be packed.
//
// It returns fewer if there are fewer, and nothing for IDs that the resource does not have.
func (r Resource) Prefer(available, must []string, size int) []string {
	var chosen, rest []Device
	for _, id := range must {
		if d, ok := r.Device(id); ok {
			chosen = append(chosen, d)
		}
	}
	for _, id := range available {
		if d, ok := r.Device(id); ok && !slices.Contains(must, id) {
			rest = append(rest, d)
		}
	}
	slices.SortFunc(rest, func(a, b Device) int { return compareIDs(a.ID, b.ID) })
	want := size - len(chosen)
	if want > 0 {
		s := newScorer(r, rest)
		if want >= len(rest) {
			chosen = append(chosen, rest...)
		} else if sets(len(rest), want) <= exhaustive {
			chosen = s.best(chosen, want)
		} else {
			chosen = s.greedy(chosen, want)
		}
	}
	ids := make([]string, 0, len(chosen))
	for _, d := range chosen {
		ids = append(ids, d.ID)
	}
	return ids
}

// sets is how many sets of k there are of n, or more than exhaustive.
func sets(n, k int) int {
	c := 1
	for i := range min(k, n-k) {
		if c = c * (n - i) / (i + 1); c > exhaustive {
			return exhaustive + 1
		}
	}
	return c
}

// score is compared like a word; more is better.
type score [4]int

func (s score) compare(o score) int { return slices.Compare(s[:], o[:]) }

type scorer struct {
	Resource
	available []Device
	left      map[string]int // by group
	free      map[string]int // by place
}

func newScorer(r Resource, available []Device) scorer {
	s := scorer{r, available, map[string]int{}, map[string]int{}}
	for _, d := range available {
		s.left[d.group]++
		s.free[d.place()]++
	}
	return s
}

func (s scorer) of(set []Device) (sc score) {
	if s.between != nil {
		for i, a := range set {
			for _, b := range set[i+1:] {
				sc[0] += s.between(a, b)
			}
		}
	}
	chosen := map[string]int{}
	for _, d := range set {
		if d.lonely {
			sc[1]++
		}
		chosen[d.group]++
	}
	for group, n := range chosen {
		if group != "" && n < s.left[group] {
			sc[2] -= s.left[group] - n
		}
	}
	on := map[string]int{}
	for _, d := range set {
		on[d.place()]++
	}
	for place, n := range on {
		// Each further device on a place costs more, and one where few are free costs more than where there are many.
		spread := -n*n*1000 + n*s.free[place]
		if s.Pack {
			spread = n*n*1000 - n*s.free[place]
		}
		sc[3] += spread
	}
	return sc
}

// place is what several devices may be on together: a card, or the GPU of replicas.
func (d Device) place() string {
	if uuid, _, ok := strings.Cut(d.ID, "::"); ok {
		return uuid
	}
	if hca, _, ok := strings.Cut(d.ID, "#"); ok {
		return hca
	}
	return cmp.Or(string(d.card), string(d.gpu))
}

// best compares all sets, in the order of the IDs, of which the first of the best is taken.
func (s scorer) best(must []Device, want int) []Device {
	var best []Device
	var top score
	set := slices.Clone(must)
	var add func(from, want int)
	add = func(from, want int) {
		if want == 0 {
			if sc := s.of(set); best == nil || sc.compare(top) > 0 {
				best, top = slices.Clone(set), sc
			}
			return
		}
		for i := from; i+want <= len(s.available); i++ {
			set = append(set, s.available[i])
			add(i+1, want-1)
			set = set[:len(set)-1]
		}
	}
	add(0, want)
	return best
}

func (s scorer) greedy(set []Device, want int) []Device {
	rest := slices.Clone(s.available)
	set = slices.Clone(set)
	for range want {
		at, top := 0, score{}
		for i, d := range rest {
			if sc := s.of(append(set, d)); i == 0 || sc.compare(top) > 0 {
				at, top = i, sc
			}
		}
		set = append(set, rest[at])
		rest = slices.Delete(rest, at, at+1)
	}
	return set
}
