// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"testing"
	"time"

	"github.com/railyard-net/railyard/test/explore"
)

// These tests explore the protocol of docs/design/0005-ceding.md: blocks, claims, hand-overs, returns, and lives of agents,
// nodes and stores. The decisions are those that the agent runs: decide, and package claim's WithTaken, WithWant, WithOffer and
// WithSession. What is modelled is who does them when: writes that arrive late or never, answers that are lost, agents that die,
// nodes that reboot, stores that are lost under live pods, at any point, in any order.

// clusters are what is explored, each whole: small ones with no bound on what their nodes do, and a larger one with one.
var clusters = []struct {
	name string
	size size
}{
	{"two nodes, a block of two addresses, a fault", size{nodes: 2, calls: 2, addresses: [2]set{3, 0}, faults: 1}},
	{"three nodes, a block of one address, a fault", size{nodes: 3, calls: 2, addresses: [2]set{1, 0}, faults: 1}},
	{"three nodes, a block of two addresses", size{nodes: 3, calls: 2, addresses: [2]set{3, 0}}},
	{"three nodes, two blocks, a fault, four calls", size{nodes: 3, calls: 2, begun: 4, addresses: [2]set{1, 1}, faults: 1}},
}

const mostStates = 1_000_000

func model(m mutant, z size) explore.Model[xState] {
	out := explore.Model[xState]{Start: z.start(), Steps: newWorld(m, z).steps, Check: xState.wrong}
	if z.begun == 0 { // where calls are counted, the last may be one too few
		out.Goal = xState.whole
	}
	return out
}

func TestEveryInterleaving(t *testing.T) {
	t.Parallel()
	for _, c := range clusters {
		t.Run(c.name, func(t *testing.T) {
			began := time.Now()
			r, err := explore.Run(model("", c.size), mostStates)
			t.Logf("%s, in %s", r, time.Since(began).Round(time.Millisecond))
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestMutants: what the model says is proven only as far as it tells a broken protocol from a sound one.
func TestMutants(t *testing.T) {
	t.Parallel()
	for _, m := range []mutant{
		answerFirst, cedeFirst, takeBack, ignoreSession, assumeStored, grantOnRead, unconditional, releaseFirst, takeUnwritten,
		takeBlindly, adoptBlindly, claimUnsettled, forgetFirst, neverRelease,
	} {
		t.Run(string(m), func(t *testing.T) {
			for _, c := range clusters {
				_, err := explore.Run(model(m, c.size), mostStates)
				if wrong, ok := errors.AsType[*explore.WrongError](err); ok {
					t.Logf("%s: %v", c.name, wrong)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			t.Error("nobody notices")
		})
	}
}
