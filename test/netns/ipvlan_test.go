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

// TestIPvlanModesAtOnce: of attachments in different modes that come to one master at once, none changes another's.
func TestIPvlanModesAtOnce(t *testing.T) {
	l := newLab(t)
	l.conf["kind"] = "ipvlan"
	var calls []call
	for i, mode := range []string{"l2", "l3", "l2", "l3s"} {
		calls = append(calls, call{id: fmt.Sprint("c", i), ifName: "net1", netns: newSpace(t).path}.with(map[string]any{"mode": mode}))
	}
	try := calls[0]
	if try.verb = "ADD"; l.run(try).code == dispatch.CodeLink {
		t.Skip("this kernel has no ipvlan: the virtual machines run it")
	}
	for range 5 {
		answers := make([]answer, len(calls))
		for _, verb := range []string{"DEL", "ADD"} {
			var wg sync.WaitGroup
			for i, c := range calls {
				c.verb = verb
				wg.Go(func() { answers[i] = l.run(c) })
			}
			wg.Wait()
		}
		for i, c := range calls {
			switch c.verb = "CHECK"; {
			case answers[i].rc == 0:
				l.mustRun(c)
			case answers[i].code != dispatch.CodeConfig:
				t.Errorf("code %d: %s", answers[i].code, answers[i].msg)
			}
		}
	}
}

// TestIPvlanUnknown: a kernel without ipvlan is told so; where it has them the tests of the VM tier do the rest.
func TestIPvlanUnknown(t *testing.T) {
	l, pod := newLab(t), newSpace(t)
	c := call{verb: "ADD", id: "c1", ifName: "net1", netns: pod.path}.with(map[string]any{"kind": "ipvlan"})
	before := l.traces(pod)
	switch a := l.run(c); {
	case a.rc == 0:
		c.verb = "DEL"
		l.mustRun(c)
	case a.code != dispatch.CodeLink:
		t.Errorf("code %d %s", a.code, a.msg)
	}
	if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}
