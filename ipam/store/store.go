// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// Store is the open store of a node. All methods may be called concurrently; each is one transaction. Every error
// wraps one of package ipam's.
type Store struct {
	db      *bbolt.DB
	lock    *os.File // open while this process is the allocator
	options Options
	session string

	mu    sync.Mutex
	dirty map[string]bool // blocks whose leases changed since Dirty was last called
}

var _ ipam.Leaser = (*Store)(nil)

// Close ends this process's turn as the allocator. Methods called afterwards return ipam.ErrUnavailable.
func (s *Store) Close() error {
	defer s.lock.Close() // after bbolt, which knows nothing of it
	return guard(s.db.Close)
}

// Session names this store file, unlike any other of any node at any time.
func (s *Store) Session() string { return s.session }

// Fresh reports that the store was made anew in this boot and that nobody has called Recovered since, however
// often it was opened: there may be addresses in use on the node that it does not know.
func (s *Store) Fresh() (fresh bool) {
	_ = s.view(func(t *tx) error { fresh = t.meta.Get(metaFresh) != nil; return nil })
	return fresh
}

// Recovered ends Fresh: everything in use on the node is in the store now.
func (s *Store) Recovered() error {
	return s.update(func(t *tx) error { return t.meta.Delete(metaFresh) })
}

// Node is whose store this is, as SetNode last said.
func (s *Store) Node() (name, uid string) {
	_ = s.view(func(t *tx) error {
		name, uid = string(t.meta.Get(metaNode)), string(t.meta.Get(metaUID))
		return nil
	})
	return name, uid
}

// SetNode records whose store this is.
func (s *Store) SetNode(name, uid string) error {
	return s.update(func(t *tx) error {
		return errors.Join(t.meta.Put(metaNode, []byte(name)), t.meta.Put(metaUID, []byte(uid)))
	})
}

// Dirty gives the blocks whose leases or free addresses changed since the last call, and forgets them. After Open
// it is every block.
func (s *Store) Dirty() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	blocks := slices.Sorted(maps.Keys(s.dirty))
	clear(s.dirty)
	return blocks
}

var (
	metaSchema, metaBoot, metaSession = []byte("schema"), []byte("boot"), []byte("session")
	metaNode, metaUID, metaFresh      = []byte("node"), []byte("uid"), []byte("fresh")

	bucketNames = [...][]byte{[]byte("meta"), []byte("pools"), []byte("holdings"), []byte("leases"), []byte("addrs"), []byte("free")}
)

// tx is a bbolt transaction with its buckets and the one time at which all of it happens.
type tx struct {
	s    *Store
	bolt *bbolt.Tx
	now  time.Duration

	meta, pools, holdings, leases, addrs, free *bbolt.Bucket

	dirty map[string]bool
	last  ipam.Pool // what pool gave last; a transaction asks for one again and again
}

// fill is where a full page is split. Addresses come in order, and so do many keys: at the library's one half each page that they leave behind
// stays half empty, and the file, which is in memory, is half as large again. Much above it, an entry that grows splits its page once more.
const fill = 0.7

func (t *tx) bind() {
	for i, b := range []**bbolt.Bucket{&t.meta, &t.pools, &t.holdings, &t.leases, &t.addrs, &t.free} {
		if *b = t.bolt.Bucket(bucketNames[i]); *b != nil {
			(*b).FillPercent = fill
		}
	}
}

func (t *tx) whole() bool {
	return t.pools != nil && t.holdings != nil && t.leases != nil && t.addrs != nil && t.free != nil
}

func (t *tx) empty() bool {
	k, _ := t.bolt.Cursor().First()
	return k == nil
}

func (t *tx) schema() (int, error) {
	v, err := strconv.Atoi(string(t.meta.Get(metaSchema)))
	if err != nil {
		return 0, damaged("schema %q", t.meta.Get(metaSchema))
	}
	return v, nil
}

func (s *Store) view(do func(*tx) error) error {
	return guard(func() error {
		return s.db.View(func(b *bbolt.Tx) error {
			t := &tx{s: s, bolt: b, now: max(s.options.Now(), 1)}
			t.bind()
			return do(t)
		})
	})
}

// update commits what do did, or nothing if it fails.
func (s *Store) update(do func(*tx) error) error {
	s.options.hit("update")
	defer s.options.hit("updated")
	dirty := map[string]bool{}
	err := guard(func() error {
		return s.db.Update(func(b *bbolt.Tx) error {
			t := &tx{s: s, bolt: b, dirty: dirty}
			t.bind()
			t.now = max(s.options.Now(), 1) // under bbolt's lock, so that releases queue in the order of their times
			return do(t)
		})
	})
	if err == nil && len(dirty) > 0 {
		s.mu.Lock()
		maps.Copy(s.dirty, dirty)
		s.mu.Unlock()
	}
	return err
}

func (o Options) hit(point string) {
	if o.Hit != nil {
		o.Hit(point)
	}
}

// guard makes an ipam error of whatever else do returns, and of the panics and faults by which bbolt answers a
// file that is not what it should be.
func guard(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = damaged("%v", p)
		}
	}()
	err = do()
	var aside *putAside
	if err == nil || errors.As(err, &aside) {
		return err
	}
	for _, known := range []error{ipam.ErrInvalid, ipam.ErrPoolUnknown, ipam.ErrPoolClosed, ipam.ErrPoolFull, ipam.ErrTaken, ipam.ErrNotFound, ipam.ErrUnavailable} {
		if errors.Is(err, known) {
			return err
		}
	}
	return fmt.Errorf("%w: lease store: %w", ipam.ErrUnavailable, err)
}

func (t *tx) pool(name string) (ipam.Pool, error) {
	if name == t.last.Name && name != "" {
		return t.last, nil
	}
	v := t.pools.Get([]byte(name))
	if v == nil {
		return ipam.Pool{}, fmt.Errorf("%w: %.80q has not reached this node", ipam.ErrPoolUnknown, name)
	}
	p, err := decodePool(name, v)
	t.last = p
	return p, err
}

func decodePool(name string, v []byte) (ipam.Pool, error) {
	var p ipam.Pool
	if err := json.Unmarshal(v, &p); err != nil || p.Name != name {
		return ipam.Pool{}, damaged("pool %q: %v", name, err)
	}
	if err := checkPool(p); err != nil {
		return ipam.Pool{}, damaged("pool %q: %v", name, err)
	}
	return p, nil
}

// holding is a Holding as the file has it.
type holding struct {
	Holding
	// Since is when it was granted, on the boot clock.
	Since time.Duration `json:"since"`
}

// covers says that an acknowledged write gave a to this node and that nothing has begun to give it back.
func (h holding) covers(a netip.Addr) bool {
	return !h.Retired && slices.ContainsFunc(h.Ranges, func(r iprange.Range) bool { return r.Contains(a) })
}

func (t *tx) holding(block string) (holding, bool, error) {
	v := t.holdings.Get([]byte(block))
	if v == nil {
		return holding{}, false, nil
	}
	h, err := decodeHolding(block, v)
	return h, err == nil, err
}

func decodeHolding(block string, v []byte) (holding, error) {
	var h holding
	if err := json.Unmarshal(v, &h); err != nil || h.Block != block {
		return holding{}, damaged("holding %q: %v", block, err)
	}
	if err := h.check(); err != nil {
		return holding{}, damaged("holding %q: %v", block, err)
	}
	return h, nil
}

func (t *tx) putHolding(h holding) error { return t.putJSON(t.holdings, h.Block, h) }

func (t *tx) putJSON(b *bbolt.Bucket, key string, v any) error {
	out, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put([]byte(key), out)
}

func (t *tx) eachHolding(do func(holding) error) error {
	return t.holdings.ForEach(func(k, v []byte) error {
		h, err := decodeHolding(string(k), v)
		if err != nil {
			return err
		}
		return do(h)
	})
}

// holdingOf is the holding whose slot contains a, if there is one.
func (t *tx) holdingOf(p ipam.Pool, a netip.Addr) (holding, bool, error) {
	s, ok := p.Subnet(a)
	if !ok {
		return holding{}, false, nil
	}
	return t.holding(ipam.BlockName(p.Name, s.Slot(a)))
}

// touch marks the block of a as dirty.
func (t *tx) touch(p ipam.Pool, a netip.Addr) {
	if s, ok := p.Subnet(a); ok {
		t.dirty[ipam.BlockName(p.Name, s.Slot(a))] = true
	}
}

// record is a Lease as the file has it.
type record struct {
	ipam.Lease
	// Named are the addresses that were asked for by name.
	Named []netip.Addr `json:"named,omitempty"`
	// Hearsay: the key is remembered, not known, to be that of the namespace. See Restore.
	Hearsay bool `json:"hearsay,omitempty"`
	// Pending: that the addresses are the reservation's has not been acknowledged.
	Pending bool `json:"pending,omitempty"`
}

func (r record) holds(a netip.Addr) bool {
	return slices.ContainsFunc(r.Addresses, func(x ipam.Address) bool { return x.Prefix.Addr() == a })
}

func (t *tx) lease(key []byte) (record, bool, error) {
	v := t.leases.Get(key)
	if v == nil {
		return record{}, false, nil
	}
	r, err := decodeRecord(key, v)
	return r, err == nil, err
}

func decodeRecord(key, v []byte) (record, error) {
	var r record
	if err := json.Unmarshal(v, &r); err != nil {
		return record{}, damaged("lease %q: %v", key, err)
	}
	if !bytes.Equal(leaseKey(r.Key), key) {
		return record{}, damaged("lease %q says it is %+v", key, r.Key)
	}
	for _, a := range r.Addresses {
		if !a.Prefix.IsValid() {
			return record{}, damaged("lease %q has an address that is none", key)
		}
	}
	return r, nil
}

func (t *tx) putLease(r record) error {
	return t.putJSON(t.leases, string(leaseKey(r.Key)), r)
}

func (t *tx) state(pool string, a netip.Addr) (addrState, bool, error) {
	v := t.addrs.Get(addrKey(pool, a))
	if v == nil {
		return addrState{}, false, nil
	}
	s, err := parseAddrState(v)
	return s, err == nil, err
}

// enqueue makes a free since released; dequeue takes it out of the queue. Neither asks what it was before.
func (t *tx) enqueue(pool string, a netip.Addr, released time.Duration) error {
	return errors.Join(
		t.addrs.Put(addrKey(pool, a), addrState{released: released}.encode()),
		t.free.Put(freeKey(pool, a, released), nil),
	)
}

func (t *tx) dequeue(pool string, a netip.Addr, released time.Duration) error {
	return errors.Join(t.addrs.Delete(addrKey(pool, a)), t.free.Delete(freeKey(pool, a, released)))
}
