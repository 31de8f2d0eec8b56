// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/iprange"
)

var (
	ownerA = ipam.Owner{Node: "a", NodeUID: "ua", Session: "sa"}
	ownerB = ipam.Owner{Node: "b", NodeUID: "ub", Session: "sb"}
)

// noon is when the plans are made.
var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func rs(texts ...string) []iprange.Range {
	var out []iprange.Range
	for _, s := range texts {
		r, err := iprange.Parse(s)
		if err != nil {
			panic(err)
		}
		out = append(out, r)
	}
	return out
}

func share(o ipam.Owner, ranges ...string) ipam.Share {
	return ipam.Share{Node: o.Node, NodeUID: o.NodeUID, Session: o.Session, Ranges: rs(ranges...)}
}

func block(slot string, shares ...ipam.Share) ipam.Block {
	p := netip.MustParsePrefix(slot)
	return ipam.Block{Name: ipam.BlockName("p", p), Pool: "p", PoolUID: "u", Slot: p, Shares: shares}
}

func mustPool(t testing.TB, spec ipam.PoolSpec) ipam.Pool {
	t.Helper()
	p, err := ipam.ParsePool(spec)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// text is a block in one line, for comparisons that read well.
func text(b ipam.Block) string {
	var out []string
	for _, s := range b.Shares {
		out = append(out, fmt.Sprintf("%s/%s/%s %v", s.Node, s.NodeUID, s.Session, s.Ranges))
	}
	return strings.Join(out, "; ")
}

func TestMine(t *testing.T) {
	rebooted := ipam.Owner{Node: "a", NodeUID: "ua", Session: "new"}
	reborn := ipam.Owner{Node: "a", NodeUID: "new", Session: "sa"}
	stranger := ipam.Owner{Node: "a", NodeUID: "new", Session: "new"}
	b := block("10.0.0.0/28", share(ownerB, "10.0.0.8/29"), share(ownerA, "10.0.0.1", "10.0.0.0"), share(ownerA, "10.0.0.2/31"))
	for title, tc := range map[string]struct {
		owner ipam.Owner
		want  string
	}{
		"all of ours in one":         {ownerA, "a/ua/sa [10.0.0.0/30]"},
		"rebooted: as the API says":  {rebooted, "a/ua/sa [10.0.0.0/30]"},
		"node object made again":     {reborn, "a/ua/sa [10.0.0.0/30]"},
		"another node of that name":  {stranger, ""},
		"another node":               {ownerB, "b/ub/sb [10.0.0.8/29]"},
		"a node that has none of it": {ipam.Owner{Node: "c", NodeUID: "ua", Session: "sa"}, ""},
	} {
		t.Run(title, func(t *testing.T) {
			got, ok := Mine(tc.owner, b)
			if ok != (tc.want != "") {
				t.Fatalf("found: %v", ok)
			}
			if ok && text(ipam.Block{Shares: []ipam.Share{got}}) != tc.want {
				t.Errorf("got %s, want %s", text(ipam.Block{Shares: []ipam.Share{got}}), tc.want)
			}
		})
	}
}

func TestJoinAndLeave(t *testing.T) {
	fenced := ipam.Owner{Node: "a", NodeUID: "ua", Session: "new"}
	two := block("10.0.0.0/28", share(ownerA, "10.0.0.0/30"), share(ownerB, "10.0.0.8/29"))
	for title, tc := range map[string]struct {
		got  ipam.Block
		want string
	}{
		"first share":         {join(block("10.0.0.0/28"), ownerA, rs("10.0.0.1")), "a/ua/sa [10.0.0.1/32]"},
		"more to a share":     {join(two, ownerA, rs("10.0.0.4/30")), "a/ua/sa [10.0.0.0/29]; b/ub/sb [10.0.0.8/29]"},
		"session with it":     {join(two, fenced, nil), "a/ua/new [10.0.0.0/30]; b/ub/sb [10.0.0.8/29]"},
		"what is there":       {join(two, ownerA, rs("10.0.0.1")), "a/ua/sa [10.0.0.0/30]; b/ub/sb [10.0.0.8/29]"},
		"all of a share away": {leave(two, ownerA, nil, noon), "b/ub/sb [10.0.0.8/29]"},
		"part of a share":     {leave(two, ownerA, rs("10.0.0.0/31"), noon), "a/ua/sa [10.0.0.2/31]; b/ub/sb [10.0.0.8/29]"},
		"what is another's":   {leave(two, ownerA, rs("10.0.0.8"), noon), "a/ua/sa [10.0.0.0/30]; b/ub/sb [10.0.0.8/29]"},
		"every part":          {leave(two, ownerA, rs("10.0.0.0/28"), noon), "b/ub/sb [10.0.0.8/29]"},
	} {
		t.Run(title, func(t *testing.T) {
			if got := text(tc.got); got != strings.ReplaceAll(tc.want, "/32", "") {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
	if b := leave(block("10.0.0.0/28", share(ownerA, "10.0.0.0/28")), ownerA, nil, noon); b.Name != "" {
		t.Errorf("the last share left %v", b)
	}
	if got, want := text(two), "a/ua/sa [10.0.0.0/30]; b/ub/sb [10.0.0.8/29]"; got != want {
		t.Errorf("the block was changed to %s", got)
	}
}

func TestWalk(t *testing.T) {
	for title, spec := range map[string]ipam.PoolSpec{
		"one slot":   {Name: "p", IPv4: &ipam.SubnetSpec{Subnet: "10.0.0.0/26"}},
		"two slots":  {Name: "p", IPv4: &ipam.SubnetSpec{Subnet: "10.0.0.0/25"}},
		"many":       {Name: "p", IPv4: &ipam.SubnetSpec{Subnet: "10.0.0.0/18", BlockSize: 16}},
		"odd number": {Name: "p", IPv4: &ipam.SubnetSpec{Subnet: "10.0.0.0/22", BlockSize: 16, Ranges: []string{"10.0.0.0-10.0.0.250", "10.0.2.3-10.0.2.50"}}},
	} {
		t.Run(title, func(t *testing.T) {
			s := mustPool(t, spec).Subnets[0]
			n := int(s.SlotCount())
			seen := map[netip.Prefix]bool{}
			for _, slot := range newWalk("node", "p", s).slots("p", n, nil) {
				seen[slot] = true
			}
			if len(seen) != n {
				t.Errorf("visited %d of %d slots", len(seen), n)
			}
		})
	}
	t.Run("skip", func(t *testing.T) {
		s := mustPool(t, ipam.PoolSpec{Name: "p", IPv4: &ipam.SubnetSpec{Subnet: "10.0.0.0/24"}}).Subnets[0]
		w := newWalk("node", "p", s)
		all := w.slots("p", 4, nil)
		got := w.slots("p", 4, map[string]bool{ipam.BlockName("p", all[0]): true, ipam.BlockName("p", all[2]): true})
		if !slices.Equal(got, []netip.Prefix{all[1], all[3]}) {
			t.Errorf("got %v of %v", got, all)
		}
	})
	t.Run("nodes start apart", func(t *testing.T) {
		s := mustPool(t, ipam.PoolSpec{Name: "p", IPv4: &ipam.SubnetSpec{Subnet: "10.0.0.0/16"}}).Subnets[0]
		first := map[netip.Prefix]int{}
		for i := range 512 {
			first[newWalk(fmt.Sprintf("node-%03d", i), "p", s).slots("p", 1, nil)[0]]++
		}
		if len(first) < 350 { // 403 on average where 512 nodes choose one of 1,024 slots at random
			t.Errorf("512 nodes start at %d of %d slots", len(first), s.SlotCount())
		}
	})
	t.Run("IPv6 slash 64", func(t *testing.T) {
		s := mustPool(t, ipam.PoolSpec{Name: "p", IPv6: &ipam.SubnetSpec{Subnet: "fd00::/64"}}).Subnets[0]
		if got := newWalk("node", "p", s).slots("p", 3, nil); len(got) != 3 || got[0] == got[1] {
			t.Errorf("got %v", got)
		}
	})
}

func TestCandidates(t *testing.T) {
	pool := mustPool(t, ipam.PoolSpec{Name: "p", UID: "u", IPv4: &ipam.SubnetSpec{Subnet: "10.0.0.0/26", BlockSize: 16, Reserved: []string{"10.0.0.8/29"}}})
	full := block("10.0.0.16/28", share(ownerB, "10.0.0.16/28"))
	for title, tc := range map[string]struct {
		blocks []ipam.Block
		held   string
		want   []string // slots; those of free slots in any order
		err    error
	}{
		"empty pool": {want: []string{"10.0.0.0/28", "10.0.0.16/28", "10.0.0.32/28", "10.0.0.48/28"}},
		"free slots before parts of blocks": {
			blocks: []ipam.Block{full, block("10.0.0.32/28", share(ownerB, "10.0.0.32")), block("10.0.0.48/28", share(ownerB, "10.0.0.48/29"))},
			want:   []string{"10.0.0.0/28", "10.0.0.32/28", "10.0.0.48/28"}},
		"own share first": {
			blocks: []ipam.Block{full, block("10.0.0.32/28", share(ownerA, "10.0.0.32/28")), block("10.0.0.48/28", share(ownerB, "10.0.0.48/28"))},
			want:   []string{"10.0.0.32/28", "10.0.0.0/28"}},
		"a static address is no share to lease from": {
			blocks: []ipam.Block{full, block("10.0.0.0/28", share(ownerA, "10.0.0.9")), block("10.0.0.32/28", share(ownerB, "10.0.0.32/28")), block("10.0.0.48/28", share(ownerB, "10.0.0.48/28"))},
			want:   []string{"10.0.0.0/28"}},
		"full, the reserved part unowned": {
			blocks: []ipam.Block{full, block("10.0.0.0/28", share(ownerB, "10.0.0.1-10.0.0.7")), block("10.0.0.32/28", share(ownerA, "10.0.0.32/28")), block("10.0.0.48/28", share(ownerB, "10.0.0.48/28"))},
			held:   "p.10-0-0-32"},
		"another pool's block": {blocks: []ipam.Block{{Name: "p.10-0-0-0", Pool: "p", PoolUID: "old", Slot: netip.MustParsePrefix("10.0.0.0/28")}}, err: ipam.ErrPoolClosed},
	} {
		t.Run(title, func(t *testing.T) {
			var objects []v1alpha1.IPBlock
			for _, b := range tc.blocks {
				objects = append(objects, *v1alpha1.FromBlock(b))
			}
			found, err := candidates(ownerA, pool, newWalk("a", "p", pool.Subnets[0]), objects, map[string]bool{tc.held: true}, noon)
			if !errors.Is(err, tc.err) {
				t.Fatal(err)
			}
			var got []string
			for _, f := range found {
				got = append(got, f.slot.String())
			}
			if title == "empty pool" {
				slices.Sort(got)
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
	t.Run("unreadable and dying blocks are taken", func(t *testing.T) {
		bad, dying := v1alpha1.FromBlock(block("10.0.0.0/28")), v1alpha1.FromBlock(block("10.0.0.16/28"))
		bad.Spec.Slot = "all"
		dying.DeletionTimestamp = &metav1.Time{}
		found, err := candidates(ownerA, pool, newWalk("a", "p", pool.Subnets[0]), []v1alpha1.IPBlock{*bad, *dying}, nil, noon)
		if err != nil || len(found) != 2 {
			t.Errorf("got %v, %v; want the other two slots", found, err)
		}
	})
}

func TestCheckBlocks(t *testing.T) {
	good := []ipam.Block{block("10.0.0.0/28", share(ownerA, "10.0.0.0/29"), share(ownerB, "10.0.0.8/29")), block("10.0.0.16/28", share(ownerA, "10.0.0.16/28"))}
	if err := CheckBlocks(good); err != nil {
		t.Error(err)
	}
	wide := block("10.0.0.0/27", share(ownerB, "10.0.0.0/27"))
	wide.Name, wide.Pool = "q.10-0-0-0", "q"
	for title, blocks := range map[string][]ipam.Block{
		"two pools":          append(slices.Clone(good), wide),
		"two in one block":   {block("10.0.0.0/28", share(ownerA, "10.0.0.0/29"), share(ownerB, "10.0.0.7"))},
		"far apart in order": {wide, block("10.0.0.0/28", share(ownerA, "10.0.0.1")), block("10.0.0.16/28", share(ownerA, "10.0.0.31"))},
	} {
		if err := CheckBlocks(blocks); !errors.Is(err, ipam.ErrInvalid) {
			t.Errorf("%s: got %v", title, err)
		}
	}
}

func TestCheckCluster(t *testing.T) {
	pool := func(name, domain string) v1alpha1.IPPool {
		return v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.IPPoolSpec{Domain: domain}}
	}
	other := block("10.0.0.0/28", share(ownerB, "10.0.0.1"))
	other.Name, other.Pool = "q.10-0-0-0", "q"
	blocks := []v1alpha1.IPBlock{*v1alpha1.FromBlock(block("10.0.0.0/28", share(ownerA, "10.0.0.0/29"))), *v1alpha1.FromBlock(other)}
	if err := CheckCluster([]v1alpha1.IPPool{pool("p", "x"), pool("q", "y")}, blocks); err != nil {
		t.Errorf("two domains: %v", err)
	}
	if err := CheckCluster([]v1alpha1.IPPool{pool("p", "x"), pool("q", "x")}, blocks); err == nil {
		t.Error("one domain: no error")
	}
}
