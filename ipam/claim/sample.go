// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

const (
	// sampled is how many blocks Sample reads; fewer where enough owners with free addresses are met before.
	sampled, enough = 8, 3
)

// Sample is Claim for a pool with hardly a slot left, where trying slots is in vain and the list of all blocks is long: it reads a few
// blocks drawn by chance, and takes what nobody owns in one of them. Else a *FullError names the sharers that may have room
// there; that nobody does in so few blocks says nothing of the pool. The reads come one after the other.
func (c *Claimer) Sample(ctx context.Context, o ipam.Owner, pool ipam.Pool, is4 bool, held ...string) (ipam.Block, error) {
	s, err := claimable(pool, is4)
	if err != nil {
		return ipam.Block{}, err
	}
	h := set(held)
	salt := strconv.FormatInt(c.now().UnixNano(), 36)
	var read []v1alpha1.IPBlock
	var room []Asking
	for i := range sampled {
		slot := s.SlotAt(pick(s.SlotCount(), o.Node, pool.Name, salt, strconv.Itoa(i)))
		name := ipam.BlockName(pool.Name, slot)
		if slices.ContainsFunc(read, func(b v1alpha1.IPBlock) bool { return b.Name == name }) {
			continue
		}
		obj, exists, err := c.look(ctx, name, source{live: true})
		if err != nil {
			return ipam.Block{}, typed(fmt.Errorf("read block %s: %w", name, err))
		}
		found := []candidate{{slot: slot}}
		if exists {
			read = append(read, *obj)
			if found, err = candidates(o, pool, walk{subnet: s}, read[len(read)-1:], h, c.now()); err != nil {
				return ipam.Block{}, err
			}
		}
		for _, f := range found {
			if b, err := c.enter(ctx, o, pool, s, f, h, 1); !errors.Is(err, errSlotTaken) {
				return b, err
			}
		}
		room = withRoom(askings(o, pool, s, read, salt))
		if len(room) >= enough && room[enough-1].Free > 0 {
			break
		}
	}
	return ipam.Block{}, &FullError{pool.Name, s.Prefix, room}
}

// Search is Claim without a try before the list of the pool's blocks. Without success its *FullError is about all of them.
func (c *Claimer) Search(ctx context.Context, o ipam.Owner, pool ipam.Pool, is4 bool, held ...string) (ipam.Block, error) {
	s, err := claimable(pool, is4)
	if err != nil {
		return ipam.Block{}, err
	}
	return c.search(ctx, o, pool, s, newWalk(o.Node, pool.Name, s), set(held))
}

func set(names []string) map[string]bool {
	out := map[string]bool{}
	for _, name := range names {
		out[name] = true
	}
	return out
}

// withRoom are those of all, which are sorted, that have some by the mirror.
func withRoom(all []Asking) []Asking {
	n := slices.IndexFunc(all, func(a Asking) bool { return a.Free+a.Cooling == 0 })
	if n < 0 {
		n = len(all)
	}
	return all[:n]
}

// pick is a number below n that follows from the words.
func pick(n uint64, words ...string) uint64 {
	at := uint64(math.Exp(-draw(words...)) * float64(n)) // draw is exponential, so this is even
	return min(at, n-1)
}
