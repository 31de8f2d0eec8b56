// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam"
)

func closed(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// seed makes a store with one lease, and gives its path and session.
func seed(t *testing.T, c *clock) (path, session string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "state", "ipam.db")
	s := mustOpen(t, path, c.options())
	defer closed(t, s)
	p := testPool(t, nil)
	setPool(t, s, p)
	grant(t, s, p, "10.20.0.0", "fd00:20::")
	if err := errors.Join(s.SetNode("n1", "u1"), s.Recovered()); err != nil {
		t.Fatal(err)
	}
	leaseFirst(t, s, p)
	return path, s.Session()
}

// edit changes the file behind the store's back.
func edit(t *testing.T, path string, do func(*bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(do), db.Close()); err != nil {
		t.Fatal(err)
	}
}

func put(bucket, k, v string) func(*bbolt.Tx) error {
	return func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucket)).Put([]byte(k), []byte(v)) }
}

// openCase is a store to which something happened, and what Open makes of it.
type openCase struct {
	harm      func(*testing.T, string)
	boot      string
	wantFresh bool
	wantAside string
	wantErr   error
}

func openCases() map[string]openCase {
	overwrite := func(from int64, n int) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			junk := make([]byte, n)
			for i := range junk {
				junk[i] = byte(i*7 + 1)
			}
			if _, err := f.WriteAt(junk, from); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
	}
	truncate := func(n int64) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			if err := os.Truncate(path, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	change := func(do func(*bbolt.Tx) error) func(*testing.T, string) {
		return func(t *testing.T, path string) { edit(t, path, do) }
	}
	return map[string]openCase{
		"sound":            {},
		"another boot":     {boot: "boot-2", wantFresh: true, wantAside: ".old"},
		"newer schema":     {harm: change(put("meta", "schema", "2")), wantErr: ipam.ErrUnavailable},
		"schema is noise":  {harm: change(put("meta", "schema", "x")), wantFresh: true, wantAside: ".damaged"},
		"no leases":        {harm: change(func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("leases")) }), wantFresh: true, wantAside: ".damaged"},
		"no meta":          {harm: change(func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("meta")) }), wantFresh: true, wantAside: ".damaged"},
		"lease is noise":   {harm: change(put("leases", "net\x00c0\x00net1", "{")), wantFresh: true, wantAside: ".damaged"},
		"lease of another": {harm: change(put("leases", "net\x00c1\x00net1", `{"key":{"network":"net"}}`)), wantFresh: true, wantAside: ".damaged"},
		"pool is noise":    {harm: change(put("pools", "rail0", `{"name":"rail0","subnets":[{"prefix":"10.0.0.0/8","blockSize":3}]}`)), wantFresh: true, wantAside: ".damaged"},
		"holding is noise": {harm: change(put("holdings", "x", "null")), wantFresh: true, wantAside: ".damaged"},
		"address is noise": {harm: change(put("addrs", "rail0\x001234567890123456", "Z")), wantFresh: true, wantAside: ".damaged"},
		"queue is noise":   {harm: change(put("free", "rail0", "")), wantFresh: true, wantAside: ".damaged"},
		"empty file":       {harm: truncate(0), wantFresh: true},
		"short file":       {harm: truncate(100), wantFresh: true, wantAside: ".damaged"},
		"two pages":        {harm: truncate(8192), wantFresh: true, wantAside: ".damaged"},
		"both metas gone":  {harm: overwrite(0, 8192), wantFresh: true, wantAside: ".damaged"},
		"pages are noise":  {harm: overwrite(8192, 1<<16), wantFresh: true, wantAside: ".damaged"},
	}
}

func TestOpen(t *testing.T) {
	for name, c := range openCases() {
		t.Run(name, func(t *testing.T) {
			clk := newClock()
			path, session := seed(t, clk)
			if c.harm != nil {
				c.harm(t, path)
			}
			o := clk.options()
			if c.boot != "" {
				o.BootID = c.boot
			}
			if c.wantFresh {
				checkMustExist(t, path, o)
			}
			s, err := Open(t.Context(), path, o)
			if !errors.Is(err, c.wantErr) {
				t.Fatalf("got %v, want %v", err, c.wantErr)
			}
			if err != nil {
				return
			}
			defer closed(t, s)
			if s.Fresh() != c.wantFresh || (s.Session() == session) == c.wantFresh || s.Session() == "" {
				t.Errorf("fresh %v, want %v; session %s after %s", s.Fresh(), c.wantFresh, s.Session(), session)
			}
			if err := s.Check(); err != nil {
				t.Error(err)
			}
			if ls, err := s.Leases(); err != nil || (len(ls) == 0) != c.wantFresh {
				t.Errorf("leases %v, %v", ls, err)
			}
			if n, u := s.Node(); !c.wantFresh && (n != "n1" || u != "u1") {
				t.Errorf("node %s %s", n, u)
			}
			for _, suffix := range []string{".old", ".damaged"} {
				if _, err := os.Stat(path + suffix); (err == nil) != (suffix == c.wantAside) {
					t.Errorf("%s put aside: %v", suffix, err)
				}
			}
		})
	}
}

// checkMustExist opens as a CNI process, which may not make a store, nor put one aside.
func checkMustExist(t *testing.T, path string, must Options) {
	t.Helper()
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	must.MustExist = true
	s, err := Open(t.Context(), path, must)
	if err == nil { // sound enough at a glance; whatever it touches it decodes
		closed(t, s)
	} else if !errors.Is(err, ErrNoStore) || !errors.Is(err, ipam.ErrUnavailable) {
		t.Errorf("where it must exist: %v", err)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("where it must exist, it was replaced: %v", err)
	}
}

// Fresh survives the death of whoever made the store before it knew what lives on the node.
func TestFreshUntilRecovered(t *testing.T) {
	c, path := newClock(), filepath.Join(t.TempDir(), "ipam.db")
	for range 2 {
		s := mustOpen(t, path, c.options())
		if !s.Fresh() {
			t.Error("not fresh before Recovered")
		}
		closed(t, s)
	}
	s := mustOpen(t, path, c.options())
	if err := s.Recovered(); err != nil || s.Fresh() {
		t.Errorf("fresh after Recovered: %v", err)
	}
	closed(t, s)
	if _, err := s.Leases(); !errors.Is(err, ipam.ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	c, dir := newClock(), t.TempDir()
	must := c.options()
	must.MustExist = true
	if _, err := Open(t.Context(), filepath.Join(dir, "none", "ipam.db"), must); !errors.Is(err, ErrNoStore) {
		t.Errorf("missing: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "none")); err == nil {
		t.Error("it made a folder")
	}
	if _, err := Open(t.Context(), filepath.Join(dir, "ipam.db"), Options{}); !errors.Is(err, ipam.ErrInvalid) {
		t.Errorf("no options: %v", err)
	}
	if _, err := Open(t.Context(), dir, c.options()); !errors.Is(err, ipam.ErrUnavailable) {
		t.Errorf("a folder: %v", err)
	}
	s := mustOpen(t, filepath.Join(dir, "ipam.db"), c.options())
	defer closed(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, filepath.Join(dir, "ipam.db"), c.options()); !errors.Is(err, ErrLocked) || !errors.Is(err, ipam.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("locked: %v", err)
	}
}

// Several that wait for the lock while the store is put aside and made anew all end up in the same one, whether it was
// of another boot or damaged.
func TestOpenRace(t *testing.T) {
	for name, harm := range map[string]func(*testing.T, string, *Options){
		"of another boot": func(_ *testing.T, _ string, o *Options) { o.BootID = "boot-2" },
		"damaged": func(t *testing.T, path string, _ *Options) {
			if err := os.WriteFile(path, []byte("this is no store"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range 20 {
				c := newClock()
				path, _ := seed(t, c)
				o := c.options()
				harm(t, path, &o)
				openAtOnce(t, path, o)
			}
		})
	}
}

func openAtOnce(t *testing.T, path string, o Options) {
	t.Helper()
	var wg sync.WaitGroup
	sessions := make([]string, 8)
	for i := range sessions {
		wg.Go(func() {
			s, err := Open(t.Context(), path, o)
			if err != nil {
				t.Error(err)
				return
			}
			sessions[i] = s.Session()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, s := range sessions {
		if s != sessions[0] || s == "" {
			t.Fatalf("sessions differ: %q", sessions)
		}
	}
}

// A full disk says nothing about the file on it: Open gives up, puts nothing aside, and works again when there is
// room.
func TestOpenOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8k"); err != nil {
		t.Fatalf("mount a small tmpfs: %v: run the tests as root", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "ipam.db")
	failed := make(chan error, 1)
	go func() {
		_, err := Open(t.Context(), path, newClock().options())
		failed <- err
	}()
	select {
	case err := <-failed:
		if !errors.Is(err, ipam.ErrUnavailable) || !errors.Is(err, unix.ENOSPC) {
			t.Errorf("on a full disk: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("on a full disk Open goes round in circles")
	}
	if _, err := os.Stat(path + ".damaged"); err == nil {
		t.Error("it was put aside as damaged")
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	closed(t, mustOpen(t, path, newClock().options()))
}

func TestSystemOptions(t *testing.T) {
	o, err := SystemOptions()
	if err != nil {
		t.Fatal(err)
	}
	before := o.Now()
	if len(o.BootID) != 36 || before <= 0 || o.Now() < before || time.Since(o.Wall()) > time.Minute {
		t.Errorf("got %+v", o)
	}
}

// A lease whose record is noise can still be released, and no other is harmed by it.
func TestReleaseDamaged(t *testing.T) {
	c := newClock()
	path, _ := seed(t, c)
	edit(t, path, put("leases", "net\x00c0\x00net1", "noise"))
	o := c.options()
	o.MustExist = true
	s := mustOpen(t, path, o)
	defer closed(t, s)
	if _, err := s.Lookup(background, key(0)); !errors.Is(err, ipam.ErrUnavailable) {
		t.Errorf("lookup: %v", err)
	}
	if _, err := s.Lease(background, request(1)); err != nil {
		t.Errorf("another key: %v", err)
	}
	if err := s.Release(background, key(0)); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	if st, err := s.Stats(); err != nil || st[0].Leased != 1 || st[0].Cooling != 1 {
		t.Errorf("got %+v, %v", st, err)
	}
}

func TestCheckFinds(t *testing.T) {
	addr := string(addrKey("rail0", mustAddr("10.20.0.2")))
	free := string(addrKey("rail0", mustAddr("10.20.0.5")))
	cases := map[string]func(*bbolt.Tx) error{
		"lease without address": func(tx *bbolt.Tx) error { return tx.Bucket([]byte("addrs")).Delete([]byte(addr)) },
		"address without lease": func(tx *bbolt.Tx) error { return tx.Bucket([]byte("leases")).Delete(leaseKey(key(0))) },
		"address of another":    put("addrs", addr, "Lnet\x00c9\x00net1"),
		"leaked address":        func(tx *bbolt.Tx) error { return tx.Bucket([]byte("addrs")).Delete([]byte(free)) },
		"queued while leased":   put("free", string(freeKey("rail0", mustAddr("10.20.0.2"), 0)), ""),
		"free but not queued": func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("free")).Delete(freeKey("rail0", mustAddr("10.20.0.5"), 0))
		},
		"not granted":            put("addrs", string(addrKey("rail0", mustAddr("10.20.0.99"))), "Lnet\x00c0\x00net1"),
		"pool is gone":           func(tx *bbolt.Tx) error { return tx.Bucket([]byte("pools")).Delete([]byte("rail0")) },
		"holding is gone":        func(tx *bbolt.Tx) error { return tx.Bucket([]byte("holdings")).Delete([]byte("rail0.10-20-0-0")) },
		"released in the future": put("addrs", free, string(addrState{released: 1 << 60}.encode())),
	}
	for name, harm := range cases {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			path, _ := seed(t, c)
			edit(t, path, harm)
			s := mustOpen(t, path, c.options())
			defer closed(t, s)
			if err := s.Check(); !errors.Is(err, ipam.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
		})
	}
}
