// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/railyard-net/railyard/ipam"
)

// replace ends a pod of m and starts another.
func replace(ctx context.Context, m *member, r *rand.Rand, t *tally) error {
	if _, err := m.evict(ctx, r); err != nil {
		return err
	}
	return t.add(ctx, m, roomy)
}

// random is a source of one goroutine's own, the same one in every run.
func (s *session) random(i int) *rand.Rand { return rand.New(rand.NewPCG(uint64(s.nodes), uint64(i))) }

// churn replaces pods on every node at rate a second, evenly spread over the nodes, for so long.
func (s *session) churn(ctx context.Context, t *tally, rate float64, during time.Duration) error {
	end := time.Now().Add(during)
	pause := time.Duration(float64(time.Second) / rate)
	return s.everyone(func(i int, m *member) error {
		r := s.random(i)
		next := time.Now().Add(time.Duration(r.Int64N(int64(pause))))
		for next.Before(end) {
			if err := sleep(ctx, time.Until(next)); err != nil {
				return err
			}
			if err := replace(ctx, m, r, t); err != nil {
				return err
			}
			next = next.Add(pause)
		}
		return sleep(ctx, time.Until(end))
	})
}

// steady is pods that come and go, as they do for days. It counts from when as many addresses cool as will.
func (s *session) steady(ctx context.Context) error {
	for _, x := range []struct {
		name   string
		during time.Duration
	}{{"churn begins", s.o.warm}, {"steady churn", s.o.steady}} {
		if _, err := s.phase(ctx, x.name, 0, func(ctx context.Context, t *tally) error { return s.churn(ctx, t, s.o.rate, x.during) }); err != nil {
			return err
		}
	}
	return nil
}

// flatOut is as many ADDs and DELs as the machine can do.
func (s *session) flatOut(ctx context.Context) error {
	_, err := s.phase(ctx, "flat out", 0, func(ctx context.Context, t *tally) error {
		end := time.Now().Add(s.o.flat)
		return s.everyone(func(i int, m *member) error {
			r := s.random(i)
			for time.Now().Before(end) {
				if err := replace(ctx, m, r, t); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	_, err = s.phase(ctx, "one node flat out", 0, func(ctx context.Context, t *tally) error {
		r := s.random(0)
		for end := time.Now().Add(s.o.flat / 2); time.Now().Before(end); {
			if err := replace(ctx, s.lab.members[0], r, t); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// outage takes the API server away under the churn. Before it comes back every node has leased all that it owns, and one pod waits on
// each for a block: so recovery is a storm.
func (s *session) outage(ctx context.Context) error {
	s.lab.api.StopServer()
	p, err := s.phase(ctx, "API server away", 0, func(ctx context.Context, t *tally) error {
		if err := s.churn(ctx, t, s.o.rate, s.o.outage); err != nil {
			return err
		}
		return s.everyone(func(_ int, m *member) error {
			for {
				if n, err := m.unleased(roomy); err != nil || n == 0 {
					return err
				}
				if err := t.add(ctx, m, roomy); err != nil {
					return err
				}
			}
		})
	})
	if err != nil {
		return err
	}
	s.fleet.OutageRefused, s.fleet.OutageAdds, s.fleet.OutageSeconds = p.Refused, p.Adds, p.Seconds
	_, err = s.phase(ctx, "recovery", s.o.settle, s.recover)
	if err != nil {
		return err
	}
	return s.judge(ctx)
}

// recover has a pod wait on every node when the API server comes back.
func (s *session) recover(ctx context.Context, t *tally) error {
	var g errgroup.Group
	served := make([]time.Time, s.nodes)
	for i, m := range s.lab.members {
		g.Go(func() error {
			err := t.add(ctx, m, roomy)
			served[i] = time.Now()
			return err
		})
	}
	if err := s.lab.api.RestartServer(ctx); err != nil {
		return err
	}
	ready := time.Now()
	if err := g.Wait(); err != nil {
		return err
	}
	s.fleet.ServedAfter = max(0, slices.MaxFunc(served, time.Time.Compare).Sub(ready).Seconds())
	if err := until(ctx, s.o.patience, "every agent watches again", func() (bool, error) {
		return !slices.ContainsFunc(s.lab.members, func(m *member) bool { return !m.ready() }), nil
	}); err != nil {
		return err
	}
	s.fleet.WatchedAfter = time.Since(ready).Seconds()
	s.say("  the last waiting pod was served after %.1f s, the last watch was there after %.1f s", s.fleet.ServedAfter, s.fleet.WatchedAfter)
	return nil
}

// empty ends all pods.
func (s *session) empty(ctx context.Context) error {
	_, err := s.phase(ctx, "end of all pods", s.o.settle, func(ctx context.Context, _ *tally) error {
		return s.everyone(func(i int, m *member) error {
			r := s.random(i)
			for {
				if more, err := m.evict(ctx, r); err != nil || !more {
					return err
				}
			}
		})
	})
	return err
}

// anywhere starts n pods, each on a node drawn by r, some at once. What is not served within patience is left.
func (s *session) anywhere(ctx context.Context, t *tally, r *rand.Rand, n int) error {
	limited, cancel := context.WithTimeout(ctx, s.o.patience)
	defer cancel()
	g, limited := errgroup.WithContext(limited)
	g.SetLimit(min(256, 4*s.nodes))
	for range n {
		// Half of the nodes are drawn twice as often: demand is never even.
		i := r.IntN(s.nodes)
		if i%2 == 1 && r.IntN(3) == 0 {
			i = (i + 1) % s.nodes
		}
		g.Go(func() error { return t.add(limited, s.lab.members[i], crowded) })
	}
	err := g.Wait()
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		s.say("not all were served within %s: %v", s.o.patience, err)
		return nil
	}
	return err
}

func (s *session) capacity() int { return s.nodes * s.o.block }

// fill leases 99 of 100 addresses of a pool that has one block for each node.
func (s *session) fill(ctx context.Context) error {
	_, err := s.phase(ctx, "filling a pool to 99 %", s.o.settle, func(ctx context.Context, t *tally) error {
		return s.anywhere(ctx, t, s.random(-1), s.capacity()*99/100)
	})
	if err != nil {
		return err
	}
	return s.judge(ctx)
}

// churnFull replaces pods of that pool, by others on other nodes.
func (s *session) churnFull(ctx context.Context) error {
	_, err := s.phase(ctx, "churn at 99 %", 0, func(ctx context.Context, t *tally) error {
		end := time.Now().Add(s.o.full)
		g, ctx := errgroup.WithContext(ctx)
		for w := range min(16, s.nodes) {
			r := s.random(-2 - w)
			g.Go(func() error {
				for time.Now().Before(end) {
					ended, err := s.lab.members[r.IntN(s.nodes)].evict(ctx, r)
					if err != nil {
						return err
					}
					if !ended {
						continue
					}
					if err := t.add(ctx, s.lab.members[r.IntN(s.nodes)], crowded); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return g.Wait()
	})
	return err
}

// lastAddresses leases what is left of that pool, and sees that then there is none.
func (s *session) lastAddresses(ctx context.Context) error {
	left := s.capacity() - s.living(crowded)
	_, err := s.phase(ctx, "filling it to the last address", 0, func(ctx context.Context, t *tally) error {
		return s.anywhere(ctx, t, s.random(-100), left)
	})
	if err != nil {
		return err
	}
	s.fleet.Capacity, s.fleet.NotHandedOut = s.capacity(), s.capacity()-s.living(crowded)
	if s.fleet.NotHandedOut > 0 {
		return s.judge(ctx)
	}
	req := ipam.Request{Pool: crowded, Key: ipam.Key{Network: "default/" + crowded, ContainerID: "one-too-many", IfName: "net1"}}
	m := s.lab.members[0]
	if l, err := m.agent.Lease(ctx, req); !errors.Is(err, ipam.ErrPoolFull) {
		return fmt.Errorf("%d nodes: a full pool answered %v and %w", s.nodes, l.Addresses, err)
	}
	return s.judge(ctx)
}

func (s *session) living(pool string) int {
	n := 0
	for _, m := range s.lab.members {
		for _, p := range m.living() {
			if p.key.Network == "default/"+pool {
				n++
			}
		}
	}
	return n
}
