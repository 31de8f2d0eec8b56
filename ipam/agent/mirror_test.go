// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// shows plays a node whose blocks change as changes says, interval after interval, and gives when which were written. Leases
// are how many are made in each.
func shows(intervals, leases int, crowded bool, changes func(i int) []string) map[string][]int {
	const interval = 5 * time.Second
	out := map[string][]int{}
	changed := map[string]unshown{}
	b := budget{saved: writesSaved}
	for i := range intervals {
		now := time.Duration(i) * interval
		for _, name := range changes(i) {
			u, known := changed[name]
			if u.block, u.changed, u.asked = name, now, crowded; !known {
				u.first = now
			}
			changed[name] = u
		}
		var list []unshown
		for _, u := range changed {
			list = append(list, u)
		}
		b = b.earned(now, int64(i*leases), interval)
		var due []string
		due, b = b.due(list, now, interval)
		for _, name := range due {
			out[name] = append(out[name], i)
			delete(changed, name)
		}
	}
	return out
}

// TestMirrorSoonWhereLittleHappens: a pod starts every five minutes; each is shown as soon as its block is quiet.
func TestMirrorSoonWhereLittleHappens(t *testing.T) {
	got := shows(600, 0, false, func(i int) []string {
		if i%60 == 0 {
			return []string{"b"}
		}
		return nil
	})
	want := map[string][]int{"b": {1, 61, 121, 181, 241, 301, 361, 421, 481, 541}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("written at intervals (-want +got):\n%s", diff)
	}
}

// TestMirrorCostsFewWrites: what goes on all the time costs less than a write for 20 leases, however many blocks it is in; and where
// few leases are made each block is shown all the same, in time.
func TestMirrorCostsFewWrites(t *testing.T) {
	for _, tc := range []struct{ perInterval, blocks int }{{1, 1}, {3, 2}, {3, 10}, {50, 3}, {1000, 16}} {
		t.Run(fmt.Sprintf("%d leases per interval, %d blocks", tc.perInterval, tc.blocks), func(t *testing.T) {
			const intervals = 5000
			var all []string
			for i := range tc.blocks {
				all = append(all, fmt.Sprint("b", i))
			}
			got := shows(intervals, tc.perInterval, false, func(int) []string { return all })
			writes := 0
			for _, name := range all {
				at := got[name]
				writes += len(at)
				for i, before := range append([]int{0}, at...) {
					if i < len(at) && at[i]-before > showAnyway+1+tc.blocks/writesSaved {
						t.Errorf("block %s: not shown from interval %d to %d", name, before, at[i])
					}
				}
			}
			most := float64(intervals*tc.perInterval)/leasesPerWrite + intervals/writeEvery + float64(tc.blocks*intervals/showAnyway) + writesSaved
			if float64(writes) > most {
				t.Errorf("%d writes, want at most %.0f", writes, most)
			}
			if perLease := float64(writes) / float64(intervals*tc.perInterval); tc.perInterval >= 3 && tc.blocks < 10 && perLease >= 0.04 {
				t.Errorf("%.3f writes for each lease", perLease)
			}
		})
	}
}

// TestMirrorOfCrowdedPoolIsFresh: those who look for addresses go by it.
func TestMirrorOfCrowdedPoolIsFresh(t *testing.T) {
	got := shows(50, 1, true, func(int) []string { return []string{"b"} })
	if len(got["b"]) != 50 {
		t.Errorf("written %d times in 50 intervals: %v", len(got["b"]), got["b"])
	}
}

// TestMirrorAfterOutage: what could not be written for an hour, or for some seconds, does not all come at once.
func TestMirrorAfterOutage(t *testing.T) {
	for _, since := range []time.Duration{0, time.Hour - 7*time.Second} {
		testMirrorAfterOutage(t, since)
	}
}

func testMirrorAfterOutage(t *testing.T, since time.Duration) {
	t.Helper()
	b := budget{}.earned(time.Hour, 100_000, time.Second)
	var list []unshown
	for i := range 100 {
		list = append(list, unshown{block: fmt.Sprintf("b%02d", i), first: since, changed: since})
	}
	got, left := b.due(list, time.Hour, time.Second)
	if want := []string{"b00", "b01", "b02", "b03"}; !slices.Equal(got, want) || left.saved != 0 {
		t.Errorf("due %v, %g left; want %v and nothing", got, left.saved, want)
	}
}

func TestCrowded(t *testing.T) {
	parse := func(v4, v6 string) ipam.Pool {
		var p ipam.Pool
		for _, text := range []string{v4, v6} {
			if text != "" {
				r, err := iprange.Parse(text)
				if err != nil {
					t.Fatal(err)
				}
				prefix, err := iprange.ParsePrefix(text)
				if err != nil {
					t.Fatal(err)
				}
				p.Subnets = append(p.Subnets, ipam.Subnet{Prefix: prefix, BlockSize: 64, Leasable: []iprange.Range{r}})
			}
		}
		return p
	}
	for name, tc := range map[string]struct {
		pool   ipam.Pool
		blocks int
		want   bool
	}{
		"empty":                   {parse("10.0.0.0/16", ""), 0, false},
		"most are free":           {parse("10.0.0.0/16", ""), 500, false},
		"nine of ten are taken":   {parse("10.0.0.0/16", ""), 922, false},
		"hardly one is free":      {parse("10.0.0.0/16", ""), 1004, true},
		"a small one, one free":   {parse("10.0.0.0/22", ""), 15, false},
		"a small one, all taken":  {parse("10.0.0.0/22", ""), 16, true},
		"all are taken":           {parse("10.0.0.0/16", ""), 1024, true},
		"both families":           {parse("10.0.0.0/16", "fd00::/64"), 2020, true},
		"both, half of the first": {parse("10.0.0.0/16", "fd00::/64"), 1024, false},
		"no pool":                 {ipam.Pool{}, 5, false},
	} {
		if got := crowded(tc.pool, tc.blocks); got != tc.want {
			t.Errorf("%s: crowded is %t", name, got)
		}
	}
}
