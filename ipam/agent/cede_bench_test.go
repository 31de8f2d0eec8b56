// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

// BenchmarkHandOver is how long an ADD waits on a node without a free address, in a pool that is full but for a few, after pods ended
// elsewhere; the mirrors are a second old. It says at which percentile (ms/p50, ms/p99), and how many requests all agents made for it. The
// ns/op of Go are those of a whole round. -benchtime=300x makes the p99 worth something; docs/dev/testing.md.
func BenchmarkHandOver(b *testing.B) {
	for name, c := range map[string]struct{ nodes, block, spare int }{
		"one-free-in-4-blocks": {6, 8, 1}, "three-free-in-4-blocks": {6, 8, 3}, "one-free-in-1-block": {4, 32, 1},
	} {
		b.Run(name, func(b *testing.B) { benchmarkHandOver(b, c.nodes, c.block, c.spare) })
	}
}

func benchmarkHandOver(b *testing.B, size, block, spare int) {
	pool := shared.pool(b, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/27", BlockSize: int32(block)}
	})
	var asked atomic.Int64
	count := func(c client.Client) client.Client { return counting{c, &asked} }
	agents := nodes(b, size, agentOptions{client: count, config: func(c *Config) { c.MirrorInterval, c.CedeWait = time.Second, time.Minute }})
	dice := rand.New(rand.NewPCG(1, 2))
	type holder struct {
		a  *running
		id string
	}
	var held []holder
	lease := func() (d time.Duration, starved bool) {
		h := holder{agents[dice.IntN(size)], fmt.Sprint("c", dice.Uint64())}
		s, err := h.a.stockOf(pool, true)
		if err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		mustLease(b, h.a, request(pool, h.id))
		held = append(held, h)
		return time.Since(began), s.Free == 0
	}
	for len(held) < 30-spare {
		lease()
	}
	var waited waits
	before := asked.Load()
	for b.Loop() {
		i := dice.IntN(len(held))
		mustRelease(b, held[i].a, held[i].id)
		held = append(held[:i], held[i+1:]...)
		if d, starved := lease(); starved {
			waited.add(d)
		}
	}
	if len(waited.d) == 0 {
		return
	}
	b.ReportMetric(float64(waited.at(0.5).Milliseconds()), "ms/p50")
	b.ReportMetric(float64(waited.at(0.9).Milliseconds()), "ms/p90")
	b.ReportMetric(float64(waited.at(0.99).Milliseconds()), "ms/p99")
	b.ReportMetric(float64(asked.Load()-before)/float64(len(waited.d)), "requests/wait")
	b.Logf("waited: %s", &waited)
}
