// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"slices"
	"testing"

	"github.com/railyard-net/railyard/ipam/claim"
)

func TestWhomToAskNext(t *testing.T) {
	t.Parallel()
	at := func(block, from string) claim.Asking { return claim.Asking{Block: block, From: from} }
	q := newAsks([]claim.Asking{at("x", "a"), at("x", "b"), at("y", "a"), at("z", "c")})
	expect := func(n int, more bool, want ...string) {
		t.Helper()
		got, fresh := q.next(n)
		var names []string
		for _, x := range got {
			names = append(names, x.From+" in "+x.Block)
		}
		if !slices.Equal(names, want) || fresh != more {
			t.Errorf("next(%d) = %q, %v; want %q, %v", n, names, fresh, want, more)
		}
	}
	expect(1, true, "a in x")
	expect(2, true, "a in y", "c in z")
	expect(4, true, "b in x")  // in the place of a
	expect(8, false, "a in x") // and round again
	q.drop("y")
	expect(8, true, "a in y")
	q.relisted([]claim.Asking{at("x", "a"), at("w", "d")})
	expect(8, true, "d in w")
	expect(8, false)

	q = newAsks([]claim.Asking{at("x", "a"), at("x", "b"), at("x", "c"), at("y", "a"), at("y", "b")})
	expect(4, true, "a in x", "a in y")
	expect(8, true, "b in x", "b in y") // each block has room for one
	expect(16, true, "c in x")
	expect(16, false, "a in x")

	many := newAsks(nil)
	for i := range 2 * maxAsks {
		many.left = append(many.left, at(fmt.Sprint(i), "a"))
	}
	for n := 1; n < 1000; n *= 2 {
		many.next(n)
	}
	if len(many.standing) != maxAsks {
		t.Errorf("%d wants stand, want %d", len(many.standing), maxAsks)
	}
}
