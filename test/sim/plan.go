// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Kind is what an action does.
type Kind string

// The actions. What finds no object, because another one was left out or failed, does nothing.
const (
	Toggle      Kind = "toggle"       // a pod slot: its pod begins or ends
	Repeat      Kind = "repeat"       // ADD once more for a pod that has its answer
	Retain      Kind = "gc"           // CNI GC
	Kill        Kind = "kill"         // the agent dies after so many steps, and is started again
	KillAll     Kind = "kill-all"     // all agents die now, and are started again one after the other
	Stop        Kind = "stop"         // the agent ends in order, and is started again
	Reboot      Kind = "reboot"       // the node, with its pods
	Wipe        Kind = "wipe"         // the store is removed under the pods
	Cut         Kind = "cut"          // the node and the API do not reach each other for a while
	Outage      Kind = "outage"       // the API server is away for a while
	Storm       Kind = "storm"        // most writes meet conflicts for a while
	SlowWatch   Kind = "slow-watch"   // a node's watches are seconds late for a while
	Suspend     Kind = "suspend"      // the boot clock jumps ahead, the time of day falls behind
	Backup      Kind = "backup"       // of the API's blocks
	Restore     Kind = "restore"      // the last one
	DeleteBlock Kind = "delete-block" // by hand
	DeleteNode  Kind = "delete-node"  // the Node object, which comes back with another UID
	Relabel     Kind = "relabel"      // the pool selects the node, or does no more
	Edit        Kind = "edit"         // the pool's ranges
)

// Action is one thing that happens to the cluster from outside.
type Action struct {
	N    int // in the plan of the seed
	At   time.Duration
	Kind Kind
	Node int
	// A and B are what Kind makes of them: a slot, a length, a choice.
	A, B int
}

func (a Action) String() string {
	return fmt.Sprintf("#%d %s %s n%03d %d %d", a.N, a.At.Round(time.Millisecond), a.Kind, a.Node, a.A, a.B)
}

// Plan is a run: what the cluster is, and what happens to it.
type Plan struct {
	Seed    uint64
	Nodes   int
	Slots   int // of pods, on each node
	Pools   []PoolPlan
	Length  time.Duration
	Faults  faults
	Times   times
	Actions []Action
}

// PoolPlan is a pool: of addresses of IPv4, of IPv6, or of both.
type PoolPlan struct {
	V4, V6    bool
	Bits      int // how many addresses it has, as a power of two
	BlockSize int
	Cooldown  int // seconds
	Reserved  bool
	// Sticky: the addresses of some pods follow them by name, from node to node.
	Sticky bool
}

type times struct{ gc, grace, release, mirror time.Duration }

// weights are how often an action is of a kind. Those of the lower part break the API's promises, or take the ground from
// under the nodes: at most one kind of them is in a plan.
var weights = []struct {
	kind   Kind
	weight int
}{
	{Toggle, 100}, {Repeat, 6}, {Retain, 4}, {Kill, 16}, {Stop, 2}, {KillAll, 1}, {Cut, 6}, {Outage, 2}, {Storm, 3}, {SlowWatch, 5},
	{Suspend, 2}, {Reboot, 3}, {Wipe, 3}, {DeleteNode, 1}, {Relabel, 2}, {Edit, 3},
}

// NewPlan draws a plan from a seed.
func NewPlan(seed uint64) Plan {
	r := rand.New(rand.NewPCG(seed, 0x706c616e))
	p := Plan{Seed: seed, Nodes: 2 + r.IntN(6), Slots: 2 + r.IntN(5), Length: 40 * time.Second}
	actions := 40 + r.IntN(80)
	switch size := r.IntN(200); {
	case size == 0:
		p.Nodes, p.Slots, p.Length, actions = 100+r.IntN(200), 2, 10*time.Second, 500
	case size < 8:
		p.Nodes, p.Slots, actions = 10+r.IntN(30), 3, 200
	}
	p.Pools = drawPools(r, p.Nodes*p.Slots)
	if r.IntN(4) > 0 {
		rate := []float64{0.01, 0.04, 0.12}[r.IntN(3)]
		one := func() float64 { return rate * 2 * r.Float64() }
		p.Faults = faults{one(), one(), one(), one(), one(), one()}
	}
	p.Times = times{
		gc: 3*time.Second + 7*time.Millisecond, grace: time.Duration(r.IntN(3)) * time.Second, mirror: 2*time.Second + 3*time.Millisecond,
		release: []time.Duration{time.Nanosecond, 2 * time.Second, 10 * time.Second}[r.IntN(3)],
	}
	p.Actions = drawActions(r, p, actions)
	// What people do to blocks by hand the controller mends for reservations, and there is none here.
	byHand := slices.ContainsFunc(p.Actions, func(a Action) bool { return a.Kind == Restore || a.Kind == DeleteBlock })
	p.Pools[0].Sticky = seed%3 == 2 && !byHand
	return p
}

// drawPools makes one or two pools, so large that they are too small now and then.
func drawPools(r *rand.Rand, pods int) []PoolPlan {
	var out []PoolPlan
	for range 1 + r.IntN(4)/3 {
		p := PoolPlan{V4: true, V6: r.IntN(5) == 0, Bits: 4, BlockSize: 1 << (1 + r.IntN(4)), Cooldown: []int{0, 0, 3, 10}[r.IntN(4)], Reserved: r.IntN(3) == 0}
		if p.V6 && r.IntN(3) == 0 {
			p.V4 = false
		}
		for 1<<p.Bits < pods*(1+r.IntN(4))/2 && p.Bits < 12 {
			p.Bits++
		}
		p.BlockSize = min(p.BlockSize, 1<<(p.Bits-1))
		out = append(out, p)
	}
	return out
}

func drawActions(r *rand.Rand, p Plan, n int) []Action {
	kinds := slices.Clone(weights)
	switch r.IntN(12) {
	case 0:
		kinds = append(kinds, struct {
			kind   Kind
			weight int
		}{Backup, 6}, struct {
			kind   Kind
			weight int
		}{Restore, 4})
	case 1:
		kinds = append(kinds, struct {
			kind   Kind
			weight int
		}{DeleteBlock, 4})
	}
	sum := 0
	for _, k := range kinds {
		sum += k.weight
	}
	var out []Action
	for range n {
		a := Action{At: time.Second/2 + time.Duration(r.Int64N(int64(p.Length))), Node: r.IntN(p.Nodes), A: r.IntN(1 << 16), B: r.IntN(1 << 16)}
		x := r.IntN(sum)
		for _, k := range kinds {
			if x -= k.weight; x < 0 {
				a.Kind = k.kind
				break
			}
		}
		out = append(out, a)
	}
	slices.SortStableFunc(out, func(a, b Action) int { return int(a.At - b.At) })
	for i := range out {
		out[i].N = i
	}
	return out
}
