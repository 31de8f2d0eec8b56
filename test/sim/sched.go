// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"cmp"
	"container/heap"
	"hash/fnv"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"
)

// sched lets one thing happen at a time: it pops the earliest event, does it, and waits until every goroutine of the
// bubble is blocked again. Goroutines of the program under test stop where they begin, whenever they have waited, at every
// request to the API and around every transaction of a store: there they arrive here, and go on alone, when it is their turn.
//
// When something happens is drawn from the seed and from who asks for what for the how manieth time, never from one
// stream: so the rest of a run is as it was when one of its actions is left out.
type sched struct {
	seed   uint64
	begun  time.Time
	queue  events
	seq    map[string]uint64
	broken bool   // end the run now
	after  func() // called after each event, when all is blocked
	steps  int
	log    *trace

	mu     sync.Mutex
	over   bool // nobody decides any more
	come   []arrival
	poke   chan struct{}
	actors map[string]actor // by goroutine
	named  map[string]int   // how many had a name
}

// actor is a goroutine under a name that it has in every run, and which of those it is that have had the name.
type actor struct {
	name string
	nth  int
}

// arrival is one that waits for a decision.
type arrival struct {
	key string
	by  actor
	do  func(r *rand.Rand)
}

func (a arrival) compare(b arrival) int {
	return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.by.name, b.by.name), cmp.Compare(a.by.nth, b.by.nth))
}

type event struct {
	at  time.Duration
	key string
	n   uint64
	do  func()
}

type events []event

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return e[i].before(e[j]) }
func (e events) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)        { *e = append(*e, x.(event)) }
func (e *events) Pop() (x any) {
	old := *e
	*e, x = old[:len(old)-1], old[len(old)-1]
	return x
}

func (e event) before(f event) bool {
	return cmp.Or(cmp.Compare(e.at, f.at), cmp.Compare(e.key, f.key), cmp.Compare(e.n, f.n)) < 0
}

func newSched(seed uint64) *sched {
	return &sched{
		seed: seed, begun: time.Now(), seq: map[string]uint64{}, poke: make(chan struct{}, 1),
		actors: map[string]actor{}, named: map[string]int{}, log: newTrace(),
	}
}

// now is the virtual time since the start.
func (s *sched) now() time.Duration { return time.Since(s.begun) }

// draw is a source of decisions about what key does for the n-th time.
func (s *sched) draw(key string, n uint64) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))
	return rand.New(rand.NewPCG(s.seed, h.Sum64()+n*0x9e3779b97f4a7c15))
}

// next is draw for the next time that key does something.
func (s *sched) next(key string) (*rand.Rand, uint64) {
	s.seq[key]++
	return s.draw(key, s.seq[key]), s.seq[key]
}

// at has do happen at a time, on the scheduler's goroutine. It may be called from there only.
func (s *sched) at(when time.Duration, key string, do func()) {
	_, n := s.next("at " + key)
	heap.Push(&s.queue, event{max(when, s.now()), key, n, do})
}

// arrive has the scheduler decide about something that a goroutine has come to. Do is called soon, on the scheduler's
// goroutine, and before any time passes. Those who arrive together are taken by their keys: in which order they came is Go's
// choice. False: the run is over, and nobody decides.
func (s *sched) arrive(key string, do func(r *rand.Rand)) bool {
	by := s.actor(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return false
	}
	s.come = append(s.come, arrival{key, by, do})
	select {
	case s.poke <- struct{}{}:
	default:
	}
	return true
}

// pause blocks the calling goroutine for a moment that the scheduler chooses, up to the longest. Before it goes on,
// passing is called on the scheduler's goroutine, if it is not nil.
func (s *sched) pause(key string, longest time.Duration, passing func(*rand.Rand)) {
	on := make(chan struct{})
	if s.arrive(key, func(r *rand.Rand) {
		s.at(s.now()+time.Duration(r.Int64N(int64(longest)+1)), key, func() {
			s.log.add(s.now(), key)
			if passing != nil {
				passing(r)
			}
			close(on)
		})
	}) {
		<-on
	}
}

// sleep blocks the calling goroutine for d; then it goes on alone, as after time.Sleep it would not.
func (s *sched) sleep(key string, d time.Duration) {
	on := make(chan struct{})
	if s.arrive(key, func(*rand.Rand) {
		s.at(s.now()+d, key, func() {
			s.log.pass(s.now(), key)
			close(on)
		})
	}) {
		<-on
	}
}

// pass lets the calling goroutine go on alone, with no time between.
func (s *sched) pass(key string) { s.sleep(key, 0) }

// run does events until the queue holds none before the end.
func (s *sched) run(end time.Duration) {
	for {
		synctest.Wait()
		s.take()
		wait := end - s.now()
		if len(s.queue) > 0 {
			wait = min(wait, s.queue[0].at-s.now())
		}
		switch {
		case s.now() >= end || s.broken:
			return
		case wait > 0:
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-s.poke:
			}
			t.Stop()
			continue
		}
		e := heap.Pop(&s.queue).(event)
		e.do()
		s.steps++
		synctest.Wait()
		s.after()
	}
}

// leave lets go whoever still waits, and who will come: they belong to processes that are dead.
func (s *sched) leave() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	for s.take(); len(s.queue) > 0; {
		heap.Pop(&s.queue).(event).do()
	}
}

// take decides about all who have come.
func (s *sched) take() {
	s.mu.Lock()
	come := s.come
	s.come = nil
	s.mu.Unlock()
	slices.SortFunc(come, arrival.compare)
	for _, a := range come {
		r, _ := s.next(a.key)
		a.do(r)
	}
}

// name gives the calling goroutine a name.
func (s *sched) name(name string) {
	id := goroutine()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setName(id, name)
}

func (s *sched) setName(id, name string) actor {
	s.named[name]++
	a := actor{name, s.named[name]}
	s.actors[id] = a
	return a
}

// goroutine is the number of the calling one. Go gives it away in traces only.
func goroutine() string {
	var buf [48]byte
	head := buf[:runtime.Stack(buf[:], false)]
	id, _, _ := bytes.Cut(bytes.TrimPrefix(head, []byte("goroutine ")), []byte(" "))
	return string(id)
}

// actor is the calling goroutine: under the name that it was given, or that of the goroutine that made it and where it was first
// seen.
func (s *sched) actor(where string) actor {
	id := goroutine()
	s.mu.Lock()
	a, ok := s.actors[id]
	s.mu.Unlock()
	if ok {
		return a
	}
	buf := make([]byte, 1<<15)
	parent := origin(string(buf[:runtime.Stack(buf, false)]))
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.setName(id, s.actors[parent].name+">"+where)
}

// origin reads from a goroutine's trace the number of the one that made it.
func origin(stack string) (parent string) {
	for line := range strings.Lines(stack) {
		if made, ok := strings.CutPrefix(line, "created by "); ok {
			_, parent, _ = strings.Cut(strings.TrimSpace(made), " in goroutine ")
		}
	}
	return parent
}
