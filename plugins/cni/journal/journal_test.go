// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package journal_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/plugins/cni/journal"
)

func sample(id journal.ID) journal.Journal {
	old := "0"
	return journal.Journal{
		Version: journal.Version, ContainerID: id.ContainerID, IfName: id.IfName, Network: "n",
		Steps: []journal.Step{
			{Lease: &journal.Lease{Pool: "p", StateDir: "/s", AgentSocket: "/s/agent.sock"}},
			{Link: &journal.Link{Kind: "macvlan", Name: id.IfName, MAC: "02:00:00:00:00:01"}},
			{Sysctl: &journal.Sysctl{Path: "net/a", Value: "1", Old: &old}},
		},
	}
}

func TestDir(t *testing.T) {
	d, err := journal.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ids := []journal.ID{
		{ContainerID: "a-b", IfName: "c"}, {ContainerID: "a", IfName: "b-c"}, {ContainerID: "a", IfName: "c@d"},
		{ContainerID: strings.Repeat("x", 256), IfName: "123456789012345"}, {ContainerID: strings.Repeat("x", 255) + "y", IfName: "123456789012345"},
	}
	for _, id := range ids {
		if _, err := d.Read(id); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", id, err)
		}
		if err := d.Write(sample(id)); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range ids {
		got, err := d.Read(id)
		if diff := cmp.Diff(sample(id), got); diff != "" || err != nil {
			t.Error(err, diff)
		}
	}
	all, err := d.List()
	if err != nil || len(all) != len(ids) {
		t.Errorf("%d journals, %v", len(all), err)
	}
	for range 2 {
		for _, id := range ids {
			if err := d.Remove(id); err != nil {
				t.Error(err)
			}
		}
	}
	if all, err := d.List(); err != nil || len(all) != 0 {
		t.Error(all, err)
	}
}

// TestDiesMidway: a writer that dies before the rename leaves the old journal, and nothing that stays.
func TestDiesMidway(t *testing.T) {
	dir := t.TempDir()
	id := journal.ID{ContainerID: "c", IfName: "i"}
	type dead struct{}
	d, err := journal.Open(dir, func(point string) {
		if point == "journal:temp" {
			panic(dead{})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() { _ = recover() }()
		_ = d.Write(sample(id))
	}()
	if _, err := d.Read(id); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if all, err := d.List(); err != nil || len(all) != 0 {
		t.Error(all, err)
	}
	if err := d.Remove(id); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "attachments", "*")); len(left) != 0 {
		t.Error(left)
	}
}

func TestLocks(t *testing.T) {
	d, err := journal.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	brief := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	a, b := journal.ID{ContainerID: "a", IfName: "i"}, journal.ID{ContainerID: "b", IfName: "i"}
	la, err := d.Lock(brief(), a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lock(brief(), a); !errors.Is(err, journal.ErrLocked) {
		t.Errorf("a lock twice: %v", err)
	}
	lb, err := d.Lock(brief(), b)
	if err != nil {
		t.Errorf("another's lock: %v", err)
	}
	if _, err := d.LockAll(brief()); !errors.Is(err, journal.ErrLocked) {
		t.Errorf("all locks beside one: %v", err)
	}
	la.Unlock()
	lb.Unlock()
	all, err := d.LockAll(brief())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lock(brief(), a); !errors.Is(err, journal.ErrLocked) {
		t.Errorf("a lock beside all: %v", err)
	}
	all.Unlock()
	if la, err = d.Lock(brief(), a); err != nil {
		t.Fatal(err)
	}
	la.Unlock()
}

func FuzzDecode(f *testing.F) {
	seeds, err := filepath.Glob("testdata/seeds/*.json")
	if err != nil || len(seeds) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, name := range seeds {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	id := journal.ID{ContainerID: "c1", IfName: "net1"}
	f.Fuzz(func(t *testing.T, data []byte) {
		j, err := journal.Decode(data, id)
		if err != nil {
			if !errors.Is(err, journal.ErrDamaged) && !errors.Is(err, journal.ErrNewer) {
				t.Fatalf("an error of no type: %v", err)
			}
			return
		}
		b, err := journal.Encode(j)
		if err != nil {
			t.Fatal(err)
		}
		again, err := journal.Decode(b, id)
		if err != nil {
			t.Fatalf("not read again: %v\n%s", err, b)
		}
		if len(again.Steps) != len(j.Steps) || again.ID() != id {
			t.Fatalf("%+v became %+v", j, again)
		}
		for i, s := range j.Steps {
			if s.Known() != again.Steps[i].Known() {
				t.Fatalf("step %d: %+v became %+v", i, s, again.Steps[i])
			}
		}
	})
}
