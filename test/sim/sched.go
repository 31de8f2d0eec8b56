// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"cmp"
	"container/heap"
	"fmt"
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
// bubble is blocked again. Goroutines of the program under test stop at every request to the API and around every
// transaction of a store, where they arrive here and get a time to go on.
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
	come   []arrival
	poke   chan struct{}
	actors map[string]string // goroutine → name
}

type arrival struct {
	key string
	do  func(r *rand.Rand)
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
		actors: map[string]string{}, log: newTrace(),
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
// goroutine, and before any time passes. Those who arrive together are taken by their keys.
func (s *sched) arrive(key string, do func(r *rand.Rand)) {
	s.mu.Lock()
	s.come = append(s.come, arrival{key, do})
	s.mu.Unlock()
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// pause blocks the calling goroutine for a moment that the scheduler chooses, up to the longest. Before it goes on,
// passing is called on the scheduler's goroutine, if it is not nil.
func (s *sched) pause(key string, longest time.Duration, passing func(*rand.Rand)) {
	on := make(chan struct{})
	s.arrive(key, func(r *rand.Rand) {
		s.at(s.now()+time.Duration(r.Int64N(int64(longest)+1)), key, func() {
			s.log.add(s.now(), key)
			if passing != nil {
				passing(r)
			}
			close(on)
		})
	})
	<-on
}

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

// take decides about all who have come.
func (s *sched) take() {
	s.mu.Lock()
	come := s.come
	s.come = nil
	s.mu.Unlock()
	slices.SortStableFunc(come, func(a, b arrival) int { return cmp.Compare(a.key, b.key) })
	for _, a := range come {
		r, _ := s.next(a.key)
		a.do(r)
	}
}

// named gives the calling goroutine a name, for actor.
func (s *sched) named(name string) {
	id := goroutine()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.actors[id] = name
}

// goroutine is the number of the calling one. Go gives it away in traces only.
func goroutine() string {
	var buf [48]byte
	head := buf[:runtime.Stack(buf[:], false)]
	id, _, _ := bytes.Cut(bytes.TrimPrefix(head, []byte("goroutine ")), []byte(" "))
	return string(id)
}

// actor is a name for the calling goroutine that is the same in every run: the one that it was given, or that of the
// goroutine that made it and the function that it was made for.
func (s *sched) actor() string {
	id := goroutine()
	s.mu.Lock()
	name, ok := s.actors[id]
	s.mu.Unlock()
	if ok {
		return name
	}
	buf := make([]byte, 1<<15)
	name, parent := origin(string(buf[:runtime.Stack(buf, false)]))
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.actors[parent]; ok {
		name = p + ">" + name
	}
	s.actors[id] = name
	return name
}

// origin reads the outermost functions of a goroutine from its trace, and the number of the one that made it.
func origin(stack string) (name, parent string) {
	var calls []string
	for line := range strings.Lines(stack) {
		line = strings.TrimSpace(line)
		if made, ok := strings.CutPrefix(line, "created by "); ok {
			_, parent, _ = strings.Cut(made, " in goroutine ")
			break
		}
		if i := strings.LastIndexByte(line, '('); i > 0 && !strings.HasPrefix(line, "/") {
			calls = append(calls, line[strings.LastIndexByte(line[:i], '/')+1:i])
		}
	}
	return fmt.Sprint(calls[max(0, len(calls)-2):]), parent
}
