// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/railyard-net/railyard/ipam"
)

// NoRoom is an ipam.ErrPoolFull that says what this node would have to hold for the lease to be had.
type NoRoom struct {
	Pool string
	// Is4 and Is6 are the families with no free address here.
	Is4, Is6 bool
	// Static are the addresses asked for by name that are not held here.
	Static []netip.Addr
	// Cooling: every family that lacks a free address has one that cools, so LeaseReusing would do.
	Cooling bool
}

func (e *NoRoom) Error() string {
	var lack []string
	if e.Is4 {
		lack = append(lack, "no free IPv4 address")
	}
	if e.Is6 {
		lack = append(lack, "no free IPv6 address")
	}
	for _, a := range e.Static {
		lack = append(lack, a.String()+" not held")
	}
	out := fmt.Sprintf("%v: %s of pool %s on this node", ipam.ErrPoolFull, strings.Join(lack, ", "), e.Pool)
	if e.Cooling {
		out += " that has cooled down"
	}
	return out
}

// Unwrap makes every NoRoom an ipam.ErrPoolFull.
func (e *NoRoom) Unwrap() error { return ipam.ErrPoolFull }

// Lease implements ipam.Leaser. Where the node holds no free address, or only ones that still cool, the error is
// a *NoRoom. A key that is leased already gets its lease again, and the namespace of the repeated call from then
// on bounds its life; but asking under it for another pool or other static addresses is ipam.ErrInvalid.
func (s *Store) Lease(ctx context.Context, req ipam.Request) (ipam.Lease, error) {
	return s.lease(ctx, req, false)
}

// LeaseReusing is Lease, but where nothing else is free it takes the address that has cooled longest.
func (s *Store) LeaseReusing(ctx context.Context, req ipam.Request) (ipam.Lease, error) {
	return s.lease(ctx, req, true)
}

func (s *Store) lease(ctx context.Context, req ipam.Request, reuse bool) (l ipam.Lease, err error) {
	if err := orDone(ctx, req.Validate()); err != nil {
		return l, err
	}
	var refused error // and yet something is committed
	err = s.update(func(t *tx) error {
		refused = nil
		rec, ok, err := t.lease(leaseKey(req.Key))
		if err != nil {
			return err
		}
		disowned := false
		if ok && rec.Hearsay && req.NetNS != (ipam.NetNS{}) && !sameNetNS(rec.NetNS, req.NetNS) {
			if err := t.disown(rec); err != nil {
				return err
			}
			ok, disowned = false, true
		}
		if ok {
			l, err = t.again(rec, req)
			return err
		}
		l, err = t.lend(req, reuse)
		if _, sticky := errors.AsType[*StickyError](err); sticky && disowned { // what the agent leases next must find the key free
			refused, err = err, nil
		}
		return err
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return ipam.Lease{}, err
	}
	return l, nil
}

// again answers a repeated request.
func (t *tx) again(rec record, req ipam.Request) (ipam.Lease, error) {
	if rec.Pending {
		return rec.Lease, &StickyError{rec.Pool, true}
	}
	if rec.Pool != req.Pool {
		return rec.Lease, &ipam.FieldError{Field: "pool", Detail: fmt.Sprintf("%s asked for, but this attachment holds a lease of %s: release it first", req.Pool, rec.Pool)}
	}
	for i, a := range req.Static {
		if !rec.holds(a) {
			return rec.Lease, &ipam.FieldError{Field: fmt.Sprintf("ips[%d]", i), Detail: fmt.Sprintf("%s asked for, but this attachment holds %s: release it first", a, addresses(rec.Lease))}
		}
	}
	for _, a := range rec.Named {
		if !slices.Contains(req.Static, a) {
			return rec.Lease, &ipam.FieldError{Field: "ips", Detail: fmt.Sprintf("%s not asked for any more, but this attachment holds it by name: release it first", a)}
		}
	}
	if req.NetNS == (ipam.NetNS{}) || req.NetNS == rec.NetNS && !rec.Hearsay {
		return rec.Lease, nil
	}
	rec.NetNS, rec.Hearsay = req.NetNS, false
	return rec.Lease, t.putLease(rec)
}

func addresses(l ipam.Lease) string {
	var out []string
	for _, a := range l.Addresses {
		out = append(out, a.Prefix.Addr().String())
	}
	return strings.Join(out, " and ")
}

// lend makes a new lease.
func (t *tx) lend(req ipam.Request, reuse bool) (ipam.Lease, error) {
	p, err := t.pool(req.Pool)
	if err != nil {
		return ipam.Lease{}, err
	}
	if err := errors.Join(open(p), serves(p, req.Pod.Namespace)); err != nil {
		return ipam.Lease{}, err
	}
	if p.Sticky.Any() && !req.Settled {
		return ipam.Lease{}, &StickyError{p.Name, false}
	}
	picked, err := t.pick(p, req.Static, reuse)
	if err != nil {
		return ipam.Lease{}, err
	}
	rec := record{Named: req.Static, Lease: ipam.Lease{
		Key: req.Key, Pool: p.Name, Routes: p.Routes, NetNS: req.NetNS, Pod: req.Pod, Since: t.s.options.Wall().UTC().Round(0),
		Probe: p.DetectConflicts,
	}}
	for _, a := range picked {
		if err := t.hold(p, &rec, a); err != nil {
			return ipam.Lease{}, err
		}
	}
	return rec.Lease, t.putLease(rec)
}

func open(p ipam.Pool) error {
	if p.Closed != "" {
		return fmt.Errorf("%w: %s: %s", ipam.ErrPoolClosed, p.Name, p.Closed)
	}
	return nil
}

// serves refuses pods of namespaces that the pool is not for.
func serves(p ipam.Pool, namespace string) error {
	if p.Namespaces != nil && !slices.Contains(*p.Namespaces, namespace) {
		return fmt.Errorf("%w: %s is not for pods of namespace %q: use a network with another pool, or have spec.namespaceSelector of this one select the namespace",
			ipam.ErrPoolClosed, p.Name, namespace)
	}
	return nil
}

// hold takes a out of the queue if it is there, and gives it to rec.
func (t *tx) hold(p ipam.Pool, rec *record, a netip.Addr) error {
	was, ok, err := t.state(p.Name, a)
	if err != nil {
		return err
	}
	if ok {
		if err := t.free.Delete(freeKey(p.Name, a, was.released)); err != nil {
			return err
		}
	}
	if err := t.addrs.Put(addrKey(p.Name, a), addrState{key: leaseKey(rec.Key)}.encode()); err != nil {
		return err
	}
	s, _ := p.Subnet(a)
	rec.Addresses = append(rec.Addresses, ipam.Address{Prefix: netip.PrefixFrom(a, s.Prefix.Bits()), Gateway: s.Gateway})
	slices.SortFunc(rec.Addresses, func(x, y ipam.Address) int { return x.Prefix.Addr().Compare(y.Prefix.Addr()) })
	t.touch(p, a)
	return nil
}

// pick chooses one address of each family, IPv4 first, and changes nothing.
func (t *tx) pick(p ipam.Pool, static []netip.Addr, reuse bool) ([]netip.Addr, error) {
	for i, a := range static {
		if err := t.checkStatic(p, fmt.Sprintf("ips[%d]", i), a); err != nil {
			return nil, err
		}
	}
	lack := &NoRoom{Pool: p.Name, Cooling: true}
	var out []netip.Addr
	for _, s := range p.Subnets {
		if i := slices.IndexFunc(static, s.Prefix.Contains); i >= 0 {
			h, _, err := t.holdingOf(p, static[i])
			if err != nil {
				return nil, err
			}
			if !h.covers(static[i]) {
				lack.Static, lack.Cooling = append(lack.Static, static[i]), false
			}
			out = append(out, static[i])
			continue
		}
		if len(s.Leasable) == 0 {
			return nil, &ipam.FieldError{Field: "ips", Detail: fmt.Sprintf("pool %s gives addresses of %s by name only: ask for one", p.Name, s.Prefix)}
		}
		a, found, cools, err := t.next(p, s.Is4())
		switch {
		case err != nil:
			return nil, err
		case found && (!cools || reuse):
			out = append(out, a)
			continue
		case s.Is4():
			lack.Is4 = true
		default:
			lack.Is6 = true
		}
		lack.Cooling = lack.Cooling && found
	}
	if lack.Is4 || lack.Is6 || len(lack.Static) > 0 {
		return nil, lack
	}
	return out, nil
}

// checkStatic refuses an address that the pool does not give by name, or that somebody holds.
func (t *tx) checkStatic(p ipam.Pool, field string, a netip.Addr) error {
	if _, ok := p.Subnet(a); !ok {
		return &ipam.FieldError{Field: field, Detail: fmt.Sprintf("%s is in no subnet of pool %s", a, p.Name)}
	}
	if !reserved(p, a) {
		return &ipam.FieldError{Field: field, Detail: fmt.Sprintf("%s is not in the reserved ranges of pool %s: add it there, or ask for one that is", a, p.Name)}
	}
	s, ok, err := t.state(p.Name, a)
	if err != nil {
		return err
	}
	if ok && s.leased() {
		k, _ := parseLeaseKey(s.key)
		return fmt.Errorf("%w: %s is held by %s of container %s on network %s", ipam.ErrTaken, a, k.IfName, k.ContainerID, k.Network)
	}
	return nil
}

// next is the head of the queue: found or not, and whether it still cools.
func (t *tx) next(p ipam.Pool, is4 bool) (a netip.Addr, found, cools bool, err error) {
	k, _ := seek(t.free.Cursor(), familyPrefix(p.Name, is4))
	if k == nil {
		return a, false, false, nil
	}
	_, a, released, err := parseFreeKey(k)
	return a, err == nil, released > 0 && t.now-released < p.Cooldown, err
}

// Release implements ipam.Leaser.
func (s *Store) Release(ctx context.Context, k ipam.Key) error {
	if err := orDone(ctx, k.Validate()); err != nil {
		return err
	}
	key, held := leaseKey(k), false
	if err := s.view(func(t *tx) error { held = t.leases.Get(key) != nil; return nil }); err != nil || !held {
		return err // nothing to write: DEL is often repeated
	}
	return s.update(func(t *tx) error { return t.release(key) })
}

// End ends the lease under k because the namespace n is gone; nothing if the lease is for another one, or is not
// there.
func (s *Store) End(k ipam.Key, n ipam.NetNS) error {
	return s.update(func(t *tx) error {
		rec, ok, err := t.lease(leaseKey(k))
		if err != nil || !ok || rec.NetNS != n {
			return err
		}
		return t.drop(leaseKey(k), rec)
	})
}

func (t *tx) release(key []byte) error {
	v := t.leases.Get(key)
	if v == nil {
		return nil
	}
	rec, err := decodeRecord(key, v)
	if err != nil {
		if rec, err = t.rebuild(key); err != nil {
			return err
		}
	}
	if rec.Hearsay {
		return t.disown(rec)
	}
	return t.drop(key, rec)
}

func (t *tx) drop(key []byte, rec record) error {
	for _, a := range rec.Addresses {
		if err := t.giveBack(rec.Pool, a.Prefix.Addr(), key); err != nil {
			return err
		}
	}
	return t.leases.Delete(key)
}

// giveBack puts an address that key holds at the end of the queue, or drops it if it is not this node's to lease.
func (t *tx) giveBack(pool string, a netip.Addr, key []byte) error {
	was, ok, err := t.state(pool, a)
	if err != nil || !ok || !bytes.Equal(was.key, key) {
		return err // a damaged lease must not take another's address along
	}
	if err := t.addrs.Delete(addrKey(pool, a)); err != nil {
		return err
	}
	p, err := t.pool(pool)
	if errors.Is(err, ipam.ErrPoolUnknown) {
		return nil
	} else if err != nil {
		return err
	}
	t.touch(p, a)
	h, _, err := t.holdingOf(p, a)
	if err != nil || !h.covers(a) || !leasable(p, a) {
		return err
	}
	return t.enqueue(pool, a, t.now)
}

// rebuild finds the addresses of a lease that cannot be decoded by what the addresses say.
func (t *tx) rebuild(key []byte) (rec record, err error) {
	err = t.addrs.ForEach(func(k, v []byte) error {
		pool, a, err := parseAddrKey(k)
		if err != nil {
			return err
		}
		if s, err := parseAddrState(v); err == nil && bytes.Equal(s.key, key) {
			rec.Pool = pool
			rec.Addresses = append(rec.Addresses, ipam.Address{Prefix: netip.PrefixFrom(a, a.BitLen())})
		}
		return nil
	})
	return rec, err
}

// Decline implements ipam.Leaser.
func (s *Store) Decline(ctx context.Context, k ipam.Key, c ipam.Conflict) error {
	if err := orDone(ctx, errors.Join(k.Validate(), c.Validate())); err != nil {
		return err
	}
	return s.update(func(t *tx) error {
		rec, ok, err := t.lease(leaseKey(k))
		switch {
		case err != nil:
			return err
		case !ok:
			return notFound(k)
		case !rec.holds(c.Address):
			return &ipam.FieldError{Field: "conflict.address", Detail: fmt.Sprintf("is %s, but the attachment holds %s", c.Address, addresses(rec.Lease))}
		}
		if err := t.drop(leaseKey(k), rec); err != nil {
			return err
		}
		p, err := t.pool(rec.Pool)
		if err != nil {
			return err
		}
		h, _, err := t.holdingOf(p, c.Address)
		if err != nil || !h.covers(c.Address) {
			return err // it was not for this node to lease any more
		}
		back := record{Lease: ipam.Lease{Key: ipam.ConflictKey(rec.Pool, c), Pool: rec.Pool, Pod: rec.Pod, Since: t.s.options.Wall().UTC().Round(0)}}
		if err := t.hold(p, &back, c.Address); err != nil {
			return err
		}
		return t.putLease(back)
	})
}

func notFound(k ipam.Key) error {
	return fmt.Errorf("%w: %s of container %s on network %s", ipam.ErrNotFound, k.IfName, k.ContainerID, k.Network)
}

// Lookup implements ipam.Leaser.
func (s *Store) Lookup(ctx context.Context, k ipam.Key) (l ipam.Lease, err error) {
	if err := orDone(ctx, k.Validate()); err != nil {
		return l, err
	}
	err = s.view(func(t *tx) error {
		rec, ok, err := t.lease(leaseKey(k))
		if err == nil && !ok {
			err = notFound(k)
		}
		l = rec.Lease
		return err
	})
	return l, err
}

// Retain implements ipam.Leaser.
func (s *Store) Retain(ctx context.Context, network string, keep []ipam.Key) (n int, err error) {
	if err := orDone(ctx, ipam.Key{Network: network, ContainerID: "-", IfName: "-"}.Validate()); err != nil {
		return 0, err
	}
	kept := map[string]bool{}
	for _, k := range keep {
		kept[string(leaseKey(k))] = true
	}
	err = s.update(func(t *tx) error {
		var drop [][]byte
		prefix := append([]byte(network), 0)
		c := t.leases.Cursor()
		for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
			if !kept[string(k)] {
				drop = append(drop, bytes.Clone(k))
			}
		}
		for _, k := range drop {
			if err := t.release(k); err != nil {
				return err
			}
		}
		n = len(drop)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// Ready implements ipam.Leaser: what Lease would say to a new key that asks for no static address.
func (s *Store) Ready(ctx context.Context, pool string) error {
	if err := orDone(ctx, ipam.CheckPoolName("pool", pool)); err != nil {
		return err
	}
	return s.view(func(t *tx) error {
		p, err := t.pool(pool)
		if err != nil {
			return err
		}
		if err := open(p); err != nil {
			return err
		}
		p.Subnets = slices.DeleteFunc(slices.Clone(p.Subnets), func(s ipam.Subnet) bool { return len(s.Leasable) == 0 })
		_, err = t.pick(p, nil, false)
		return err
	})
}

// orDone is err, or that ctx is over.
func orDone(ctx context.Context, err error) error {
	if err == nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ipam.ErrUnavailable, context.Cause(ctx))
	}
	return err
}
