// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/plugins/dispatch"
)

// TestConformance_H: many at once, on the store alone and through the socket.
func TestConformance_H(t *testing.T) {
	const many = 64
	for _, path := range []string{"direct", "socket"} {
		t.Run("64_on_one_master_"+path, func(t *testing.T) {
			l := newLab(t)
			before := l.snapshot()
			stop := func() {}
			if path == "socket" {
				stop = l.serve()
			}
			var mu sync.Mutex
			addresses := map[string]string{}
			var wg sync.WaitGroup
			pods := make([]*space, many)
			for i := range pods {
				pods[i] = newSpace(t)
			}
			for i, pod := range pods {
				wg.Go(func() {
					c := call{verb: "ADD", id: fmt.Sprintf("c%d", i), ifName: "net1", netns: pod.path}
					for round := range 2 {
						c.verb = "ADD"
						a := l.run(c)
						if a.rc != 0 {
							t.Errorf("ADD %d: %s%s", i, a.stdout, a.stderr)
							return
						}
						r, err := dispatch.DecodeResult([]byte(a.stdout), "1.1.0")
						if err != nil {
							t.Error(err)
							return
						}
						if round == 1 {
							mu.Lock()
							for _, ip := range r.IPs {
								if other := addresses[ip.Address.String()]; other != "" {
									t.Errorf("%v is given to c%d and %s", ip.Address, i, other)
								}
								addresses[ip.Address.String()] = c.id
							}
							mu.Unlock()
							continue
						}
						c.verb = "DEL"
						if a := l.run(c); a.rc != 0 {
							t.Errorf("DEL %d: %s%s", i, a.stdout, a.stderr)
						}
					}
				})
			}
			wg.Wait()
			if len(addresses) != 2*many {
				t.Errorf("%d addresses for %d pods", len(addresses), many)
			}
			for i, pod := range pods {
				wg.Go(func() {
					if a := l.run(call{verb: "DEL", id: fmt.Sprintf("c%d", i), ifName: "net1", netns: pod.path}); a.rc != 0 {
						t.Errorf("DEL %d: %s%s", i, a.stdout, a.stderr)
					}
				})
			}
			wg.Wait()
			stop()
			after := l.snapshot()
			if diff := cmp.Diff(before.Host, after.Host); diff != "" || len(after.Leases) != 1 || len(after.Files) != 0 {
				t.Errorf("left behind: %s %v %v", diff, after.Leases, after.Files)
			}
		})
	}
	t.Run("one_attachment_one_winner", func(t *testing.T) {
		l, pod := newLab(t), newSpace(t)
		answers := make([]answer, 8)
		var wg sync.WaitGroup
		for i := range answers {
			wg.Go(func() { answers[i] = l.run(call{verb: "ADD", id: "c1", ifName: "net1", netns: pod.path}) })
		}
		wg.Wait()
		won := 0
		for _, a := range answers {
			switch {
			case a.rc == 0:
				won++
			case a.code != dispatch.CodeAttached:
				t.Errorf("code %d: %s", a.code, a.msg)
			}
		}
		if won != 1 || len(l.leases()) != 1 {
			t.Errorf("%d won, leases %v", won, l.leases())
		}
		l.mustRun(call{verb: "CHECK", id: "c1", ifName: "net1", netns: pod.path})
		l.mustRun(call{verb: "DEL", id: "c1", ifName: "net1", netns: pod.path})
	})
	t.Run("add_and_del_of_one_attachment", func(t *testing.T) {
		l, pod := newLab(t), newSpace(t)
		before := l.traces(pod)
		var wg sync.WaitGroup
		for i := range 12 {
			verb := []string{"ADD", "DEL"}[i%2]
			wg.Go(func() {
				if a := l.run(call{verb: verb, id: "c1", ifName: "net1", netns: pod.path}); a.rc != 0 && (verb == "DEL" || a.code != dispatch.CodeAttached) {
					t.Errorf("%s: %s", verb, a.stdout)
				}
			})
		}
		wg.Wait()
		l.mustRun(call{verb: "DEL", id: "c1", ifName: "net1", netns: pod.path})
		if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
			t.Error(diff)
		}
	})
}
