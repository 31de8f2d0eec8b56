// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"pgregory.net/rapid"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/plugins/cni"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// What may happen to a machine, and which answers are right then.

// deaths are the points at which a call may die; not all calls pass all of them.
var deaths = append([]string{"add:tagged", "add:vf", "add:ruled", "add:moved", "add:linked#2", "add:leased#2", "journal:temp", "journal:renamed", "journal:temp#3", "undo:pulling",
	"undo:pulled", "undo:restored", "undo:6", "undo:7", "undo:8"}, append(addPoints, undoPoints...)...)

// dies draws when a call is killed, if it is.
func dies(t *rapid.T, c *call) {
	switch rapid.IntRange(0, 5).Draw(t, "death") {
	case 0, 1:
		c.fail = rapid.SampledFrom(deaths).Draw(t, "point")
	case 2:
		c.killAfter = time.Duration(rapid.IntRange(500, 20_000).Draw(t, "µs")) * time.Microsecond
	}
}

func (m *machine) slot(t *rapid.T) *slot {
	return m.slots[rapid.IntRange(0, len(m.slots)-1).Draw(t, "slot")]
}

func (s *slot) id() string { return fmt.Sprint("c", s.pod) }

func (m *machine) call(s *slot, verb string) call {
	return call{verb: verb, id: s.id(), ifName: s.ifName, netns: m.pods[s.pod].path}
}

func (m *machine) drawAdd(t *rapid.T, s *slot) (call, shape) {
	list := m.shapes(s)
	want := list[rapid.IntRange(0, len(list)-1).Draw(t, "shape")]
	c := m.call(s, "ADD")
	c.conf = map[string]any{"name": s.network}
	for k, v := range want.conf {
		c.conf[k] = v
	}
	return c, want
}

func (m *machine) Add(t *rapid.T) {
	s := m.slot(t)
	c, want := m.drawAdd(t, s)
	dies(t, &c)
	m.added(s, want, m.run(c), false)
}

// added takes an ADD's answer into account. Crowded says that something else went on.
func (m *machine) added(s *slot, want shape, a answer, crowded bool) {
	m.owes(s, a)
	switch {
	case a.killed:
		switch s.is {
		case none:
			s.is, s.shape = torn, want
		case torn: // of the try before there may be something left
			s.shape = either(s.shape, want)
		}
		return
	case a.rc == 0 && s.is == whole:
		m.t.Fatalf("%s %s was attached twice", s.id(), s.ifName)
	case a.rc == 0:
		s.is, s.shape, s.prev = whole, want, a.stdout
		return
	}
	held := func(f func(o *slot) bool) bool {
		return slices.ContainsFunc(m.slots, func(o *slot) bool { return o != s && o.is != none && f(o) })
	}
	fair := crowded && (a.code == dispatch.CodeTryAgain || a.code == dispatch.CodeMaster)
	switch a.code {
	case dispatch.CodeAttached:
		fair = s.is != none || crowded
	case dispatch.CodeMaster:
		fair = fair || held(func(o *slot) bool {
			return slices.ContainsFunc(want.devices, func(d string) bool { return slices.Contains(o.shape.devices, d) })
		})
	case dispatch.CodeConfig:
		fair = want.setting != "" && (crowded || held(func(o *slot) bool { return o.pod == s.pod && o.shape.setting != "" && o.shape.setting != want.setting }))
	case dispatch.CodeIO, dispatch.CodeTryAgain:
		fair = fair || m.free != nil
	}
	if !fair && !(m.free != nil && a.code == 143) { // the other IPAM plugin has no undoing of what a full disk kept from being written
		m.t.Fatalf("ADD of %s as %s %s: code %d: %s\n%s", want.name, s.id(), s.ifName, a.code, a.msg, a.stderr)
	}
}

// either is what may be there where nobody knows how far each of two tries came.
func either(a, b shape) shape {
	b.devices = slices.Concat(a.devices, b.devices)
	if a.setting != "" && a.setting != b.setting {
		b.setting = "either"
	}
	return b
}

// del draws a DEL with a part of what its ADD was told.
func (m *machine) drawDel(t *rapid.T, s *slot) call {
	c := m.call(s, "DEL")
	c.conf = map[string]any{"name": s.network}
	switch rapid.IntRange(0, 3).Draw(t, "stdin") {
	case 0:
		c.stdin = fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"type":"railyard"}`, s.network)
	case 1:
		c.stdin = fmt.Sprintf(`{"cniVersion":"0.3.1","name":%q,"type":"railyard","kind":7,"ipam":{"type":"railyard-ipam"},"prevResult":[]}`, s.network)
	case 2:
		for k, v := range s.shape.conf {
			c.conf[k] = v
		}
	}
	c.netns = rapid.SampledFrom([]string{c.netns, c.netns, "", "/no/such"}).Draw(t, "netns")
	return c
}

func (m *machine) del(t *rapid.T, s *slot) answer { return m.run(m.drawDel(t, s)) }

func (m *machine) Del(t *rapid.T) {
	s := m.slot(t)
	c := m.drawDel(t, s)
	dies(t, &c)
	m.took(s, m.run(c), false)
}

// took takes a DEL's answer into account.
func (m *machine) took(s *slot, a answer, crowded bool) {
	m.owes(s, a)
	switch {
	case a.killed:
		if s.is != none {
			s.is = torn
		}
	case a.rc == 0:
		s.is = none
	case m.free != nil && a.code == dispatch.CodeIO, crowded && a.code == dispatch.CodeTryAgain:
		if s.is != none {
			s.is = torn
		}
	default:
		m.t.Fatalf("DEL of %s %s (%s): code %d: %s\n%s", s.id(), s.ifName, s.shape.name, a.code, a.msg, a.stderr)
	}
}

func (m *machine) Check(t *rapid.T) {
	s := m.slot(t)
	c := m.call(s, "CHECK")
	c.conf = map[string]any{"name": s.network}
	for k, v := range s.shape.conf {
		c.conf[k] = v
	}
	if s.is == whole {
		c.conf["prevResult"] = json.RawMessage(s.prev)
	}
	a := m.run(c)
	switch {
	case s.is == whole && a.rc != 0, s.is == none && a.rc == 0, a.rc != 0 && a.code == dispatch.CodeBug:
		t.Fatalf("CHECK of %s %s (%s, condition %d): rc %d code %d: %s", s.id(), s.ifName, s.shape.name, s.is, a.rc, a.code, a.msg)
	}
}

// Two has two calls at once, of one attachment or of two.
func (m *machine) Two(t *rapid.T) {
	type one struct {
		*slot
		call
		want shape
		answer
	}
	calls := make([]*one, 2)
	for i := range calls {
		c := &one{slot: m.slot(t)}
		if rapid.Bool().Draw(t, "add") {
			c.call, c.want = m.drawAdd(t, c.slot)
		} else {
			c.call = m.drawDel(t, c.slot)
		}
		dies(t, &c.call)
		calls[i] = c
	}
	var wg sync.WaitGroup
	for _, c := range calls {
		wg.Go(func() { c.answer = m.run(c.call) })
	}
	wg.Wait()
	same := calls[0].slot == calls[1].slot
	if same && calls[0].answer.rc == 0 && calls[1].answer.rc == 0 && calls[0].verb == "ADD" && calls[1].verb == "ADD" {
		t.Fatalf("%s %s was attached twice at once", calls[0].slot.id(), calls[0].slot.ifName)
	}
	for _, c := range calls {
		if same && c.answer.rc == 0 { // which came first, nobody knows
			c.slot.is, c.slot.shape = torn, shape{name: "either", devices: []string{"dev0", "dev1"}, setting: "either"}
			continue
		}
		if c.verb == "ADD" {
			m.added(c.slot, c.want, c.answer, true)
		} else {
			m.took(c.slot, c.answer, true)
		}
	}
}

// GC keeps some of one network's attachments.
func (m *machine) GC(t *rapid.T) {
	network := rapid.SampledFrom([]string{"rail0", "other"}).Draw(t, "network")
	valid, gone := []any{}, []*slot{}
	for _, s := range m.slots {
		switch {
		case s.network != network:
		case s.is == whole && rapid.Bool().Draw(t, "keep"):
			valid = append(valid, map[string]any{"containerID": s.id(), "ifname": s.ifName})
		default:
			gone = append(gone, s)
		}
	}
	a := m.run(call{verb: "GC"}.with(map[string]any{"name": network, "master": "rail0", "cni.dev/valid-attachments": valid}))
	for _, s := range gone {
		was := s.is
		if m.took(s, a, false); was == torn {
			s.is = torn // a journal that was being written says no network yet: its DEL takes it
		}
	}
}

// PodDies ends a pod without a device, which would die with it. Its attachments end by DEL or by the agent's look.
func (m *machine) PodDies(t *rapid.T) {
	pod := rapid.IntRange(0, len(m.pods)-1).Draw(t, "pod")
	for _, s := range m.slots {
		if s.pod == pod && s.is != none && len(s.shape.devices) > 0 {
			return
		}
	}
	m.pods[pod].kill()
	must(m.t, os.Remove(m.pods[pod].path))
	if rapid.Bool().Draw(t, "look") {
		m.Look(t)
	}
	m.room()
	for _, s := range m.slots {
		if s.pod == pod {
			m.took(s, m.del(t, s), false)
		}
	}
	m.pods[pod] = m.newPod()
}

// Look is the agent's, twice: what lives is not touched, as the next CHECK says.
func (m *machine) Look(*rapid.T) {
	r := m.reconcilerWith(cni.Evidence{Gone: ipam.NetNS.Gone, Grace: time.Minute}, leaser)
	for _, now := range []time.Duration{0, time.Hour} {
		if _, err := m.look(r, now); err != nil && m.free == nil {
			m.t.Fatal(err)
		}
	}
}

// FullDisk fills the disk of the state folder, or makes room again.
func (m *machine) FullDisk(t *rapid.T) {
	if m.free != nil || rapid.IntRange(0, 2).Draw(t, "full") > 0 {
		m.room()
		return
	}
	m.free = m.fillDisk()
}

// room ends a full disk. Leases that could not be released on it end with the namespace, by the agent; here they end now.
func (m *machine) room() {
	if m.free == nil {
		return
	}
	m.free()
	m.free = nil
	m.withStore(func(s *store.Store) {
		for _, key := range m.owed {
			must(m.t, s.Release(m.t.Context(), key))
		}
	})
	m.owed = nil
}

// owes notes what an answer says that it leaves to the agent.
func (m *machine) owes(s *slot, a answer) {
	if !strings.Contains(a.stderr, "could not be released") {
		return
	}
	if m.free == nil {
		m.t.Fatalf("a lease of %s %s was not released: %s", s.id(), s.ifName, a.stderr)
	}
	for _, rail := range []string{"", "-2"} {
		m.owed = append(m.owed, ipam.Key{Network: s.network, ContainerID: s.id(), IfName: s.ifName + rail})
	}
}
