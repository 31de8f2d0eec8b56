// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/agent"
	"github.com/railyard-net/railyard/ipam/store"
)

// What the agent's manifest has; its other settings are the package's defaults, as in railyard-agent.
const (
	agentQPS, agentBurst = 50, 100
	releaseAfter         = 5 * time.Minute
	gcGrace              = time.Minute
)

// member is a simulated node: an agent with its loops, a store of its own and connections of its own, in this process, and the
// pods that live on it.
type member struct {
	name  string
	meter meter
	store *store.Store
	agent *agent.Agent
	stop  func() error

	mu   sync.Mutex
	made int // pods ever
	pods []pod
}

// pod is an attachment that has an address.
type pod struct {
	key  ipam.Key
	addr netip.Addr
}

// join starts the node's agent. It does not wait for anything that the API has to say.
func join(cfg *rest.Config, log *slog.Logger, name, dir string) (*member, error) {
	m := &member{name: name}
	cfg.QPS, cfg.Burst, cfg.UserAgent = agentQPS, agentBurst, "railyard-agent/scale"
	m.meter.measure(cfg)
	api, cache, err := agent.Connect(cfg, name)
	if err != nil {
		return nil, err
	}
	so, err := store.SystemOptions()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if m.store, err = store.Open(context.Background(), filepath.Join(dir, "ipam.db"), so); err != nil {
		return nil, err
	}
	m.agent, err = agent.New(agent.Config{
		Node: name, Store: m.store, Client: api, Cache: cache, Log: log.With("node", name),
		GCGrace: gcGrace, ReleaseAfter: releaseAfter, Namespaces: quietHost{},
	})
	if err != nil {
		return nil, errors.Join(err, m.store.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.agent.Run(ctx) }()
	m.stop = sync.OnceValue(func() error {
		cancel()
		return errors.Join(<-done, m.store.Close())
	})
	return m, nil
}

// quietHost is a machine on which no namespace ends by itself, and none was there before.
type quietHost struct{}

func (quietHost) Gone(ipam.NetNS) bool                         { return false }
func (quietHost) InUse(context.Context) ([]agent.InUse, error) { return nil, nil }

// refusedPause is how long after a refusal the ADD is repeated. The kubelet waits longer.
const refusedPause = 500 * time.Millisecond

// add is the ADD of a new pod, and how often it was refused before. Like a runtime it is repeated, under the same key, until it is
// served or ctx ends.
func (m *member) add(ctx context.Context, pool string) (p pod, refused int, err error) {
	m.mu.Lock()
	m.made++
	n := m.made
	m.mu.Unlock()
	req := ipam.Request{
		Pool:  pool,
		Key:   ipam.Key{Network: "default/" + pool, ContainerID: fmt.Sprintf("%032x%032x", fnv(m.name), n), IfName: "net1"},
		NetNS: ipam.NetNS{Path: fmt.Sprintf("/run/netns/cni-%08x-7d5e-4cf3-9a51-%012x", n, n), Dev: 4, Ino: uint64(4026532000 + n)},
		Pod:   ipam.Pod{Namespace: "training", Name: fmt.Sprintf("worker-%s-%d", m.name, n), UID: fmt.Sprintf("00000000-0000-4000-8000-%012d", n)},
	}
	for {
		l, err := m.agent.Lease(ctx, req)
		if err == nil {
			p := pod{req.Key, l.Addresses[0].Prefix.Addr()}
			m.mu.Lock()
			m.pods = append(m.pods, p)
			m.mu.Unlock()
			return p, refused, nil
		}
		if !errors.Is(err, ipam.ErrUnavailable) && !errors.Is(err, ipam.ErrPoolFull) {
			return pod{}, refused, fmt.Errorf("ADD on %s: %w", m.name, err)
		}
		refused++
		select {
		case <-time.After(refusedPause):
		case <-ctx.Done():
			return pod{}, refused, fmt.Errorf("ADD on %s, in vain so far: %w", m.name, errors.Join(err, ctx.Err()))
		}
	}
}

// evict ends a pod drawn by r, and says whether there was one.
func (m *member) evict(ctx context.Context, r *rand.Rand) (bool, error) {
	m.mu.Lock()
	if len(m.pods) == 0 {
		m.mu.Unlock()
		return false, nil
	}
	i := r.IntN(len(m.pods))
	p := m.pods[i]
	m.pods[i] = m.pods[len(m.pods)-1]
	m.pods = m.pods[:len(m.pods)-1]
	m.mu.Unlock()
	return true, m.agent.Release(ctx, p.key)
}

func (m *member) living() []pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]pod(nil), m.pods...)
}

// unleased is how many addresses of the pool the node owns and does not lease: free ones, and ones that cool.
func (m *member) unleased(pool string) (int, error) {
	stats, err := m.store.Stats()
	for _, s := range stats {
		if s.Pool == pool {
			return s.Free + s.Cooling, err
		}
	}
	return 0, err
}

// watches is how many an agent has: of pools, blocks, reservations and its Node.
const watches = 4

// ready says that everything is watched and the store leases.
func (m *member) ready() bool { return m.meter.watching.Load() >= watches && !m.store.Fresh() }

func fnv(s string) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range []byte(s) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}
