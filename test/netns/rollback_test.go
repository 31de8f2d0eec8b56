// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// TestConformance_C: a failed ADD leaves nothing, even without a DEL.
func TestConformance_C(t *testing.T) {
	cases := map[string]struct {
		prepare   func(*lab)
		conf      map[string]any
		wantCode  uint
		wantWords string
	}{
		"ipam_missing":           {nil, map[string]any{"ipam": map[string]any{"type": "nosuch"}}, dispatch.CodeDelegate, "nosuch"},
		"ipam_error":             {func(l *lab) { l.useOther(); l.touch("fail-ADD", "") }, nil, 142, "made to fail"},
		"ipam_gives_nothing":     {func(l *lab) { l.useOther(); l.touch("empty", "") }, nil, dispatch.CodeDelegate, "no address"},
		"ipam_gives_garbage":     {func(l *lab) { l.useOther(); l.touch("garbage", "") }, nil, dispatch.CodeDelegate, "cannot be read"},
		"ipam_dies":              {func(l *lab) { l.script("dies", "echo oops >&2; exit 3") }, map[string]any{"ipam": map[string]any{"type": "dies"}}, dispatch.CodeDelegate, "oops"},
		"gateway_unreachable":    {func(l *lab) { l.useOther(); l.touch("gw", "172.31.0.1") }, nil, dispatch.CodeRoute, "172.31.0.1"},
		"pool_full":              {func(l *lab) { l.fill("full") }, pool("full"), 11, "full"},
		"pool_unknown":           {nil, pool("nope"), 7, "nope"},
		"store_lost":             {func(l *lab) { must(l.t, os.Remove(filepath.Join(l.dir, "ipam.db"))) }, nil, 11, "store"},
		"sysctl_value_refused":   {nil, map[string]any{"sysctl": map[string]any{"net.ipv4.conf.all.rp_filter": "2", "net.ipv4.conf.IFNAME.rp_filter": "many"}}, dispatch.CodeSysctl, "many"},
		"device_info_unwritable": {func(l *lab) { l.fakePCI("0000:3b:00.0", "rail0") }, map[string]any{"runtimeConfig": map[string]any{"CNIDeviceInfoFile": "/proc/no/file"}}, 5, "/proc/no"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, pod := newLab(t), newSpace(t)
			if c.prepare != nil {
				c.prepare(l)
			}
			before := l.traces(pod)
			l.mustFail(c.wantCode, c.wantWords, call{verb: "ADD", id: "c1", ifName: "net1", netns: pod.path}.with(c.conf))
			if name == "ipam_missing" || name == "ipam_dies" { // the DEL of what cannot be executed fails too
				l.run(call{verb: "DEL", id: "c1", ifName: "net1", netns: pod.path}.with(c.conf))
			}
			got := l.traces(pod)
			if name == "ipam_dies" {
				got.Files = nil
			}
			if diff := cmp.Diff(before, got); diff != "" {
				t.Errorf("left behind (-before +after):\n%s", diff)
			}
		})
	}
}

func pool(name string) map[string]any {
	return map[string]any{"ipam": map[string]any{"type": "railyard-ipam", "pool": name}}
}

// fill makes a pool of which the node holds no address.
func (l *lab) fill(name string) {
	l.withStore(func(s *store.Store) {
		grant(l.t, s, name, "10.20.7.0/24", "")
		for _, h := range holdings(l.t, s) {
			if h.Pool == name {
				h.Ranges = nil
				must(l.t, s.Grant(h))
			}
		}
	})
}

func holdings(t testing.TB, s *store.Store) []store.Holding {
	t.Helper()
	h, err := s.Holdings()
	must(t, err)
	return h
}

// traces is snapshot with the other IPAM plugin's leases, for a store that may be lost.
func (l *lab) traces(pods ...*space) snapshot {
	l.t.Helper()
	out := l.snapshot(pods...)
	out.Leases = append(out.Leases[:len(out.Leases)-1], l.otherLeases()...)
	return out
}

// everything asks for every kind of step.
func (l *lab) everything() map[string]any {
	return map[string]any{
		"sysctl":        map[string]any{"net.ipv4.conf.all.arp_ignore": "1", "net.core.somaxconn": "777", "net.ipv4.conf.IFNAME.rp_filter": "2"},
		"runtimeConfig": map[string]any{"deviceID": "0000:3b:00.1", "CNIDeviceInfoFile": filepath.Join(l.dir, "devinfo", "x.json")},
	}
}

// points are the instants at which an ADD may die; undoing has those of undoPoints.
var (
	addPoints = []string{
		"add:planned", "journal:temp#1", "journal:renamed#1", "add:journaled", "add:linked", "add:leased", "add:set",
		"add:addressed", "add:up", "add:routed", "add:informed", "journal:temp#2", "journal:renamed#2", "add:done",
	}
	undoPoints = []string{"del:locked", "undo:5", "undo:4", "undo:3", "undo:2", "undo:1", "undo:0", "undo:done", "undo:removed"}
)

// TestConformance_C_Killed: SIGKILL at every step of ADD and of DEL. The next DEL, or the next ADD and its DEL, with
// a stripped config, leave exactly what was there before.
func TestConformance_C_Killed(t *testing.T) {
	for _, ipam := range []string{"own", "other"} {
		t.Run(ipam, func(t *testing.T) {
			t.Parallel()
			l, pod := newLab(t), newSpace(t)
			l.fakePCI("0000:3b:00.1", "rail0")
			stripped := `{"cniVersion":"1.1.0","name":"rail0","type":"railyard","ipam":{"type":"railyard-ipam"}}`
			if ipam == "other" {
				l.useOther()
				stripped = `{"cniVersion":"1.1.0","name":"rail0","type":"railyard","ipam":{"type":"other"}}`
			}
			l.everyDeath(pod, call{id: "c1", ifName: "net1", netns: pod.path}.with(l.everything()), stripped, addPoints, undoPoints)
		})
	}
}

// everyDeath kills the attachment's ADD at each of addPoints and its DEL at each of undoPoints. What there was before is
// there again after the next DEL, with the namespace or without, and after the next ADD and its DEL.
func (l *lab) everyDeath(pod *space, c call, stripped string, addPoints, undoPoints []string) {
	l.t.Helper()
	before := l.traces(pod)
	add, del := c, c
	add.verb, del.verb = "ADD", "DEL"
	del.stdin, del.conf = stripped, nil
	same := func(what string) {
		l.t.Helper()
		if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
			l.t.Fatalf("%s (-before +after):\n%s", what, diff)
		}
	}
	for _, point := range addPoints {
		l.mustDie(add, point)
		l.mustRun(del)
		same("ADD died at " + point + ", then DEL")
		l.mustDie(add, point)
		if point != "add:done" && !strings.HasPrefix(point, "journal:renamed#") || point == "journal:renamed#1" { // by then it is complete
			l.mustRun(add)
		}
		l.mustRun(del)
		same("ADD died at " + point + ", then ADD and DEL")
	}
	for _, point := range undoPoints {
		l.mustRun(add)
		l.mustDie(del, point)
		l.mustRun(del)
		same("DEL died at " + point + ", then DEL")
		l.mustRun(add)
		l.mustDie(del, point)
		if point == "undo:removed" {
			l.mustRun(add)
		}
		noNS := del
		noNS.netns = ""
		l.mustRun(noNS)
		same("DEL died at " + point + ", then DEL without a namespace")
	}
}

// TestConformance_C_KilledWithIPAM: another IPAM plugin does not go on alone when the ADD that called it is killed.
func TestConformance_C_KilledWithIPAM(t *testing.T) {
	l, pod := newLab(t), newSpace(t)
	l.script("slow", `lease="$STATE/lease-$CNI_CONTAINERID-$CNI_IFNAME"
[ $CNI_COMMAND = ADD ] || { rm -f "$lease"; exit 0; }
kill -KILL $PPID
sleep 0.3
touch "$lease"`)
	before := l.traces(pod)
	c := call{verb: "ADD", id: "c1", ifName: "net1", netns: pod.path}.with(map[string]any{"ipam": map[string]any{"type": "slow"}})
	if a := l.run(c); !a.killed {
		t.Fatalf("rc %d: %s", a.rc, a.stdout)
	}
	c.verb = "DEL"
	l.mustRun(c)
	<-time.After(time.Second) // what must not happen has no event to wait for
	if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}

// mustDie runs a call that kills itself at point.
func (l *lab) mustDie(c call, point string) {
	l.t.Helper()
	c.fail = point
	if a := l.run(c); !a.killed {
		l.t.Fatalf("%s did not die at %s: rc %d %s%s", c.verb, point, a.rc, a.stdout, a.stderr)
	}
}

// TestConformance_C_OldJournal: a journal is undone by a program of the version before: fields that it does not know
// mean nothing to it, and a step that it does not know keeps the file.
func TestConformance_C_OldJournal(t *testing.T) {
	l, pod := newLab(t), newSpace(t)
	c := call{verb: "ADD", id: "c1", ifName: "net1", netns: pod.path}
	before := l.snapshot(pod)
	l.add(c)
	file := filepath.Join(l.dir, "attachments", l.files()[0])
	change := func(f func(map[string]any)) {
		b, err := os.ReadFile(file)
		must(t, err)
		var j map[string]any
		must(t, json.Unmarshal(b, &j))
		f(j)
		b, err = json.Marshal(j)
		must(t, err)
		must(t, os.WriteFile(file, b, 0o600))
	}
	c.verb = "DEL"
	change(func(j map[string]any) {
		j["colour"] = "blue"
		j["steps"] = append(j["steps"].([]any), map[string]any{"teleport": map[string]any{"to": "mars"}})
	})
	l.mustFail(dispatch.CodeJournal, "newer", c)
	if pod.has("net1") || len(l.leases()) != 0 || len(l.files()) != 1 {
		t.Error("what is known is to be undone, and the journal kept")
	}
	change(func(j map[string]any) { j["version"] = 99 })
	l.mustFail(dispatch.CodeJournal, "99", c)
	change(func(j map[string]any) { j["version"] = 1; j["steps"] = j["steps"].([]any)[:1] })
	l.mustRun(c)
	if diff := cmp.Diff(before, l.snapshot(pod)); diff != "" {
		t.Error(diff)
	}
	// A damaged one does not keep the pod from being deleted.
	for i, text := range []string{"", "{", "null", `{"version":1}`} {
		c.verb, c.id = "ADD", fmt.Sprintf("d%d", i)
		l.add(c)
		file := filepath.Join(l.dir, "attachments", c.id+"@net1.json")
		must(t, os.WriteFile(file, []byte(text), 0o600))
		c.verb = "DEL"
		l.mustRun(c)
		must(t, os.Remove(file+".bad"))
		if diff := cmp.Diff(before, l.snapshot(pod)); diff != "" {
			t.Error(diff)
		}
	}
}
