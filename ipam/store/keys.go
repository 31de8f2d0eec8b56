// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/railyard-net/railyard/ipam"
)

// States of an address in the addrs bucket: the first byte of the value.
const (
	stateFree   = 'F'
	stateLeased = 'L'
)

func leaseKey(k ipam.Key) []byte {
	return []byte(k.Network + "\x00" + k.ContainerID + "\x00" + k.IfName)
}

func parseLeaseKey(b []byte) (ipam.Key, error) {
	parts := bytes.Split(b, []byte{0})
	if len(parts) != 3 {
		return ipam.Key{}, damaged("lease key %q", b)
	}
	return ipam.Key{Network: string(parts[0]), ContainerID: string(parts[1]), IfName: string(parts[2])}, nil
}

func poolPrefix(pool string) []byte { return append([]byte(pool), 0) }

func addrKey(pool string, a netip.Addr) []byte {
	b := a.As16()
	return append(poolPrefix(pool), b[:]...)
}

func parseAddrKey(k []byte) (pool string, a netip.Addr, err error) {
	i := bytes.IndexByte(k, 0)
	if i < 0 || len(k) != i+1+16 {
		return "", netip.Addr{}, damaged("address key %x", k)
	}
	return string(k[:i]), netip.AddrFrom16([16]byte(k[i+1:])).Unmap(), nil
}

func familyPrefix(pool string, is4 bool) []byte {
	if is4 {
		return append(poolPrefix(pool), '4')
	}
	return append(poolPrefix(pool), '6')
}

func freeKey(pool string, a netip.Addr, released time.Duration) []byte {
	b := a.As16()
	return append(binary.BigEndian.AppendUint64(familyPrefix(pool, a.Is4()), uint64(released)), b[:]...)
}

func parseFreeKey(k []byte) (pool string, a netip.Addr, released time.Duration, err error) {
	i := bytes.IndexByte(k, 0)
	if i < 0 || len(k) != i+2+8+16 {
		return "", netip.Addr{}, 0, damaged("queue key %x", k)
	}
	a = netip.AddrFrom16([16]byte(k[i+10:])).Unmap()
	if a.Is4() != (k[i+1] == '4') {
		return "", netip.Addr{}, 0, damaged("queue key %x is of the wrong family", k)
	}
	return string(k[:i]), a, time.Duration(binary.BigEndian.Uint64(k[i+2:])), nil
}

// addrState is a value of the addrs bucket: leased by key, or free since released.
type addrState struct {
	key      []byte // nil: free
	released time.Duration
}

func (s addrState) leased() bool { return s.key != nil }

// cools says that it was released less than a cooldown ago.
func (s addrState) cools(now, cooldown time.Duration) bool {
	return !s.leased() && s.released > 0 && now-s.released < cooldown
}

func (s addrState) encode() []byte {
	if s.leased() {
		return append([]byte{stateLeased}, s.key...)
	}
	return binary.BigEndian.AppendUint64([]byte{stateFree}, uint64(s.released))
}

// parseAddrState copies out of v, which belongs to the transaction.
func parseAddrState(v []byte) (addrState, error) {
	switch {
	case len(v) == 9 && v[0] == stateFree:
		return addrState{released: time.Duration(binary.BigEndian.Uint64(v[1:]))}, nil
	case len(v) > 1 && v[0] == stateLeased:
		return addrState{key: bytes.Clone(v[1:])}, nil
	}
	return addrState{}, damaged("address state %x", v)
}

// damaged is what every undecodable byte of the file becomes.
func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: the lease store is damaged: %s", ipam.ErrUnavailable, fmt.Sprintf(format, args...))
}
