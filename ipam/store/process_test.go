// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/railyard-net/railyard/ipam"
)

// childEnv makes the test binary a process that works on a store: "mode path number".
const childEnv = "RAILYARD_STORE_CHILD"

func TestMain(m *testing.M) {
	if args := strings.Fields(os.Getenv(childEnv)); len(args) == 3 {
		n, err := strconv.Atoi(args[2])
		if err == nil {
			err = map[string]func(string, int) error{"hold": holdAndWork, "direct": openEachTime}[args[0]](args[1], n)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(t *testing.T, mode, path string, n int) (*exec.Cmd, io.Reader) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+mode+" "+path+" "+strconv.Itoa(n))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// holdAndWork leases and releases until it is killed, and says so: "L i addr" once a lease is answered, "R i"
// before a release.
func holdAndWork(path string, seed int) error {
	o, err := SystemOptions()
	if err != nil {
		return err
	}
	s, err := Open(background, path, o)
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(uint64(seed), 1)) //nolint:gosec // to be repeatable, not secret
	for {
		i := random.IntN(12)
		if random.IntN(2) == 0 {
			fmt.Printf("R %d\n", i)
			err = s.Release(background, key(i))
		} else {
			var l ipam.Lease
			if l, err = s.LeaseReusing(background, request(i)); err == nil {
				fmt.Printf("L %d %s\n", i, strings.Join(addrs(l), ","))
			}
		}
		if err != nil {
			return err
		}
	}
}

// TestKilled kills an allocator at a random point, many times over: whatever it answered is in the store, and the
// store is sound.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ipam.db")
	o, err := SystemOptions()
	if err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, path, o)
	p := testPool(t, nil)
	setPool(t, s, p)
	grant(t, s, p, "10.20.0.0", "fd00:20::")
	closed(t, s)
	known := map[string]string{} // by key: the addresses answered, until a release begins
	for round := range 25 {
		cmd, out := child(t, "hold", path, round)
		lines := bufio.NewScanner(out)
		for left := rand.IntN(60); lines.Scan(); left-- { //nolint:gosec // as above
			f := strings.Fields(lines.Text())
			if f[0] == "L" {
				if was, ok := known[f[1]]; ok && was != f[2] {
					t.Fatalf("key %s had %s, and now has %s", f[1], was, f[2])
				}
				known[f[1]] = f[2]
			} else {
				delete(known, f[1])
			}
			if left == 0 { // what it still wrote to the pipe before it died is read as well
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}
		s := mustOpen(t, path, o)
		if err := s.Check(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for k, want := range known {
			i, _ := strconv.Atoi(k)
			if l, err := s.Lookup(background, key(i)); err != nil || strings.Join(addrs(l), ",") != want {
				t.Fatalf("round %d: key %s was told %s, and the store says %v, %v", round, k, want, addrs(l), err)
			}
		}
		closed(t, s)
	}
}

const perProcess = 40

// openEachTime leases and releases as CNI processes do without an agent: a store opened for each call.
func openEachTime(path string, n int) error {
	o, err := SystemOptions()
	if err != nil {
		return err
	}
	o.MustExist = true
	for i := range perProcess {
		k := n*perProcess + i
		for _, do := range []func(*Store) error{
			func(s *Store) error { _, err := s.LeaseReusing(background, request(k)); return err },
			func(s *Store) error {
				if i%2 == 0 {
					return nil
				}
				return s.Release(background, key(k))
			},
		} {
			s, err := Open(background, path, o)
			if err != nil {
				return err
			}
			if err := errors.Join(do(s), s.Close()); err != nil {
				return err
			}
		}
	}
	return nil
}

func roomy(t *testing.T) ipam.Pool {
	return testPool(t, func(p *ipam.PoolSpec) {
		p.IPv4 = &ipam.SubnetSpec{Subnet: "10.0.0.0/8", BlockSize: 4096}
		p.IPv6.BlockSize = 4096
	})
}

// distinct checks that no address is leased twice, and gives the number of leases.
func distinct(t *testing.T, s *Store) int {
	t.Helper()
	ls, err := s.Leases()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, l := range ls {
		all = append(all, addrs(l)...)
	}
	slices.Sort(all)
	if n := len(all); len(slices.Compact(all)) != n || n != 2*len(ls) {
		t.Errorf("an address is leased twice, or missing: %v", all)
	}
	return len(ls)
}

func TestProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ipam.db")
	o, err := SystemOptions()
	if err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, path, o)
	setPool(t, s, roomy(t))
	grant(t, s, roomy(t), "10.0.0.0", "fd00:20::")
	closed(t, s)
	var running []*exec.Cmd
	for i := range 6 {
		cmd, _ := child(t, "direct", path, i)
		running = append(running, cmd)
	}
	for _, cmd := range running {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	s = mustOpen(t, path, o)
	defer closed(t, s)
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	if n, want := distinct(t, s), len(running)*perProcess/2; n != want {
		t.Errorf("%d leases are left, want %d", n, want)
	}
}

func TestGoroutines(t *testing.T) {
	s := newStore(t, newClock())
	p := roomy(t)
	setPool(t, s, p)
	grant(t, s, p, "10.0.0.0", "fd00:20::")
	var wg sync.WaitGroup
	for g := range 64 {
		wg.Go(func() {
			for i := range 10 {
				k := g/2*10 + i // every key is leased by two at once
				l, err := s.LeaseReusing(background, request(k))
				again, err2 := s.LeaseReusing(background, request(k))
				if err := errors.Join(err, err2); err != nil || !slices.Equal(addrs(l), addrs(again)) {
					t.Errorf("%v, then %v: %v", addrs(l), addrs(again), err)
				}
				if _, err := s.Stats(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := distinct(t, s); n != 320 {
		t.Errorf("%d leases, want 320", n)
	}
	for i := range 320 {
		wg.Go(func() {
			if err := s.Release(context.Background(), key(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := distinct(t, s); n != 0 {
		t.Errorf("%d leases are left", n)
	}
}

// FuzzValues decodes whatever the file may hold: an error or a value, never a panic, and a value that is written
// back is the same.
func FuzzValues(f *testing.F) {
	f.Add([]byte("rail0"), []byte(`{"name":"rail0","uid":"u","subnets":[{"prefix":"10.0.0.0/24","blockSize":16,"leasable":["10.0.0.1-10.0.0.9"]}],"cooldown":1}`))
	f.Add([]byte("net\x00c\x00i"), []byte(`{"key":{"network":"net","containerID":"c","ifName":"i"},"pool":"rail0","addresses":[{"prefix":"10.0.0.1/24"}]}`))
	f.Add([]byte("rail0.10-0-0-0"), []byte(`{"block":"rail0.10-0-0-0","pool":"rail0","slot":"10.0.0.0/28","ranges":["10.0.0.1"]}`))
	f.Add(addrKey("rail0", mustAddr("10.0.0.1")), addrState{key: []byte("k")}.encode())
	f.Add(freeKey("rail0", mustAddr("fd00::1"), 7), addrState{released: 7}.encode())
	f.Fuzz(func(t *testing.T, k, v []byte) {
		if s, err := parseAddrState(v); err == nil && string(s.encode()) != string(v) {
			t.Errorf("state %x became %x", v, s.encode())
		}
		if pool, a, err := parseAddrKey(k); err == nil && a.Is4() && string(addrKey(pool, a)) != string(k) {
			t.Errorf("address key %x became %x", k, addrKey(pool, a))
		}
		if pool, a, at, err := parseFreeKey(k); err == nil && string(freeKey(pool, a, at)) != string(k) && (k[len(pool)+1] == '4' || k[len(pool)+1] == '6') {
			t.Errorf("queue key %x became %x", k, freeKey(pool, a, at))
		}
		if key, err := parseLeaseKey(k); err == nil && string(leaseKey(key)) != string(k) {
			t.Errorf("lease key %x became %x", k, leaseKey(key))
		}
		p, err := decodePool(string(k), v)
		if err == nil && checkPool(p) != nil {
			t.Errorf("pool %+v is not sound", p)
		}
		h, err := decodeHolding(string(k), v)
		if err == nil && h.check() != nil {
			t.Errorf("holding %+v is not sound", h)
		}
		if r, err := decodeRecord(k, v); err == nil && string(leaseKey(r.Key)) != string(k) {
			t.Errorf("lease %+v under %q", r, k)
		}
	})
}
