// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand"
	"os"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/test/sim/apiserver"
)

// world is a cluster under simulation.
type world struct {
	*sched
	plan  Plan
	times times
	dir   string
	slog  *slog.Logger
	api   *api
	nodes []*node
	pools []string

	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	healed     bool
	closing    bool // what fails now does not count
	awayUntil  time.Duration
	stormUntil time.Duration
	backup     apiserver.Backup
	excuses    excuses
	dirty      bool // something that the checker sees has changed
	skipped    int

	mu      sync.Mutex
	failure error
	Stats
}

// Stats are what happened in a run.
type Stats struct {
	Steps, Leases, Refused, Lost, Checks int
}

func (s *Stats) add(x Stats) {
	s.Steps, s.Leases, s.Refused, s.Lost, s.Checks = s.Steps+x.Steps, s.Leases+x.Leases, s.Refused+x.Refused, s.Lost+x.Lost, s.Checks+x.Checks
}

// Result is how a run ended.
type Result struct {
	Err   error
	Sum   uint64 // of all that happened, in order
	Trace []string
	Stats
}

// Options are how a plan is run.
type Options struct {
	Backend Backend // an empty server in memory if nil
	Log     *slog.Logger
	Whole   bool // the result tells all that happened, not only the last of it
}

// Run runs a plan to its end or its first failure. It must be called in a bubble of testing/synctest, by which all that waits for
// time is sped up.
func Run(p Plan, o Options) Result {
	dir, err := os.MkdirTemp(scratch(), "railyard-sim-")
	if err != nil {
		return Result{Err: err}
	}
	defer os.RemoveAll(dir)
	if o.Backend == nil {
		o.Backend = &apiserver.Server{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	mathrand.Seed(int64(p.Seed)) //nolint:staticcheck // where GODEBUG=randseednop=0, it makes what libraries draw the same each time
	w := &world{sched: newSched(p.Seed), plan: p, times: p.Times, dir: dir, slog: o.Log, api: newAPI(o.Backend), excuses: excuses{}}
	w.log.whole = o.Whole
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.after, w.api.changed = w.check, w.noticed
	w.name("the world")
	w.play()
	w.end()
	w.Steps = w.steps
	return Result{Err: w.failure, Sum: w.log.sum, Trace: w.log.last(), Stats: w.Stats}
}

// scratch is a folder in memory, if there is one.
func scratch() string {
	if i, err := os.Stat("/dev/shm"); err == nil && i.IsDir() {
		return "/dev/shm"
	}
	return ""
}

// play is the whole run: a cluster comes up, things happen, all heals, all pods end.
func (w *world) play() {
	for i := range w.plan.Nodes {
		n := newNode(w, i, w.plan.Slots)
		w.nodes = append(w.nodes, n)
		w.must(w.api.create(w.labelled(n, true)))
	}
	for i, p := range w.plan.Pools {
		w.addPool(i, p)
	}
	w.addPods()
	for i, n := range w.nodes {
		w.at(time.Duration(i)*time.Millisecond, n.name+" start", n.start)
	}
	for _, a := range w.plan.Actions {
		w.at(a.At, fmt.Sprintf("action %04d", a.N), func() { w.act(a) })
	}
	w.until(w.plan.Length+time.Second, nil)
	w.heal()
	w.until(3*time.Minute, w.agreed)
	w.drain()
	w.until(5*time.Minute, w.empty)
}

// until lets time pass, no longer than the limit, and until done says nil. Done is asked once a second, and is then wrong if
// it still says why not at the end.
func (w *world) until(limit time.Duration, done func() error) {
	end := w.now() + limit
	for w.failed() == nil && w.now() < end {
		if done == nil {
			w.run(end)
			return
		}
		w.run(min(w.now()+time.Second, end))
		if done() == nil {
			return
		}
	}
	if done != nil && w.failed() == nil {
		w.fail(fmt.Errorf("%v after all was healed: %w", limit, done()))
	}
}

// heal ends every fault.
func (w *world) heal() {
	w.healed = true
	w.log.add(w.now(), "all is healed")
	for _, n := range w.nodes {
		n.fuse = 0
		w.at(w.now(), n.name+" start", n.start)
	}
}

// agreed says that every agent is up, and of one mind with the API.
func (w *world) agreed() error {
	for _, n := range w.nodes {
		if n.agent == nil {
			return fmt.Errorf("the agent of %s is not up", n.name)
		}
		if _, err := n.agent.State(); err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
		for _, p := range n.pods {
			if p != nil && p.busy {
				return fmt.Errorf("pod %s has a call under way", p.id)
			}
		}
	}
	return nil
}

// drain ends every pod.
func (w *world) drain() {
	for _, n := range w.nodes {
		for _, p := range n.pods {
			if p != nil && !p.ending {
				w.at(w.now(), n.name+" drain "+p.id, func() { p.do(true, p.del) })
			}
		}
	}
}

// empty says that nothing is leased, and that no block has a share of a node that could give it back.
func (w *world) empty() error {
	for _, n := range w.nodes {
		list, err := n.store.Leases()
		if err != nil {
			return fmt.Errorf("the leases of %s: %w", n.name, err)
		}
		for _, l := range list {
			return fmt.Errorf("%s still has %d leases, one of them %s in %s", n.name, len(list), l.Key, l.Pool)
		}
	}
	for _, b := range w.api.blocks() {
		for _, s := range b.Spec.Shares {
			for _, n := range w.nodes {
				if s.Node == n.name && (s.Session == n.store.Session() || s.NodeUID == w.uid(n)) {
					return fmt.Errorf("block %s still has a share of %s: %v", b.Name, n.name, s.Ranges)
				}
			}
		}
	}
	return nil
}

func (w *world) uid(n *node) string {
	if o := w.api.is[apiserver.Key{Kind: kindNode, Name: n.name}]; o != nil {
		return string(o.GetUID())
	}
	return ""
}

// end stops everything that still runs.
func (w *world) end() {
	w.healed = true
	w.cancel()
	for _, n := range w.nodes {
		for _, p := range n.pods {
			if p != nil {
				p.ending = true
			}
		}
	}
	w.closing, w.broken = true, false
	done := make(chan struct{})
	go func() { w.running.Wait(); close(done) }()
	for !closed(done) {
		w.after = func() {}
		w.run(w.now() + time.Second)
	}
	w.leave()
}

func (w *world) must(err error) {
	if err != nil {
		w.fail(fmt.Errorf("the simulator's own request: %w", err))
	}
}

// fail ends the run with err, if it is the first.
func (w *world) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure == nil && err != nil && !w.closing {
		w.failure = err
		w.broken = true
	}
}

func (w *world) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failure
}

// count counts the answer to an ADD.
func (w *world) count(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		w.Leases++
	case errors.Is(err, ipam.ErrUnavailable):
		w.Lost++
	default:
		w.Refused++
	}
}

func (w *world) faultsNow(*node) faults {
	f := w.plan.Faults
	if w.healed {
		return faults{}
	}
	if w.now() < w.stormUntil {
		f.conflict = 0.6
	}
	return f
}

func (w *world) socketLoss() float64 {
	if w.healed {
		return 0
	}
	return w.plan.Faults.unanswered / 2
}

func (w *world) cut(n *node) bool {
	return !w.healed && (w.now() < w.awayUntil || w.now() < n.cutUntil)
}

func (w *world) slowWatch(n *node) bool { return !w.healed && w.now() < n.slowUntil }

// noticed tells the watches of a change.
func (w *world) noticed(c change) {
	w.dirty = true
	for _, n := range w.nodes {
		if n.watches != nil && n.watches.life == n.life {
			n.watches.noticed(c)
		}
	}
}

const railLabel = "sim.railyard.dev/rail"

func (w *world) labelled(n *node, selected bool) *metav1.PartialObjectMetadata {
	o := nodeObject(n.name)
	o.Labels = map[string]string{railLabel: fmt.Sprint(selected)}
	return o
}

func (w *world) addPool(i int, p PoolPlan) {
	pool := &v1alpha1.IPPool{}
	pool.Name = fmt.Sprintf("rail%d", i)
	zero := int32(p.Cooldown)
	no := false // so that in the end nothing is owned
	pool.Spec = v1alpha1.IPPoolSpec{CooldownSeconds: &zero, Watermarks: &v1alpha1.Watermarks{KeepLast: &no}, NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{railLabel: "true"}}}
	if p.V4 {
		pool.Spec.IPv4 = subnet(fmt.Sprintf("10.%d.0.0/%d", i, 32-p.Bits), p)
		if p.Reserved {
			pool.Spec.IPv4.Reserved = []v1alpha1.AddressRange{v1alpha1.AddressRange(fmt.Sprintf("10.%d.0.4-10.%d.0.7", i, i))}
		}
	}
	if p.Sticky {
		pool.Spec.Sticky = &v1alpha1.Sticky{For: []string{v1alpha1.HolderStatefulSet}}
	}
	if p.V6 {
		pool.Spec.IPv6 = subnet(fmt.Sprintf("fd00:%d::/%d", i, 128-p.Bits), p)
	}
	w.pools = append(w.pools, pool.Name)
	w.must(w.api.create(pool))
	w.accept(pool.Name)
}

// stickyPods is how many pods a StatefulSet has whose addresses follow them.
const stickyPods = 4

// addPods makes the objects of the pods, as far as agents read them: those of one name are one.
func (w *world) addPods() {
	yes := true
	for i := range w.plan.Slots {
		o := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: kindPod}}
		o.Name, o.Namespace = fmt.Sprintf("pod-%d", i), "default"
		w.must(w.api.create(o))
	}
	for i := range stickyPods {
		o := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: kindPod}}
		o.Name, o.Namespace = fmt.Sprintf("db-%d", i), "default"
		o.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db", UID: "uid-of-db", Controller: &yes}}
		w.must(w.api.create(o))
	}
}

func subnet(prefix string, p PoolPlan) *v1alpha1.Subnet {
	return &v1alpha1.Subnet{Subnet: prefix, BlockSize: int32(p.BlockSize)}
}

// accept is what the controller does about a pool.
func (w *world) accept(name string) {
	pool := &v1alpha1.IPPool{}
	pool.Name = name
	w.must(w.api.Get(pool))
	meta.SetStatusCondition(&pool.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAccepted, ObservedGeneration: pool.Generation,
	})
	w.must(w.api.write(pool, w.api.UpdateStatus))
}
