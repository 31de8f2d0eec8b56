// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"errors"
	"io/fs"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func gidTree() tree {
	sys := tree{}
	sys.card([2]string{"mlx5_0", "mlx5_1"})
	soft(sys)
	return sys
}

func TestGIDs(t *testing.T) {
	got, err := GIDs(gidTree(), "mlx5_0", 1)
	if err != nil {
		t.Fatal(err)
	}
	linkLocal := netip.MustParseAddr("fe80::ba3f:d2ff:feaa:bb00")
	want := []GID{
		{0, linkLocal, RoCEv1, "ens1f0np0"},
		{1, linkLocal, RoCEv2, "ens1f0np0"},
		{4, netip.MustParseAddr("10.0.0.1"), RoCEv1, "ens1f0np0"},
		{5, netip.MustParseAddr("10.0.0.1"), RoCEv2, "ens1f0np0"},
		{7, netip.MustParseAddr("fd00::1"), RoCEv2, "net1"},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("GIDs (-want +got):\n%s", diff)
	}
}

func TestFindGID(t *testing.T) {
	for name, test := range map[string]struct {
		device, addr string
		want         int
	}{
		"v2 before v1": {"mlx5_0", "10.0.0.1", 5},
		"mapped":       {"mlx5_0", "::ffff:10.0.0.1", 5},
		"IPv6":         {"mlx5_0", "fd00::1", 7},
		"link local":   {"mlx5_0", "fe80::ba3f:d2ff:feaa:bb00%ens1f0np0", 1},
		"v1 only":      {"mlx5_2", "fe80::ff:fe00:1", 0},
		"last of 1024": {"rxe0", "fd00::2", 1023},
		"none":         {"mlx5_0", "10.0.0.3", -1},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := FindGID(gidTree(), test.device, 1, netip.MustParseAddr(test.addr))
			if test.want < 0 {
				if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), test.addr) {
					t.Errorf("got %+v, %v, want ErrNotFound", got, err)
				}
				return
			}
			if err != nil || got.Index != test.want {
				t.Errorf("got %+v, %v, want index %d", got, err, test.want)
			}
		})
	}
	for _, addr := range []netip.Addr{{}, netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if _, err := FindGID(gidTree(), "mlx5_2", 1, addr); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("got %v for %v", err, addr)
		}
	}
}

func TestGIDErrors(t *testing.T) {
	const dir = pf0 + "/infiniband/mlx5_0/ports/1/"
	for name, test := range map[string]struct {
		device string
		port   int
		damage func(tree)
		want   string
		is     error
	}{
		"no device":    {"mlx5_9", 1, func(tree) {}, "mlx5_9 port 1", ErrNotFound},
		"no port":      {"mlx5_0", 2, func(tree) {}, "mlx5_0 port 2", ErrNotFound},
		"no name":      {"../net", 1, func(tree) {}, "../net", nil},
		"empty name":   {"", 1, func(tree) {}, "name", nil},
		"damaged":      {"mlx5_0", 1, func(t tree) { t.file(dir+"gids/3", "fe80::1\n") }, "gids/3", nil},
		"unread":       {"mlx5_0", 1, func(t tree) { t.file(dir+"gids/3", refuses(syscall.EIO)) }, "gids/3", syscall.EIO},
		"type unread":  {"mlx5_0", 1, func(t tree) { t.file(dir+"gid_attrs/types/4", refuses(syscall.EIO)) }, "types/4", syscall.EIO},
		"no type":      {"mlx5_0", 1, func(t tree) { delete(t, dir+"gid_attrs/types/4") }, "types/4", fs.ErrNotExist},
		"ndev unread":  {"mlx5_0", 1, func(t tree) { t.file(dir+"gid_attrs/ndevs/4", refuses(syscall.EIO)) }, "ndevs/4", syscall.EIO},
		"empty unread": {"mlx5_0", 1, func(t tree) { t.file(dir+"gid_attrs/types/9", refuses(syscall.EIO)) }, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			sys := gidTree()
			test.damage(sys)
			_, err := GIDs(sys, test.device, test.port)
			switch {
			case test.want == "" && err != nil:
				t.Errorf("got %v: an empty entry has no type", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got %v, want an error on %s", err, test.want)
			case test.is != nil && !errors.Is(err, test.is):
				t.Errorf("got %v, which is no %v", err, test.is)
			}
		})
	}
}

// TestGIDRemoved reads a table from which an entry goes between the reading of its GID and its type, and one without interfaces.
func TestGIDRemoved(t *testing.T) {
	sys := gidTree()
	const dir = pf0 + "/infiniband/mlx5_0/ports/1/gid_attrs/"
	sys.file(dir+"types/5", refuses(syscall.EINVAL))
	sys.file(dir+"ndevs/4", refuses(syscall.EINVAL))
	got, err := FindGID(sys, "mlx5_0", 1, netip.MustParseAddr("10.0.0.1"))
	if want := (GID{4, netip.MustParseAddr("10.0.0.1"), RoCEv1, ""}); got != want || err != nil {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}
