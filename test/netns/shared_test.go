// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/plugins/dispatch"
)

// TestSharedSysctl: two attachments of a pod that want one lasting setting keep it until the last of them goes, in whatever order, also
// at once; and then it is what it was before the first.
func TestSharedSysctl(t *testing.T) {
	const path = "net/ipv4/conf/all/arp_ignore"
	setting := map[string]any{"sysctl": map[string]any{"net.ipv4.conf.all.arp_ignore": "2"}}
	for name, order := range map[string][]int{"first_goes_first": {0, 1}, "last_goes_first": {1, 0}, "at_once": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, pod := newLab(t), newSpace(t)
			pod.setSysctl(path, "1")
			before := l.traces(pod)
			var calls []call
			for _, ifName := range []string{"net1", "net2"} {
				c := call{id: "c1", ifName: ifName, netns: pod.path}.with(setting)
				l.add(c)
				calls = append(calls, c)
			}
			check := func(c call) { c.verb = "CHECK"; l.mustRun(c) }
			check(calls[0])
			check(calls[1])
			other := call{verb: "ADD", id: "c1", ifName: "net3", netns: pod.path}
			l.mustFail(dispatch.CodeConfig, "another attachment of the pod", other.with(map[string]any{"sysctl": map[string]any{"net.ipv4.conf.all.arp_ignore": "1"}}))
			if order == nil {
				var wg sync.WaitGroup
				for _, c := range calls {
					c.verb = "DEL"
					wg.Go(func() { l.mustRun(c) })
				}
				wg.Wait()
			}
			for i, at := range order {
				c := calls[at]
				c.verb = "DEL"
				l.mustRun(c)
				l.mustRun(c)
				if got := pod.sysctl(path); i == 0 && got != "2" {
					t.Errorf("the other lives, and the setting is %s", got)
				}
				if i == 0 {
					check(calls[order[1]])
				}
			}
			if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
				t.Errorf("left behind (-before +after):\n%s", diff)
			}
		})
	}
}

// TestSharedSysctl_Killed: also where one of the two dies on the way.
func TestSharedSysctl_Killed(t *testing.T) {
	l, pod := newLab(t), newSpace(t)
	setting := map[string]any{"sysctl": map[string]any{"net.ipv4.conf.all.arp_ignore": "2"}}
	before := l.traces(pod)
	for _, point := range []string{"undo:2", "journal:temp", "journal:renamed", "undo:1", "undo:done"} {
		first := call{id: "c1", ifName: "net1", netns: pod.path}.with(setting)
		second := call{id: "c1", ifName: "net2", netns: pod.path}.with(setting)
		l.add(first)
		l.add(second)
		first.verb, second.verb = "DEL", "DEL"
		l.mustDie(first, point)
		if got := pod.sysctl("net/ipv4/conf/all/arp_ignore"); got != "2" {
			t.Errorf("%s: the other lives, and the setting is %s", point, got)
		}
		l.mustRun(second)
		l.mustRun(first)
		if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
			t.Errorf("%s: left behind (-before +after):\n%s", point, diff)
		}
	}
}
