// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMayRaiseOOM(t *testing.T) {
	for name, tc := range map[string]struct {
		status  string
		want    bool
		wantErr bool
	}{
		"all capabilities": {status: "Name:\tx\nCapEff:\t000001ffffffffff\n", want: true},
		"all but that one": {status: "Name:\tx\nCapEff:\t000001fffeffffff\n"},
		"none are listed":  {status: "Name:\tx\n", wantErr: true},
		"no number":        {status: "CapEff:\tz\n", wantErr: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := mayRaiseOOM(tc.status)
			if got != tc.want || (err != nil) != tc.wantErr {
				t.Errorf("%v, %v; want %v, error %v", got, err, tc.want, tc.wantErr)
			}
		})
	}
}

func TestSpecSurvivesItsFile(t *testing.T) {
	want := Spec{Name: "n", Cgroups: []string{"cpu", "name=systemd"}, Addr: netip.MustParseAddr("10.99.0.11"), Pods: netip.MustParsePrefix("10.244.1.0/24")}
	path := t.TempDir() + "/spec"
	if err := want.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := readSpec(path)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

// TestOrders runs a machine whose kubelet does nothing. No other test here may have children: the machine waits for all.
func TestOrders(t *testing.T) {
	m := newMachine(slog.New(slog.DiscardHandler), Spec{})
	m.logs = t.TempDir()
	m.services["kubelet"] = newService("/bin/sleep", "1000")
	ctx, cancel := context.WithCancel(t.Context())
	reaped, ran := make(chan struct{}), make(chan struct{})
	go func() { defer close(reaped); m.family.reap(ctx) }()
	go func() { defer close(ran); m.run(ctx, "kubelet") }()
	orders, ordered := io.Pipe()
	obeyed := make(chan error, 1)
	go func() { obeyed <- m.obey(orders) }()
	order := func(text string) {
		if _, err := fmt.Fprintln(ordered, text); err != nil {
			t.Fatal(err)
		}
	}
	kubelet := func() int {
		s := m.services["kubelet"]
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.pid
	}
	first := 0
	await(t, "it runs", func() bool { first = kubelet(); return first != 0 })
	order("kill kubelet")
	second := 0
	await(t, "another one runs", func() bool { second = kubelet(); return second != 0 && second != first })
	if err := unix.Kill(first, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the first one is still there: %v", err)
	}
	order("stop containerd") // which does not run
	order("sing kubelet")    // nobody knows how
	order("stop kubelet")
	await(t, "it has ended", func() bool { return kubelet() == 0 })
	// Longer than one that ended stays away.
	select {
	case <-t.Context().Done():
	case <-time.After(2 * restartAfter):
	}
	if pid := kubelet(); pid != 0 {
		t.Errorf("it was stopped, and runs as %d", pid)
	}
	order("start kubelet")
	await(t, "it runs again", func() bool { return kubelet() != 0 })
	order("stop kubelet")
	cancel()
	m.services["kubelet"].want(true) // lets run see that it is over
	if err := ordered.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-obeyed; err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("after the last order: %v", err)
	}
	<-reaped
	m.family.reapAll()
	select {
	case <-ran:
	default: // its child died after the last look
		await(t, "run returns", func() bool {
			m.family.reapAll()
			select {
			case <-ran:
				return true
			default:
				return false
			}
		})
	}
}

// TestOrphans: what lost its parent is taken away when it dies.
func TestOrphans(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	f := newFamily()
	out, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c, err := f.start([]string{"/bin/sh", "-c", "sleep 0.01 & echo $!; exit 3"}, nil, out)
	if err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	await(t, "the parent ends", func() bool {
		f.reapAll()
		select {
		case status = <-c.done:
			return true
		default:
			return false
		}
	})
	if status.ExitStatus() != 3 {
		t.Errorf("status %d, want 3", status.ExitStatus())
	}
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	orphan := "/proc/" + strings.TrimSpace(string(text))
	await(t, "no zombie is left", func() bool {
		f.reapAll()
		_, err := os.Stat(orphan)
		return errors.Is(err, os.ErrNotExist)
	})
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(30 * time.Second); time.Now().Before(until); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatal("not in time: " + what)
}
