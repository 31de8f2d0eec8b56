// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/kubelet"
	"github.com/railyard-net/railyard/test/podresources"
)

const (
	abandonedGrace = 10 * time.Minute
	// podArgs are what a runtime of Kubernetes says of the pod.
	podArgs = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=dead;K8S_POD_UID=0123"
)

// deserted is a lab with attachments c1 (a macvlan with all that there is) and c2 (a device) in a namespace that nobody is in, and a
// kubelet that runs another pod only.
type deserted struct {
	*lab
	pod     *space
	kubelet *podresources.Kubelet
	socket  string
	before  snapshot
	r       *cni.Reconciler
}

func newDeserted(t *testing.T, podArgs string) *deserted {
	l := newLab(t)
	d := &deserted{lab: l, pod: newSpace(t), kubelet: podresources.New(), socket: filepath.Join(l.bin, "kubelet.sock")}
	l.addMaster("dev0", "devport0", 4000)
	d.before = l.traces(d.pod)
	l.add(call{id: "c1", ifName: "net1", netns: d.pod.path, args: podArgs}.with(l.everything()))
	l.add(call{id: "c2", ifName: "net2", netns: d.pod.path, args: podArgs}.with(map[string]any{"kind": "host-device", "master": nil, "device": "dev0"}))
	must(t, d.kubelet.Run("ns", "other", nil))
	d.start()
	t.Cleanup(d.kubelet.Stop)
	d.r = l.reconcilerWith(d.evidence(), leaser)
	return d
}

func (d *deserted) start() {
	d.t.Helper()
	must(d.t, d.kubelet.Start(d.socket))
}

func (d *deserted) evidence() cni.Evidence {
	return cni.Evidence{
		Gone: ipam.NetNS.Gone, Grace: time.Minute, AbandonedGrace: abandonedGrace,
		Kubelet: func(ctx context.Context) (cni.Running, error) { return kubelet.Running(ctx, d.socket) },
	}
}

// at looks at that time and gives how many were undone.
func (d *deserted) at(now time.Duration) int {
	d.t.Helper()
	report, err := d.look(d.r, now)
	must(d.t, err)
	return report.Abandoned
}

// TestReconciler_Abandoned: a namespace that a wiped runtime left mounted is left alone, and what it took from the node is given back.
func TestReconciler_Abandoned(t *testing.T) {
	d := newDeserted(t, podArgs)
	for _, step := range []struct {
		now        time.Duration
		wantUndone int
	}{{0, 0}, {abandonedGrace - time.Second, 0}, {abandonedGrace, 2}, {time.Hour, 0}} {
		if undone := d.at(step.now); undone != step.wantUndone {
			t.Errorf("at %s: %d undone, want %d", step.now, undone, step.wantUndone)
		}
	}
	if diff := cmp.Diff(d.before, d.traces(d.pod)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
	asked := d.kubelet.Lists()
	if d.at(2 * time.Hour); d.kubelet.Lists() != asked {
		t.Error("the kubelet is asked with nothing to ask for")
	}
	// A DEL that comes after all finds nothing to do.
	d.mustRun(call{verb: "DEL", id: "c1", ifName: "net1", netns: d.pod.path, args: podArgs})
}

// TestReconciler_AbandonedDoubt: each of these makes the attachments alive as long as it holds, and once it does not, the time begins
// anew.
func TestReconciler_AbandonedDoubt(t *testing.T) {
	for name, c := range map[string]struct {
		begin, end func(d *deserted)
		wantDoubt  bool
	}{
		"the kubelet has the pod": {
			begin: func(d *deserted) { must(d.t, d.kubelet.Run("ns", "dead", nil)) },
			end:   func(d *deserted) { d.kubelet.End("ns", "dead") },
		},
		"the kubelet is away": {
			begin:     func(d *deserted) { d.kubelet.Stop() },
			end:       (*deserted).start,
			wantDoubt: true,
		},
		"the kubelet fails": {
			begin:     func(d *deserted) { d.kubelet.Fail(status.Error(codes.Internal, "not today")) },
			end:       func(d *deserted) { d.kubelet.Fail(nil) },
			wantDoubt: true,
		},
		"the kubelet has just started": {
			begin:     func(d *deserted) { d.kubelet.End("ns", "other") },
			end:       func(d *deserted) { must(d.t, d.kubelet.Run("ns", "other", nil)) },
			wantDoubt: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDeserted(t, podArgs)
			d.at(0)
			c.begin(d)
			for _, now := range []time.Duration{abandonedGrace, 2 * time.Hour, 3 * time.Hour} {
				report, err := d.look(d.r, now)
				must(t, err)
				if report.Abandoned != 0 || report.Empty != 2 || (report.Doubt != nil) != c.wantDoubt {
					t.Errorf("at %s: %+v, want none undone, 2 empty, doubt %v", now, report, c.wantDoubt)
				}
			}
			c.end(d)
			if undone := d.at(4 * time.Hour); undone != 0 {
				t.Errorf("%d undone at the first look after it was alive", undone)
			}
			if undone := d.at(4*time.Hour + abandonedGrace); undone != 2 {
				t.Errorf("%d undone after all, want 2", undone)
			}
		})
	}
}

// TestReconciler_AbandonedDevice: the kubelet knows nothing of the pod, but has given the device to one: that one is alive, the other
// attachment is not.
func TestReconciler_AbandonedDevice(t *testing.T) {
	d := newDeserted(t, podArgs)
	must(t, d.kubelet.Run("ns", "who", map[string][]string{"example.com/nic": {"dev0"}}))
	d.at(0)
	if undone := d.at(abandonedGrace); undone != 1 || !d.pod.has("net2") {
		t.Errorf("%d undone, want c1 alone", undone)
	}
}

// TestReconciler_AbandonedUnknownPod: without a pod's name from the runtime, the kubelet cannot vouch for anybody.
func TestReconciler_AbandonedUnknownPod(t *testing.T) {
	d := newDeserted(t, "")
	d.at(0)
	if undone := d.at(time.Hour); undone != 0 || d.kubelet.Lists() != 0 {
		t.Errorf("%d undone, the kubelet asked %d times", undone, d.kubelet.Lists())
	}
}

// TestReconciler_AbandonedNobodyToAsk: without a kubelet, a namespace that exists is alive.
func TestReconciler_AbandonedNobodyToAsk(t *testing.T) {
	d := newDeserted(t, podArgs)
	e := d.evidence()
	e.Kubelet = nil
	d.r = d.reconcilerWith(e, leaser)
	d.at(0)
	if undone := d.at(time.Hour); undone != 0 {
		t.Errorf("%d undone", undone)
	}
}

// TestReconciler_AbandonedProcess: a process in the namespace is a sign of life, also one of which only a thread is there.
func TestReconciler_AbandonedProcess(t *testing.T) {
	for _, mode := range []string{"process", "thread"} {
		t.Run(mode, func(t *testing.T) {
			d := newDeserted(t, podArgs)
			d.at(0)
			end := d.inhabit(mode)
			if undone := d.at(abandonedGrace); undone != 0 {
				t.Errorf("%d undone around a process", undone)
			}
			end()
			d.at(time.Hour)
			if undone := d.at(time.Hour + abandonedGrace); undone != 2 {
				t.Errorf("%d undone after the process ended, want 2", undone)
			}
		})
	}
}

const inhabitEnv = "RAILYARD_NETNS_INHABIT"

// inhabit puts a process into the pod's namespace, or one of its threads; the returned function ends it.
func (d *deserted) inhabit(mode string) (end func()) {
	d.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestInhabitant$")
	cmd.Env = append(os.Environ(), inhabitEnv+"="+mode+" "+d.pod.path)
	in, err := cmd.StdinPipe()
	must(d.t, err)
	out, err := cmd.StdoutPipe()
	must(d.t, err)
	start := cmd.Start
	if mode == "process" {
		start = func() error { return d.pod.do(cmd.Start) }
	}
	must(d.t, start())
	end = func() { _ = in.Close(); _ = cmd.Wait() }
	d.t.Cleanup(func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "there\n" {
		end()
		d.t.Fatalf("the process in the namespace said %q (%v)", line, err)
	}
	return end
}

// TestInhabitant is the process of inhabit; by itself it does nothing.
func TestInhabitant(t *testing.T) {
	var mode, path string
	if _, err := fmt.Sscan(os.Getenv(inhabitEnv), &mode, &path); err != nil {
		return
	}
	entered := make(chan error)
	go func() {
		runtime.LockOSThread()
		if mode == "process" {
			entered <- nil
			select {}
		}
		ns, err := os.Open(path)
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		entered <- err
		select {}
	}()
	if err := <-entered; err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(os.Stdout, "there")
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the other end is closed
}

// TestReconciler_AbandonedRaces: what changes between the look and the deed keeps the attachment.
func TestReconciler_AbandonedRaces(t *testing.T) {
	t.Run("the kubelet takes the pod in", func(t *testing.T) {
		d := newDeserted(t, podArgs)
		e, asked := d.evidence(), 0
		ask := e.Kubelet
		e.Kubelet = func(ctx context.Context) (cni.Running, error) {
			if asked++; asked == 3 { // the first look, the second, and then under the lock of c1
				must(t, d.kubelet.Run("ns", "dead", nil))
			}
			return ask(ctx)
		}
		d.r = d.reconcilerWith(e, leaser)
		d.at(0)
		if undone := d.at(abandonedGrace); undone != 0 || asked < 3 {
			t.Errorf("%d undone, the kubelet was asked %d times", undone, asked)
		}
	})
	t.Run("somebody works on it", func(t *testing.T) {
		d := newDeserted(t, podArgs)
		dir, err := journal.Open(d.dir, nil)
		must(t, err)
		lock, err := dir.Lock(t.Context(), journal.ID{ContainerID: "c1", IfName: "net1"})
		must(t, err)
		d.at(0)
		if undone := d.at(abandonedGrace); undone != 1 {
			t.Errorf("%d undone, want c2 alone", undone)
		}
		lock.Unlock()
		if undone := d.at(abandonedGrace + time.Second); undone != 1 {
			t.Errorf("%d undone, want c1", undone)
		}
	})
	t.Run("the namespace goes after all", func(t *testing.T) {
		d := newDeserted(t, podArgs)
		d.at(0)
		d.pod.kill()
		for _, step := range []struct {
			now      time.Duration
			wantGone int
		}{{5 * time.Minute, 0}, {6 * time.Minute, 2}} {
			report, err := d.look(d.r, step.now)
			must(t, err)
			if report.Gone != step.wantGone || report.Abandoned != 0 {
				t.Errorf("at %s: %+v, want %d gone", step.now, report, step.wantGone)
			}
		}
	})
	t.Run("made anew elsewhere", func(t *testing.T) {
		d := newDeserted(t, podArgs)
		d.at(0)
		d.mustRun(call{verb: "DEL", id: "c1", ifName: "net1", netns: d.pod.path})
		d.add(call{id: "c1", ifName: "net1", netns: newSpace(t).path, args: podArgs})
		if undone := d.at(abandonedGrace); undone != 1 {
			t.Errorf("%d undone, want c2 alone", undone)
		}
	})
}

// deaf is address management that releases nothing.
type deaf struct{ ipam.Leaser }

func (deaf) Release(context.Context, ipam.Key) error { return errors.New("not now") }

// TestReconciler_AbandonedLease: with a namespace that stays, no lease could be left to the agent's collection, so the journal is kept
// until it has ended.
func TestReconciler_AbandonedLease(t *testing.T) {
	d := newDeserted(t, podArgs)
	broken := true
	d.r = d.reconcilerWith(d.evidence(), func(p conf.Paths) ipam.Leaser {
		if broken {
			return deaf{leaser(p)}
		}
		return leaser(p)
	})
	d.at(0)
	if report, err := d.look(d.r, abandonedGrace); err == nil || report.Abandoned != 0 || len(d.leases()) != 2 {
		t.Errorf("with leases that do not end: %+v, %v, %d leases", report, err, len(d.leases()))
	}
	broken = false
	if undone := d.at(abandonedGrace + time.Second); undone != 2 {
		t.Errorf("%d undone, want 2", undone)
	}
	if diff := cmp.Diff(d.before, d.traces(d.pod)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}
