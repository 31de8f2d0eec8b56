// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/iprange"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/plugins/cni/journal"
)

// installed is a node's folder with our plugins, and whereabouts as a name for ours and nv-ipam as somebody else's.
func installed(t *testing.T) (dir string, all map[string]string) {
	t.Helper()
	from, dir := folders(t)
	if err := Install(t.Context(), quiet(), from, dir, "whereabouts"); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "nv-ipam"), "another's")
	return dir, map[string]string{
		"railyard": good, "railyard-ipam": good + "# ipam\n", "whereabouts": good + "# ipam\n", "nv-ipam": "another's",
	}
}

func remove(ctx context.Context, dir, state string) error {
	return Remove(ctx, quiet(), dir, state, "whereabouts", "nv-ipam")
}

func TestRemove(t *testing.T) {
	t.Parallel()
	dir, _ := installed(t)
	state := filepath.Join(t.TempDir(), "none")
	for range 2 { // again: there is nothing to do
		if err := remove(t.Context(), dir, state); err != nil {
			t.Fatal(err)
		}
		contains(t, dir, map[string]string{"nv-ipam": "another's"})
	}
	if _, err := os.Stat(state); err == nil {
		t.Error("it has made a state folder")
	}
}

// TestRemoveAfterDeath: another one finishes what was begun, whichever plugins had been hidden or removed.
func TestRemoveAfterDeath(t *testing.T) {
	t.Parallel()
	for _, hidden := range [][]string{{"whereabouts"}, {"whereabouts", "railyard"}, {"whereabouts", "railyard", "railyard-ipam"}} {
		for _, gone := range []bool{false, true} {
			dir, _ := installed(t)
			for _, name := range hidden {
				if err := hide(dir, name); err != nil {
					t.Fatal(err)
				}
			}
			if gone {
				if err := os.Remove(filepath.Join(dir, ".whereabouts"+away)); err != nil {
					t.Fatal(err)
				}
			}
			if err := remove(t.Context(), dir, t.TempDir()); err != nil {
				t.Errorf("%v, %v: %v", hidden, gone, err)
			}
			contains(t, dir, map[string]string{"nv-ipam": "another's"})
		}
	}
}

// refused fails the test unless Remove does, for that reason, and leaves the folder as it was.
func refused(t *testing.T, dir, state string, all map[string]string, want ...string) {
	t.Helper()
	err := remove(t.Context(), dir, state)
	if !errors.Is(err, ErrInUse) {
		t.Fatalf("%v, want %v", err, ErrInUse)
	}
	for _, text := range want {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %q in it", err, text)
		}
	}
	contains(t, dir, all)
}

func TestRemoveRefusesAttachments(t *testing.T) {
	t.Parallel()
	dir, all := installed(t)
	state := t.TempDir()
	journals, err := journal.Open(state, nil)
	if err != nil {
		t.Fatal(err)
	}
	j := journal.Journal{Version: journal.Version, ContainerID: "c1", IfName: "net1", Network: "n", NetNS: ipam.NetNS{Path: "/n", Dev: 1, Ino: 2}}
	if err := journals.Write(j); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, state, all, "c1@net1", "delete the pods")
	if err := os.WriteFile(filepath.Join(state, "attachments", "c1@net1.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, state, all, "c1@net1")
	if err := journals.Remove(j.ID()); err != nil {
		t.Fatal(err)
	}
	if err := remove(t.Context(), dir, state); err != nil {
		t.Error(err)
	}
}

func TestRemoveRefusesLeases(t *testing.T) {
	t.Parallel()
	dir, all := installed(t)
	state := t.TempDir()
	o, err := store.SystemOptions()
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), filepath.Join(state, "ipam.db"), o)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, dir, state, all, "DaemonSet") // locked, as an agent does
	lease(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, state, all, "ns/pod", "net1")
	if s, err = store.Open(t.Context(), filepath.Join(state, "ipam.db"), o); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Release(t.Context(), key), s.Close()); err != nil {
		t.Fatal(err)
	}
	if err := remove(t.Context(), dir, state); err != nil {
		t.Error(err)
	}
}

var key = ipam.Key{Network: "n", ContainerID: "c1", IfName: "net1"}

// lease leases an address to a pod.
func lease(t *testing.T, s *store.Store) {
	t.Helper()
	subnet := netip.MustParsePrefix("10.1.0.0/24")
	slot, err := iprange.Parse(subnet.String())
	if err != nil {
		t.Fatal(err)
	}
	p := ipam.Pool{Name: "p", UID: "u", Subnets: []ipam.Subnet{{Prefix: subnet, BlockSize: 256, Leasable: []iprange.Range{slot}}}}
	err = errors.Join(s.SetNode("n", "u"), s.SetPool(p), s.Grant(store.Holding{
		Block: ipam.BlockName("p", subnet), Pool: "p", Slot: subnet, Ranges: []iprange.Range{slot},
	}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lease(t.Context(), ipam.Request{Key: key, Pool: "p", Pod: ipam.Pod{Namespace: "ns", Name: "pod"}}); err != nil {
		t.Fatal(err)
	}
}

// TestRemoveWaits: an ADD that has begun is waited for, and what it makes counts.
func TestRemoveWaits(t *testing.T) {
	t.Parallel()
	dir, state := t.TempDir(), t.TempDir()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	data, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	if path, err := writeBeside(filepath.Join(dir, "railyard"), data); err != nil || os.Rename(path, filepath.Join(dir, "railyard")) != nil {
		t.Fatal(err)
	}
	adding := exec.CommandContext(t.Context(), filepath.Join(dir, "railyard"), "1000")
	if err := adding.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := remove(ctx, dir, state); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "executed") {
		t.Errorf("while it is executed: %v", err)
	}
	contains(t, dir, map[string]string{"railyard": string(data)})
	removed := make(chan error, 1)
	go func() { removed <- remove(t.Context(), dir, state) }()
	for { // it is hidden, so Remove is past its first look
		if _, err := os.Stat(hidden(dir, "railyard")); err == nil {
			break
		}
	}
	journals, err := journal.Open(state, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := journals.Write(journal.Journal{Version: journal.Version, ContainerID: "c1", IfName: "net1", NetNS: ipam.NetNS{Path: "/n", Dev: 1, Ino: 2}}); err != nil {
		t.Fatal(err)
	}
	_ = adding.Process.Kill()
	_ = adding.Wait()
	if err := <-removed; !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "c1@net1") {
		t.Errorf("%v, want %v", err, ErrInUse)
	}
	contains(t, dir, map[string]string{"railyard": string(data)})
}
