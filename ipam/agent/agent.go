// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/claim"
	"github.com/railyard-net/railyard/ipam/store"
)

// Config is what an Agent works with. The zero value of each optional field stands for its default.
type Config struct {
	// Node is the name of the Node object.
	Node string
	// Store is open, and this process's until Run has returned. The caller closes it.
	Store *store.Store
	// Client reads and writes the API without a cache. Cache watches what Options of NewCache say. Connect makes
	// both. Run starts the cache.
	Client client.Client
	Cache  cache.Cache
	Log    *slog.Logger

	// Registerer gets the metrics. Optional.
	Registerer prometheus.Registerer
	// GCInterval is the time between two looks at the leases' namespaces (30 s); GCGrace how long one must have
	// been seen gone (0: two looks).
	GCInterval, GCGrace time.Duration
	// ReleaseAfter is how long a block must have been empty before it goes back (0: as soon as all has cooled).
	ReleaseAfter time.Duration
	// CedeWait is how long a lease waits for addresses of other nodes when the pool has no other (5 s).
	CedeWait time.Duration
	// ConflictHold is how long an address is held back that a neighbour answered for (10 min).
	ConflictHold time.Duration
	// MirrorInterval is the time between two writes of changed leases to the status of their blocks (5 s).
	MirrorInterval time.Duration
	// NamespaceDirs are where named network namespaces are looked for (DefaultNamespaceDirs).
	NamespaceDirs []string
	// Now is the boot clock (CLOCK_BOOTTIME).
	Now func() time.Duration
	// Namespaces is what is seen of the node's network namespaces (those in NamespaceDirs and of the node's processes).
	Namespaces Namespaces
	// Hit, if not nil, is called by every goroutine of the agent that begins, or goes on after it has waited for another one or
	// for time, before it does anything else: a test's may wait, and so say in what order they go on.
	Hit func(point string)

	// places are the patterns of the paths of network namespaces: NamespaceDirs and the node's processes. Tests, whose
	// addresses anything on the machine may use, leave the processes out.
	places []string
	gone   func(ipam.NetNS) bool
	inUse  func(context.Context) ([]found, error)
}

func (c *Config) complete() error {
	if c.Node == "" || c.Store == nil || c.Client == nil || c.Cache == nil || c.Log == nil {
		return &ipam.FieldError{Field: "config", Detail: "needs Node, Store, Client, Cache and Log"}
	}
	if c.Now == nil {
		o, err := store.SystemOptions()
		if err != nil {
			return err
		}
		c.Now = o.Now
	}
	c.GCInterval = orDefault(c.GCInterval, 30*time.Second)
	c.CedeWait = orDefault(c.CedeWait, 5*time.Second)
	c.ConflictHold = orDefault(c.ConflictHold, 10*time.Minute)
	c.MirrorInterval = orDefault(c.MirrorInterval, 5*time.Second)
	if c.NamespaceDirs == nil {
		c.NamespaceDirs = DefaultNamespaceDirs()
	}
	if c.places == nil {
		c.places = places(c.NamespaceDirs)
	}
	c.inUse = func(ctx context.Context) ([]found, error) { return addressesInUse(ctx, c.places) }
	if c.Namespaces != nil {
		c.gone, c.inUse = c.Namespaces.Gone, inUseOf(c.Namespaces)
	}
	if c.gone == nil {
		c.gone = func(n ipam.NetNS) bool { return goneForGood(n, c.places) }
	}
	if c.Registerer == nil {
		c.Registerer = prometheus.NewRegistry()
	}
	if c.Hit == nil {
		c.Hit = func(string) {}
	}
	return nil
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}

// Agent is the node's ipam.Leaser with room: it claims blocks where the store alone would say that the pool is
// full. Its methods may be called concurrently, from before Run on. After Run has returned it claims nothing more.
type Agent struct {
	cfg     Config
	store   *store.Store
	log     *slog.Logger
	metrics *metrics
	claims  *claim.Claimer

	// leasing is read-locked around every lease, and locked by what must not see one come in between two steps.
	leasing *rwLock
	// pools has a lock for each pool, held from the first read of a block to what the store makes of the last
	// write: two of them at once could grant what the other one gives back.
	pools keyedMutex
	// reserving has a lock for each reservation, held by a request from the bind to the confirmed lease, and by what ends a use: it is
	// taken before that of the pool.
	reserving keyedMutex
	unused    chan struct{} // the uses of reservations are to be looked at
	picked    atomic.Bool   // something may be leased for a reservation that does not have it
	// claiming is read-locked around everything that writes to the API for a request, and locked by the end of Run.
	claiming *rwLock
	ended    bool // under claiming
	// flight has one claim under way for however many requests wait for it.
	flight singleflight.Group
	recent refusals

	// starving counts the requests that wait for room, by flightKey; turn says that the last to be served was one of
	// them, and not another node; wanting has the blocks in which one of this node's wants is waited for; standing counts
	// the wants of others that this node could not answer yet.
	starving, turn, wanting *tally
	users, blocks           *tally  // how many nodes own addresses of a pool, and how many blocks it has, by its name
	crowds                  moments // until when a pool counts as crowded, by its name
	standing                atomic.Int64
	bell                    bell          // rings when a want, or its answer, is seen
	trading                 chan struct{} // trade has something to do
	ending                  chan struct{} // closed when Run is to end

	woken  chan struct{} // sync has something to do
	leased chan struct{} // the level of the pools is to be looked at
	// untilLow is how many leases can be made before a pool may be low: counting what is free takes longer than
	// leasing.
	untilLow atomic.Int64
	made     atomic.Int64 // leases, since the start

	// fresh: the store was made anew and what lives on the node has not been looked at, so nothing is leased.
	fresh atomic.Bool
	ready chan struct{} // closed when fresh is false
	heard chan struct{} // closed when the pools have been read from the API for the first time
	node  atomic.Pointer[node]
	lost  atomic.Int64

	// Trade's own: when the wants expire that this node has answered last, by block and who asked.
	answered map[sharer]time.Time

	// Sync's own.
	hearing sync.Once
	looked  time.Duration // when all leases were last compared, on the boot clock; 0: never
}

var _ ipam.Leaser = (*Agent)(nil)

// New makes an agent that serves from the store at once; Run makes it keep the store and the API together.
func New(c Config) (*Agent, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	if name, _ := c.Store.Node(); name != "" && name != c.Node {
		return nil, fmt.Errorf("%w: the lease store belongs to node %q, not to %q: give each node a state folder of its own",
			ipam.ErrInvalid, name, c.Node)
	}
	a := &Agent{
		cfg: c, store: c.Store, log: c.Log,
		woken: make(chan struct{}, 1), leased: make(chan struct{}, 1), unused: make(chan struct{}, 1),
		ready: make(chan struct{}), heard: make(chan struct{}),
		starving: newTally(), turn: newTally(), wanting: newTally(), users: newTally(), blocks: newTally(), trading: make(chan struct{}, 1), ending: make(chan struct{}),
		answered: map[sharer]time.Time{},
		pools:    keyedMutex{hit: c.Hit}, reserving: keyedMutex{hit: c.Hit}, leasing: newRWLock(c.Hit), claiming: newRWLock(c.Hit),
	}
	a.claims = claim.New(c.Client, nil)
	a.picked.Store(true)
	a.fresh.Store(a.store.Fresh())
	if !a.fresh.Load() {
		close(a.ready)
	}
	var err error
	if a.metrics, err = newMetrics(c.Registerer, a); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return a, nil
}

// Run keeps the store and the API together until ctx ends; then it returns nil, after every step under way has
// come to an end. It is called once.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.watch(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for name, loop := range map[string]func(context.Context) error{
		"watch": a.cfg.Cache.Start, "sync": a.keepSync, "collect": a.collect, "mirror": a.mirror,
		"return": a.returnIdle, "ahead": a.claimAhead, "trade": a.trade,
		"reservations": a.keepReservations,
	} {
		g.Go(func() error {
			a.cfg.Hit(name)
			return loop(ctx)
		})
	}
	context.AfterFunc(ctx, func() { close(a.ending) })
	err := g.Wait()
	a.cfg.Hit("end")
	a.claiming.Lock()
	a.ended = true
	a.claiming.Unlock()
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

// mayClaim holds the end of Run up until done is called; an error says that it is too late to begin.
func (a *Agent) mayClaim() (done func(), err error) {
	a.claiming.RLock()
	if a.ended {
		a.claiming.RUnlock()
		return nil, fmt.Errorf("%w: the agent is stopping", ipam.ErrUnavailable)
	}
	return a.claiming.RUnlock, nil
}

// wake has sync look at everything soon.
func (a *Agent) wake() { poke(a.woken) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// goesOn is for a goroutine that has waited, for the end of ctx too: false if that was it.
func (a *Agent) goesOn(ctx context.Context, point string) bool {
	a.cfg.Hit(point)
	return ctx.Err() == nil
}

// every calls do once per interval until ctx ends. What do returns is logged; the next turn tries again.
func (a *Agent) every(ctx context.Context, interval time.Duration, what string, do func(context.Context) error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		if !a.goesOn(ctx, what) {
			return nil
		}
		if err := do(ctx); err != nil && ctx.Err() == nil {
			a.log.WarnContext(ctx, "try again later", "doing", what, "error", err)
		}
	}
}

func ignoreNotFound(err error) error {
	if errors.Is(err, ipam.ErrNotFound) {
		return nil
	}
	return err
}

// keyedMutex is a mutex for each key, whose wait can be given up.
type keyedMutex struct {
	hit   func(point string) // see Config.Hit
	mu    sync.Mutex
	locks map[string]chan struct{}
}

// lock waits for the lock of key and gives the function that unlocks it.
func (k *keyedMutex) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]chan struct{}{}
	}
	c, ok := k.locks[key]
	if !ok {
		c = make(chan struct{}, 1)
		k.locks[key] = c
	}
	k.mu.Unlock()
	unlock = func() { <-c }
	select {
	case c <- struct{}{}:
		return unlock, nil
	default:
	}
	select {
	case c <- struct{}{}:
		k.hit("locked")
		return unlock, nil
	case <-ctx.Done():
		k.hit("not locked")
		return nil, fmt.Errorf("%w: %w", ipam.ErrUnavailable, context.Cause(ctx))
	}
}
