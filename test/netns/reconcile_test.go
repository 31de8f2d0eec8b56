// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/client"
	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni"
	"github.com/railyard-net/railyard/plugins/cni/journal"
)

// reconciler is the agent's on the lab's host, with a clock that the test turns.
func (l *lab) reconciler(gone func(ipam.NetNS) bool) (look func(now time.Duration) (count, undone int)) {
	l.t.Helper()
	r := l.reconcilerWith(cni.Evidence{Gone: gone, Grace: time.Minute}, leaser)
	return func(now time.Duration) (count, undone int) {
		l.t.Helper()
		report, err := l.look(r, now)
		must(l.t, err)
		return report.Attachments, report.Gone
	}
}

func (l *lab) reconcilerWith(e cni.Evidence, leaser func(conf.Paths) ipam.Leaser) *cni.Reconciler {
	l.t.Helper()
	r, err := cni.NewReconciler(cni.Options{Log: slog.New(slog.DiscardHandler), Sys: os.DirFS(l.sys), StateDir: l.dir, Leaser: leaser}, l.dir, e)
	must(l.t, err)
	return r
}

func leaser(p conf.Paths) ipam.Leaser { return client.New(p.AgentSocket, p.Store()) }

func (l *lab) look(r *cni.Reconciler, now time.Duration) (report cni.Report, err error) {
	done := l.host.do(func() error {
		report, err = r.Look(l.t.Context(), now)
		return nil
	})
	must(l.t, done)
	return report, err
}

// TestReconciler: what a dead pod left is undone after two looks with the grace time between; what lives, or may live, is
// never touched.
func TestReconciler(t *testing.T) {
	l, pod, living := newLab(t), newSpace(t), newSpace(t)
	l.fakePCI("0000:3b:00.1", "rail0")
	keep := call{id: "living", ifName: "net1", netns: living.path}
	l.add(keep)
	half := call{verb: "ADD", id: "half", ifName: "net1", netns: living.path}
	half.ifName = "net7"
	l.mustDie(half, "add:linked")
	before := l.traces(living)

	c := call{id: "c1", ifName: "net1", netns: pod.path}.with(l.everything())
	l.add(c)
	dying := call{verb: "ADD", id: "c2", ifName: "net1", netns: newSpaceNamed(t, l, "second").path}
	l.mustDie(dying, "add:leased")
	look := l.reconciler(ipam.NetNS.Gone)
	if n, undone := look(0); n != 4 || undone != 0 {
		t.Fatalf("%d attachments, %d undone while all live", n, undone)
	}
	pod.kill()
	must(t, os.Remove(filepath.Join(l.bin, "second")))
	for _, step := range []struct {
		now        time.Duration
		wantUndone int
	}{{time.Hour, 0}, {time.Hour + 59*time.Second, 0}, {time.Hour + time.Minute, 2}, {2 * time.Hour, 0}} {
		if _, undone := look(step.now); undone != step.wantUndone {
			t.Errorf("at %s: %d undone, want %d", step.now, undone, step.wantUndone)
		}
	}
	if diff := cmp.Diff(before, l.traces(living)); diff != "" {
		t.Errorf("left behind, or taken from the living (-before +after):\n%s", diff)
	}
	keep.verb = "CHECK"
	l.mustRun(keep)
}

// newSpaceNamed gives a namespace a path that a test can take away while the namespace lives.
func newSpaceNamed(t *testing.T, l *lab, name string) *space {
	t.Helper()
	s := newSpace(t)
	path := filepath.Join(l.bin, name)
	must(t, os.Symlink(s.path, path))
	s.path = path
	return s
}

// TestReconciler_Doubt: without knowledge, with somebody at work on it, or made anew since, an attachment is alive.
func TestReconciler_Doubt(t *testing.T) {
	l, pod := newLab(t), newSpace(t)
	c := call{verb: "ADD", id: "c1", ifName: "net1", netns: pod.path}
	l.mustRun(c)
	gone := true
	look := l.reconciler(func(ipam.NetNS) bool { return gone })
	look(0)
	gone = false // seen again: the time begins anew
	look(time.Hour)
	gone = true
	if _, undone := look(2 * time.Hour); undone != 0 {
		t.Error("undone at the first look after it was seen alive")
	}
	dir, err := journal.Open(l.dir, nil)
	must(t, err)
	lock, err := dir.Lock(t.Context(), journal.ID{ContainerID: "c1", IfName: "net1"})
	must(t, err)
	if _, undone := look(3 * time.Hour); undone != 0 {
		t.Error("undone while somebody works on it")
	}
	lock.Unlock()
	// The same container and interface in another namespace by now.
	c.verb = "DEL"
	l.mustRun(c)
	c.verb, c.netns = "ADD", newSpace(t).path
	l.mustRun(c)
	if _, undone := look(4 * time.Hour); undone != 0 {
		t.Error("a new attachment was taken for the dead one")
	}
	if _, undone := look(5 * time.Hour); undone != 1 {
		t.Error("not undone after all")
	}
}

// TestReconciler_Device: a device that the kernel returned from a dead namespace, under the pod's name and down, is what it
// was again.
func TestReconciler_Device(t *testing.T) {
	l, pod := newLab(t), newSpace(t)
	l.addDevice()
	before, addresses := l.traces(), l.host.addresses()
	l.add(call{id: "c1", ifName: "net1", netns: pod.path}.with(map[string]any{"mtu": 1800, "mac": "02:00:00:00:00:99"}))
	// A namespace that ends destroys links like these, so the test does what the kernel does with a NIC's.
	link := pod.get("net1")
	must(t, pod.link.LinkSetDown(link))
	must(t, pod.link.LinkSetNsFd(link, int(l.host.ns.Fd())))
	pod.kill()
	if returned := l.host.get("net1").Attrs(); returned.MTU != 1800 {
		t.Fatal(returned)
	}
	look := l.reconciler(ipam.NetNS.Gone)
	look(0)
	if _, undone := look(time.Hour); undone != 1 {
		t.Error("not undone")
	}
	if diff := cmp.Diff(before, l.traces()); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(addresses, l.host.addresses()); diff != "" {
		t.Errorf("the host's addresses (-before +after):\n%s", diff)
	}
}
