// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/railyard-net/railyard/rdma/topology"
)

// way is how pods get their devices.
type way int

const (
	apart   way = iota // two plugins that know nothing of each other
	numa               // the same, with the Topology Manager
	steered            // one process that answers both requests for a preference
	paired             // pairs as a resource
	ways
)

var wayNames = [ways]string{"two plugins", "NUMA-aligned", "steering", "pairs"}

// outcome counts pods that asked for GPUs and NICs.
type outcome struct {
	pods    int // that got them
	aligned int // in which each GPU has a NIC of its own near it
	waiting int // for which there was no room
}

func (o outcome) share() float64 {
	if o.pods == 0 {
		return 0
	}
	return 100 * float64(o.aligned) / float64(o.pods)
}

func (o outcome) waits() float64 { return 100 * float64(o.waiting) / float64(max(o.pods+o.waiting, 1)) }

type result struct {
	*machine
	by [ways]outcome
}

func (r result) String() string {
	s := ""
	for w, o := range r.by {
		s += fmt.Sprintf("%s %.1f %% (%.1f %% wait)  ", wayNames[w], o.share(), o.waits())
	}
	return s
}

// events is how many pods come or go in a sequence: a node fills up and then changes.
const events = 60

type pod struct{ gpus, nics []int }

// node is a machine with pods on it.
type node struct {
	*machine
	way  way
	rng  *rand.Rand
	gpus []bool // taken
	nics []bool
	pods []pod
}

// simulate lets random pods come and go. The same number gives the same pods to every way.
func simulate(m *machine, w way, sequences int) outcome {
	var total outcome
	for seq := range sequences {
		// What pods ask for, and what chance decides in a plugin, are drawn apart: so all ways see the same pods.
		demand := rand.New(rand.NewPCG(uint64(seq), 1))
		n := &node{m, w, rand.New(rand.NewPCG(uint64(seq), 2+uint64(w))), make([]bool, len(m.path)), make([]bool, len(m.nicNUMA)), nil}
		for range events {
			kind, size, leaves, who := demand.IntN(10), []int{1, 1, 1, 1, 2, 2, 4, 8}[demand.IntN(8)], demand.IntN(5) < 2, demand.IntN(1<<30)
			if leaves && len(n.pods) > 0 {
				n.end(who % len(n.pods))
				continue
			}
			size = min(size, len(m.path), len(m.nicNUMA))
			switch {
			case kind < 1: // GPUs alone
				n.gpusAlone(size)
			case kind < 2: // NICs alone
				n.nicsAlone(size)
			default:
				p, ok := n.place(size)
				if !ok {
					total.waiting++
					continue
				}
				n.start(p)
				total.pods++
				if len(m.match(p.gpus, p.nics)) == size {
					total.aligned++
				}
			}
		}
	}
	return total
}

func (n *node) start(p pod) {
	for _, g := range p.gpus {
		n.gpus[g] = true
	}
	for _, c := range p.nics {
		n.nics[c] = true
	}
	n.pods = append(n.pods, p)
}

func (n *node) end(i int) {
	for _, g := range n.pods[i].gpus {
		n.gpus[g] = false
	}
	for _, c := range n.pods[i].nics {
		n.nics[c] = false
	}
	n.pods = slices.Delete(n.pods, i, i+1)
}

// free are those not taken, in random order, as a kubelet has them.
func (n *node) free(taken []bool) []int {
	var f []int
	for i, t := range taken {
		if !t {
			f = append(f, i)
		}
	}
	n.rng.Shuffle(len(f), func(i, j int) { f[i], f[j] = f[j], f[i] })
	return f
}

func (n *node) gpusAlone(size int) {
	free := n.free(n.gpus)
	if len(free) < size {
		return
	}
	if n.way < steered {
		n.start(pod{gpus: n.bestGPUs(free, size)})
		return
	}
	// Those first whose NICs are taken.
	slices.SortStableFunc(free, func(a, b int) int { return n.company(n.nics, a, true) - n.company(n.nics, b, true) })
	n.start(pod{gpus: free[:size]})
}

func (n *node) nicsAlone(size int) {
	free := n.free(n.nics)
	if len(free) < size {
		return
	}
	if n.way >= steered {
		slices.SortStableFunc(free, func(a, b int) int { return n.company(n.gpus, a, false) - n.company(n.gpus, b, false) })
	}
	n.start(pod{nics: free[:size]})
}

// company is 1 if something free is near, and 0 otherwise.
func (n *node) company(taken []bool, of int, gpu bool) int {
	for i, t := range taken {
		if !t && (gpu && n.near(of, i) || !gpu && n.near(i, of)) {
			return 1
		}
	}
	return 0
}

// place chooses for a pod that wants as many NICs as GPUs.
func (n *node) place(size int) (pod, bool) {
	gpus, nics := n.free(n.gpus), n.free(n.nics)
	if len(gpus) < size || len(nics) < size {
		return pod{}, false
	}
	switch n.way {
	case numa:
		// The hints of the two are merged to the narrowest mask that both have, the lowest of several. best-effort: without one, anywhere.
		nodes := slices.Compact(slices.Sorted(slices.Values(n.gpuNUMA)))
		for _, node := range nodes {
			g := slices.DeleteFunc(slices.Clone(gpus), func(i int) bool { return n.gpuNUMA[i] != node })
			c := slices.DeleteFunc(slices.Clone(nics), func(i int) bool { return n.nicNUMA[i] != node })
			if len(g) >= size && len(c) >= size {
				gpus, nics = g, c
				break
			}
		}
	case steered, paired:
		return n.together(gpus, nics, size)
	}
	return pod{n.bestGPUs(gpus, size), nics[:size]}, true
}

// together takes pairs as far as there are. Pairs wait for more; steering takes what is left.
func (n *node) together(gpus, nics []int, size int) (pod, bool) {
	of := n.match(gpus, nics)
	var p pod
	for _, g := range gpus {
		if c, ok := of[g]; ok && len(p.gpus) < size {
			p.gpus, p.nics = append(p.gpus, g), append(p.nics, c)
		}
	}
	if n.way == paired {
		return p, len(p.gpus) == size
	}
	for _, g := range gpus {
		if len(p.gpus) < size && !slices.Contains(p.gpus, g) {
			p.gpus = append(p.gpus, g)
		}
	}
	for _, c := range nics {
		if len(p.nics) < size && !slices.Contains(p.nics, c) {
			p.nics = append(p.nics, c)
		}
	}
	return p, true
}

// bestGPUs is the preference of NVIDIA's plugin: the set with the best ways between its GPUs, any of equal ones. NICs are nothing to it.
func (n *node) bestGPUs(free []int, size int) []int {
	if n.switched || size == len(free) {
		return free[:size]
	}
	var best []int
	top := -1
	set := make([]int, 0, size)
	var add func(from int)
	add = func(from int) {
		if len(set) == size {
			score := 0
			for i, a := range set {
				for _, b := range set[i+1:] {
					score += map[topology.Class]int{topology.PIX: 50, topology.PXB: 40, topology.PHB: 30, topology.NODE: 20, topology.SYS: 10}[n.between[a][b]]
				}
			}
			if score > top {
				top, best = score, slices.Clone(set)
			}
			return
		}
		for i := from; i < len(free); i++ {
			set = append(set, free[i])
			add(i + 1)
			set = set[:len(set)-1]
		}
	}
	add(0)
	return best
}
