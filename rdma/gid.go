// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strconv"
)

// GIDType says how packets from a GID are put on the wire.
type GIDType string

// The types as sysfs writes them (gid_type_str in drivers/infiniband/core/cache.c).
const (
	RoCEv1 GIDType = "IB/RoCE v1" // also every GID of an InfiniBand port, and the one of an iWARP device
	RoCEv2 GIDType = "RoCE v2"
)

// GID is an entry of a port's table of addresses. A RoCE port has one for each type for each address of its interface and of
// those on top of that (VLANs, macvlans, in any namespace). Entries come and go as addresses do: an index is good while its
// address stays.
type GID struct {
	// Index is what programs know the entry by (NCCL_IB_GID_INDEX).
	Index int
	// Addr is the GID. One that is an IPv4 address, ::ffff:a.b.c.d in the table, is given as that; As16 has the GID again.
	Addr netip.Addr
	Type GIDType
	// NetDev is the name of the interface in the namespace where that is, and says nothing to whoever is in another. It is
	// empty for InfiniBand.
	NetDev string
}

// GIDs returns the entries of a port's table that are in use, by index. It is an ErrNotFound if there is no such device or port.
func GIDs(sys fs.FS, device string, port int) ([]GID, error) {
	return gids(sys, device, port, func(gid [16]byte) bool { return gid != [16]byte{} })
}

// FindGID returns the entry that holds the address, the one of RoCE v2 before the one of v1, and of equal ones the first. It is an
// ErrNotFound if there is none; the kernel makes one shortly after an address was set. FindGID reads less than GIDs does.
func FindGID(sys fs.FS, device string, port int, addr netip.Addr) (GID, error) {
	if !addr.IsValid() || addr.IsUnspecified() {
		return GID{}, fmt.Errorf("%s is the address of no GID", addr)
	}
	want := addr.As16()
	found, err := gids(sys, device, port, func(gid [16]byte) bool { return gid == want })
	if err != nil {
		return GID{}, err
	}
	for _, g := range found {
		if g.Type == RoCEv2 {
			return g, nil
		}
	}
	if len(found) == 0 {
		return GID{}, fmt.Errorf("GID for %s on rdma device %s port %d: %w", addr, device, port, ErrNotFound)
	}
	return found[0], nil
}

// gids reads the entries of which the GID is wanted; of the others nothing but that.
func gids(sys fs.FS, device string, port int, want func(gid [16]byte) bool) ([]GID, error) {
	dir, err := deviceDir(device)
	if err != nil {
		return nil, err
	}
	dir += "/ports/" + strconv.Itoa(port)
	var found []GID
	for i := 0; ; i++ {
		n := strconv.Itoa(i)
		s, err := attribute(sys, dir+"/gids/"+n)
		if errors.Is(err, fs.ErrNotExist) {
			if i > 0 {
				return found, nil
			}
			return nil, fmt.Errorf("rdma device %s port %d: %w", device, port, ErrNotFound)
		}
		if err != nil {
			return nil, err
		}
		var gid [16]byte
		if !parseGroups(s, gid[:]) {
			return nil, damaged(dir+"/gids/"+n, s, "a GID")
		}
		if !want(gid) {
			continue
		}
		kind, err := attribute(sys, dir+"/gid_attrs/types/"+n)
		if absent(err) && !errors.Is(err, fs.ErrNotExist) {
			continue // removed since it was read
		}
		if err != nil {
			return nil, err
		}
		netdev, err := attribute(sys, dir+"/gid_attrs/ndevs/"+n)
		if err != nil && !absent(err) {
			return nil, err
		}
		found = append(found, GID{Index: i, Addr: netip.AddrFrom16(gid).Unmap(), Type: GIDType(kind), NetDev: netdev})
	}
}
