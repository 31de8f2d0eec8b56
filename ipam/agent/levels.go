// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"math"
	"sync"
	"time"

	"github.com/railyard-net/railyard/ipam"
)

// manySlots is how many slots a pool needs to be taken for roomy, where it is not known how many nodes use it.
const manySlots = 16

// levels are the watermarks of one family of a pool on this node.
type levels struct {
	low, high int
	keepLast  bool
	// spare is what is asked of other nodes beyond the need.
	spare int
}

// levelsOf are the watermarks that w asks for, and for the rest those that suit the subnet and the number of nodes that
// use it (0: not known). In a pool with few blocks for its nodes each of them counts, so none is claimed ahead or kept idle.
func levelsOf(w ipam.Watermarks, s ipam.Subnet, nodes int) levels {
	slots, perNode := s.SlotCount(), func(n int) bool { return s.SlotCount() >= uint64(n*nodes) }
	if nodes == 0 {
		perNode = func(int) bool { return slots >= manySlots }
	}
	l := levels{high: (s.BlockSize + 1) / 2, keepLast: perNode(1)}
	if perNode(2) {
		l.low = (s.BlockSize + 3) / 4
	}
	if w.Low != nil {
		l.low = *w.Low
	}
	if w.High != nil {
		l.high = *w.High
	}
	if w.KeepLast != nil {
		l.keepLast = *w.KeepLast
	}
	if w.High == nil {
		l.high = max(l.high, l.low) // what goes back must not be claimed again at once
	} else if w.Low == nil {
		l.low = min(l.low, l.high)
	}
	if l.spare = l.low; w.Low == nil {
		l.spare = (s.BlockSize + 7) / 8
	}
	return l
}

// levels are the watermarks of a family of p; none if p has no such family.
func (a *Agent) levels(p ipam.Pool, is4 bool) levels {
	for _, s := range p.Subnets {
		if s.Is4() == is4 {
			return levelsOf(p.Watermarks, s, a.users.count(p.Name))
		}
	}
	return levels{}
}

// untilLow is how many leases more bring the family below its low watermark: none or less if it is there.
func (l levels) untilLow(free int) int { return free - l.low + 1 }

// stock is what the store has of one family of a pool, for deciding what to give back.
type stock struct {
	levels
	family       string // its flightKey
	leased, free int
	blocks       int // all that are held
	// empty are the blocks without a lease, each with its free addresses, in the order in which they may go.
	empty []emptyBlock
	// closed: nothing new is leased from the pool.
	closed bool
}

type emptyBlock struct {
	name string
	free int
}

// returnable are the empty blocks that may go back: all that are not needed to stay at the high watermark, while the
// pool is in use here, and all but the last one otherwise.
func (s stock) returnable() []string {
	var out []string
	free, blocks := s.free, s.blocks
	for _, b := range s.empty {
		spare := s.leased == 0 || free-b.free >= s.high
		if s.keepLast && blocks == 1 {
			spare = false
		}
		if spare || s.closed {
			free, blocks = free-b.free, blocks-1
			out = append(out, b.name)
		}
	}
	return out
}

// quiet remembers what could be spared at the last look, by flightKey of the family. It is used by one goroutine.
type quiet map[string]map[string]bool

// twice are the blocks of a family that can be spared now and could be at the look before.
func (q quiet) twice(family string, spare []string) []string {
	was, now := q[family], map[string]bool{}
	var out []string
	for _, b := range spare {
		if now[b] = true; was[b] {
			out = append(out, b)
		}
	}
	q[family] = now
	return out
}

// crowded says that no slot of the pool is without a block, or of many hardly one, where the pool has that many blocks: there nodes
// ask each other for addresses, and find whom to ask in the mirror.
func crowded(p ipam.Pool, blocks int) bool {
	fewest := uint64(math.MaxUint64)
	for _, s := range p.Subnets {
		fewest = min(fewest, s.SlotCount())
	}
	// Who leases in both families owns about as many blocks of each.
	return len(p.Subnets) > 0 && 50*uint64(blocks/len(p.Subnets)) >= 49*fewest
}

// crowdFor is how long a pool counts as crowded after a node has asked another in it, as far as this one sees.
const crowdFor = time.Minute

// isCrowded says so by what the controller has counted last, and by what this node has met: it may be long before the controller counts.
func (a *Agent) isCrowded(p ipam.Pool) bool {
	return crowded(p, a.blocks.count(p.Name)) || a.crowds.at(p.Name) > a.cfg.Now()
}

// crowdedPools are the crowded ones of the store's pools.
func (a *Agent) crowdedPools() (map[string]bool, error) {
	pools, err := a.store.Pools()
	out := map[string]bool{}
	for _, p := range pools {
		out[p.Name] = a.isCrowded(p)
	}
	return out, err
}

// crowd remembers that nodes ask each other in the pool.
func (a *Agent) crowd(pool string) { a.crowds.set(pool, a.cfg.Now()+crowdFor) }

// moments remembers a time for each key. It may be used concurrently.
type moments struct {
	mu sync.Mutex
	of map[string]time.Duration // boot clock
}

func (m *moments) at(key string) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.of[key]
}

func (m *moments) set(key string, t time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of == nil {
		m.of = map[string]time.Duration{}
	}
	m.of[key] = t
}
