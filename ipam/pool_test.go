// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package ipam_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/iprange"
)

func spec4(change func(*ipam.SubnetSpec)) ipam.PoolSpec {
	s := ipam.PoolSpec{Name: "rail0", IPv4: &ipam.SubnetSpec{Subnet: "10.20.0.0/24"}}
	change(s.IPv4)
	return s
}

func spec6(change func(*ipam.SubnetSpec)) ipam.PoolSpec {
	s := ipam.PoolSpec{Name: "rail0", IPv6: &ipam.SubnetSpec{Subnet: "fd00:20::/64"}}
	change(s.IPv6)
	return s
}

func TestParsePoolRefuses(t *testing.T) {
	subnet4 := func(v string) ipam.PoolSpec { return spec4(func(s *ipam.SubnetSpec) { s.Subnet = v }) }
	subnet6 := func(v string) ipam.PoolSpec { return spec6(func(s *ipam.SubnetSpec) { s.Subnet = v }) }
	named := func(n string) ipam.PoolSpec {
		s := spec4(func(*ipam.SubnetSpec) {})
		s.Name = n
		return s
	}
	routed := func(r ...ipam.RouteSpec) ipam.PoolSpec {
		s := spec4(func(s *ipam.SubnetSpec) { s.Gateway = "10.20.0.1" })
		s.Routes = r
		return s
	}
	long := -time.Second
	cases := map[string]struct {
		spec      ipam.PoolSpec
		wantField string
		wantFix   string // part of the detail
	}{
		"no family":                 {ipam.PoolSpec{Name: "a"}, "spec", "at least one"},
		"no name":                   {named(""), "metadata.name", "use 1 to 63"},
		"64 characters":             {named(strings.Repeat("a", 64)), "metadata.name", "64 characters: use 1 to 63"},
		"upper case":                {named("Rail0"), "metadata.name", "a-z"},
		"zero byte":                 {named("rail\x000"), "metadata.name", "a-z"},
		"underscore":                {named("rail_0"), "metadata.name", "a-z"},
		"dash first":                {named("-rail"), "metadata.name", "a-z"},
		"dash before a dot":         {named("rail-.a"), "metadata.name", "a-z"},
		"two dots":                  {named("rail..a"), "metadata.name", "a-z"},
		"negative cooldown":         {ipam.PoolSpec{Name: "a", IPv4: &ipam.SubnetSpec{Subnet: "10.0.0.0/8"}, Cooldown: &long}, "spec.cooldownSeconds", "use 0"},
		"negative watermark":        {ipam.PoolSpec{Name: "a", IPv4: &ipam.SubnetSpec{Subnet: "10.0.0.0/8"}, Watermarks: ipam.Watermarks{Low: new(-1)}}, "spec.watermarks.low", "negative"},
		"watermarks upside down":    {ipam.PoolSpec{Name: "a", IPv4: &ipam.SubnetSpec{Subnet: "10.0.0.0/8"}, Watermarks: ipam.Watermarks{Low: new(3), High: new(2)}}, "spec.watermarks.high", "less than low"},
		"subnet missing":            {subnet4(""), "spec.ipv4.subnet", "such as 10.20.0.0/16"},
		"subnet malformed":          {subnet4("10.20.0.0/33"), "spec.ipv4.subnet", "not a CIDR"},
		"subnet without length":     {subnet4("10.20.0.0"), "spec.ipv4.subnet", "not a CIDR"},
		"leading zero":              {subnet4("10.020.0.0/16"), "spec.ipv4.subnet", "not a CIDR"},
		"leading zero in length":    {subnet4("10.20.0.0/08"), "spec.ipv4.subnet", "not a CIDR"},
		"host bits":                 {subnet4("10.20.0.7/24"), "spec.ipv4.subnet", "write 10.20.0.0/24"},
		"/0":                        {subnet4("0.0.0.0/0"), "spec.ipv4.subnet", "use /8 or longer"},
		"IPv6 /0":                   {subnet6("::/0"), "spec.ipv6.subnet", "use /8 or longer"},
		"/7":                        {subnet4("10.0.0.0/7"), "spec.ipv4.subnet", "use /8 or longer"},
		"IPv6 under ipv4":           {subnet4("fd00::/64"), "spec.ipv4.subnet", "move it to spec.ipv6"},
		"IPv4 under ipv6":           {subnet6("10.20.0.0/16"), "spec.ipv6.subnet", "move it to spec.ipv4"},
		"mapped under ipv6":         {subnet6("::ffff:10.20.0.0/112"), "spec.ipv6.subnet", "write 10.20.0.0"},
		"mapped under ipv4":         {subnet4("::ffff:10.20.0.0/112"), "spec.ipv4.subnet", "write 10.20.0.0"},
		"mapped as hex":             {subnet6("::ffff:0a14:0/112"), "spec.ipv6.subnet", "write 10.20.0.0"},
		"zone":                      {subnet6("fe80::%eth0/64"), "spec.ipv6.subnet", "not a CIDR"},
		"multicast":                 {subnet4("224.0.0.0/24"), "spec.ipv4.subnet", "multicast"},
		"loopback":                  {subnet4("127.0.0.0/8"), "spec.ipv4.subnet", "loopback"},
		"link-local":                {subnet6("fe80::/64"), "spec.ipv6.subnet", "link-local"},
		"multicast IPv6":            {subnet6("ff02::/64"), "spec.ipv6.subnet", "multicast"},
		"gateway malformed":         {spec4(func(s *ipam.SubnetSpec) { s.Gateway = "10.20.0" }), "spec.ipv4.gateway", "not an IP"},
		"gateway outside":           {spec4(func(s *ipam.SubnetSpec) { s.Gateway = "10.21.0.1" }), "spec.ipv4.gateway", "outside of the subnet 10.20.0.0/24"},
		"gateway of another family": {spec4(func(s *ipam.SubnetSpec) { s.Gateway = "fd00::1" }), "spec.ipv4.gateway", "outside"},
		"gateway mapped":            {spec4(func(s *ipam.SubnetSpec) { s.Gateway = "::ffff:10.20.0.1" }), "spec.ipv4.gateway", "write 10.20.0.1"},
		"range outside":             {spec4(func(s *ipam.SubnetSpec) { s.Ranges = []string{"10.20.0.5", "10.20.1.0-10.20.1.9"} }), "spec.ipv4.ranges[1]", "not inside of the subnet"},
		"range half outside":        {spec4(func(s *ipam.SubnetSpec) { s.Ranges = []string{"10.20.0.250-10.20.1.3"} }), "spec.ipv4.ranges[0]", "not inside"},
		"range upside down":         {spec4(func(s *ipam.SubnetSpec) { s.Ranges = []string{"10.20.0.9-10.20.0.3"} }), "spec.ipv4.ranges[0]", "write 10.20.0.3-10.20.0.9"},
		"range of two families":     {spec4(func(s *ipam.SubnetSpec) { s.Ranges = []string{"10.20.0.9-fd00::"} }), "spec.ipv4.ranges[0]", "mixes"},
		"range mapped":              {spec4(func(s *ipam.SubnetSpec) { s.Ranges = []string{"::ffff:10.20.0.9-10.20.0.12"} }), "spec.ipv4.ranges[0]", "write 10.20.0.9"},
		"range empty":               {spec4(func(s *ipam.SubnetSpec) { s.Ranges = []string{""} }), "spec.ipv4.ranges[0]", "not an IP"},
		"exclude outside":           {spec4(func(s *ipam.SubnetSpec) { s.Exclude = []string{"10.0.0.0/8"} }), "spec.ipv4.exclude[0]", "not inside"},
		"reserved outside":          {spec6(func(s *ipam.SubnetSpec) { s.Reserved = []string{"fd00:21::/120"} }), "spec.ipv6.reserved[0]", "not inside"},
		"everything excluded":       {spec4(func(s *ipam.SubnetSpec) { s.Exclude = []string{"10.20.0.0/24"} }), "spec.ipv4.ranges", "leave no address"},
		"only the gateway":          {spec4(func(s *ipam.SubnetSpec) { s.Gateway, s.Ranges = "10.20.0.1", []string{"10.20.0.1"} }), "spec.ipv4.ranges", "leave no address"},
		"block size 3":              {spec4(func(s *ipam.SubnetSpec) { s.BlockSize = 3 }), "spec.ipv4.blockSize", "power of two"},
		"block size negative":       {spec4(func(s *ipam.SubnetSpec) { s.BlockSize = -64 }), "spec.ipv4.blockSize", "power of two"},
		"block size huge":           {spec4(func(s *ipam.SubnetSpec) { s.BlockSize = 8192 }), "spec.ipv4.blockSize", "from 1 to 4096"},
		"route malformed":           {routed(ipam.RouteSpec{Dst: "10.0.0.0"}), "spec.routes[0].dst", "not a CIDR"},
		"route of another family":   {routed(ipam.RouteSpec{Dst: "fd00::/8"}), "spec.routes[0].dst", "does not have"},
		"route via a stranger":      {routed(ipam.RouteSpec{Dst: "10.0.0.0/8"}, ipam.RouteSpec{Dst: "10.1.0.0/16", Via: "10.21.0.1"}), "spec.routes[1].via", "not a neighbour"},
		"route via nonsense":        {routed(ipam.RouteSpec{Dst: "10.0.0.0/8", Via: "gw"}), "spec.routes[0].via", "not an IP"},
		"route twice":               {routed(ipam.RouteSpec{Dst: "10.0.0.0/8"}, ipam.RouteSpec{Dst: "10.0.0.0/8", Via: "10.20.0.2"}), "spec.routes[1].dst", "already"},
		"default route without gateway": {func() ipam.PoolSpec {
			s := spec4(func(*ipam.SubnetSpec) {})
			s.DefaultRoute = true
			return s
		}(), "spec.defaultRoute", "needs a gateway"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p, err := ipam.ParsePool(c.spec)
			var field *ipam.FieldError
			if !errors.Is(err, ipam.ErrInvalid) || !errors.As(err, &field) {
				t.Fatalf("got %+v, %v, want a FieldError", p, err)
			}
			if field.Field != c.wantField || !strings.Contains(field.Detail, c.wantFix) {
				t.Errorf("got %q: %q\nwant %q: ...%s...", field.Field, field.Detail, c.wantField, c.wantFix)
			}
		})
	}
}

// All that is wrong is said at once, so nobody has to edit a pool five times.
func TestParsePoolSaysAll(t *testing.T) {
	_, err := ipam.ParsePool(ipam.PoolSpec{
		Name: "A",
		IPv4: &ipam.SubnetSpec{Subnet: "10.20.0.0/24", Gateway: "10.21.0.1", Ranges: []string{"x"}, BlockSize: 5},
		IPv6: &ipam.SubnetSpec{Subnet: "::/0"},
	})
	var got []string
	for line := range strings.SplitSeq(fmt.Sprint(err), "\n") {
		field, _, _ := strings.Cut(line, ": ")
		got = append(got, field)
	}
	want := []string{"metadata.name", "spec.ipv4.gateway", "spec.ipv4.ranges[0]", "spec.ipv4.blockSize", "spec.ipv6.subnet"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("fields (-want +got):\n%s", d)
	}
}

func TestParsePoolLeasable(t *testing.T) {
	cases := map[string]struct {
		spec                       ipam.PoolSpec
		wantLeasable, wantReserved []string
		wantSlots                  uint64
		wantBlockSize              int
	}{
		"whole IPv4 subnet": {spec4(func(*ipam.SubnetSpec) {}), []string{"10.20.0.1-10.20.0.254"}, nil, 4, 64},
		"gateway":           {spec4(func(s *ipam.SubnetSpec) { s.Gateway = "10.20.0.1" }), []string{"10.20.0.2-10.20.0.254"}, nil, 4, 64},
		"/31 (RFC 3021)":    {spec4(func(s *ipam.SubnetSpec) { s.Subnet = "10.20.0.0/31" }), []string{"10.20.0.0/31"}, nil, 1, 2},
		"/30":               {spec4(func(s *ipam.SubnetSpec) { s.Subnet = "10.20.0.0/30" }), []string{"10.20.0.1-10.20.0.2"}, nil, 1, 4},
		"/32":               {spec4(func(s *ipam.SubnetSpec) { s.Subnet = "10.20.0.1/32" }), []string{"10.20.0.1"}, nil, 1, 1},
		"/128":              {spec6(func(s *ipam.SubnetSpec) { s.Subnet = "fd00::1/128" }), []string{"fd00::1"}, nil, 1, 1},
		"/127 (RFC 6164)":   {spec6(func(s *ipam.SubnetSpec) { s.Subnet = "fd00::/127" }), []string{"fd00::/127"}, nil, 1, 2},
		"/64 without ::":    {spec6(func(*ipam.SubnetSpec) {}), []string{"fd00:20::1-fd00:20::ffff:ffff:ffff:ffff"}, nil, 1 << 32, 64},
		"ranges and exclude": {spec4(func(s *ipam.SubnetSpec) {
			s.Ranges, s.Exclude = []string{"10.20.0.16/28", "10.20.0.16/29"}, []string{"10.20.0.20"}
		}), []string{"10.20.0.16/30", "10.20.0.21-10.20.0.31"}, nil, 1, 64},
		"two ranges, one slot": {spec4(func(s *ipam.SubnetSpec) {
			s.Ranges, s.BlockSize = []string{"10.20.0.1-10.20.0.3", "10.20.0.8-10.20.0.20"}, 16
		}),
			[]string{"10.20.0.1-10.20.0.3", "10.20.0.8-10.20.0.20"}, nil, 2, 16},
		"reserved": {spec4(func(s *ipam.SubnetSpec) {
			s.Ranges, s.Reserved = []string{"10.20.0.0/28"}, []string{"10.20.0.8/29", "10.20.0.255"}
		}), []string{"10.20.0.1-10.20.0.7"}, []string{"10.20.0.8/29"}, 1, 64},
		"by name only": {spec4(func(s *ipam.SubnetSpec) {
			s.Ranges, s.Reserved = []string{"10.20.0.4"}, []string{"10.20.0.4"}
		}), nil, []string{"10.20.0.4"}, 0, 64},
		// A run of exactly 2^64 slots: their number does not fit 64 bits.
		"2^64 slots": {spec6(func(s *ipam.SubnetSpec) {
			s.Subnet, s.Ranges, s.BlockSize = "fd00::/60", []string{"fd00:0:0:1::/64"}, 1
		}), []string{"fd00:0:0:1::/64"}, nil, 1 << 32, 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p, err := ipam.ParsePool(c.spec)
			if err != nil {
				t.Fatal(err)
			}
			s := p.Subnets[0]
			if d := cmp.Diff(c.wantLeasable, texts(s.Leasable)); d != "" {
				t.Errorf("leasable (-want +got):\n%s", d)
			}
			if d := cmp.Diff(c.wantReserved, texts(s.Reserved)); d != "" {
				t.Errorf("reserved (-want +got):\n%s", d)
			}
			if s.SlotCount() != c.wantSlots || s.BlockSize != c.wantBlockSize {
				t.Errorf("got %d slots of %d, want %d of %d", s.SlotCount(), s.BlockSize, c.wantSlots, c.wantBlockSize)
			}
			checkSlots(t, s)
		})
	}
}

// checkSlots looks at the first slots and the last: they ascend, are aligned, and each has something to lease.
func checkSlots(t *testing.T, s ipam.Subnet) {
	t.Helper()
	n := s.SlotCount()
	var last netip.Prefix
	for i := range min(n, 300) {
		slot := s.SlotAt(i)
		if s.Slot(slot.Addr()) != slot || len(s.LeasableIn(slot)) == 0 || i > 0 && !last.Addr().Less(slot.Addr()) {
			t.Fatalf("slot %d is %s after %s, with %v to lease", i, slot, last, s.LeasableIn(slot))
		}
		last = slot
	}
	if n > 0 {
		if slot := s.SlotAt(n - 1); len(s.LeasableIn(slot)) == 0 {
			t.Errorf("nothing to lease in the last slot %s", slot)
		}
	}
}

func texts(ranges []iprange.Range) (out []string) {
	for _, r := range ranges {
		out = append(out, r.String())
	}
	return out
}

func TestPoolJSON(t *testing.T) {
	s := spec4(func(s *ipam.SubnetSpec) { s.Gateway, s.Reserved = "10.20.0.1", []string{"10.20.0.240/28"} })
	s.IPv6 = spec6(func(*ipam.SubnetSpec) {}).IPv6
	s.Routes = []ipam.RouteSpec{{Dst: "10.0.0.0/8"}, {Dst: "fd00::/8", Via: "fd00:20::1"}}
	want, err := ipam.ParsePool(s)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got ipam.Pool
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmp.Comparer(func(a, b iprange.Range) bool { return a == b })); d != "" {
		t.Errorf("after a round trip (-want +got):\n%s", d)
	}
}

func TestBlockName(t *testing.T) {
	cases := map[string]struct{ pool, slot, want string }{
		"IPv4":      {"rail0", "10.20.0.64/26", "rail0.10-20-0-64"},
		"IPv6":      {"rail0", "fd00:20::40/122", "rail0.fd00-20-0-0-0-0-0-40"},
		"all zeros": {"a.b", "::/120", "a.b.0-0-0-0-0-0-0-0"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := ipam.BlockName(c.pool, netip.MustParsePrefix(c.slot)); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func FuzzParsePool(f *testing.F) {
	f.Add("rail0", "10.20.0.0/24", "10.20.0.1", "10.20.0.16/28", "10.20.0.20", "10.20.0.240/28", 16, "fd00:20::/64", "10.0.0.0/8", "")
	f.Add("r", "10.0.0.0/8", "", "10.0.0.1-10.255.255.254", "10.7.0.0/16", "", 4096, "fd00::/127", "::/0", "fd00::1")
	f.Add("r", "0.0.0.0/0", "::ffff:1.2.3.4", "1-2", "/", "-", -1, "::/0", "0.0.0.0/0", "::")
	f.Fuzz(func(t *testing.T, name, v4, gw, rng, exclude, reserved string, size int, v6, dst, via string) {
		list := func(s string) []string {
			if s == "" {
				return nil
			}
			return strings.Split(s, ",")
		}
		p, err := ipam.ParsePool(ipam.PoolSpec{
			Name: name, Routes: []ipam.RouteSpec{{Dst: dst, Via: via}},
			IPv4: &ipam.SubnetSpec{Subnet: v4, Gateway: gw, Ranges: list(rng), Exclude: list(exclude), Reserved: list(reserved), BlockSize: size},
			IPv6: &ipam.SubnetSpec{Subnet: v6, BlockSize: size},
		})
		if err != nil {
			if !errors.Is(err, ipam.ErrInvalid) || err.Error() == "" {
				t.Fatalf("an error that is no ErrInvalid: %v", err)
			}
			return
		}
		for _, s := range p.Subnets {
			checkSlots(t, s)
			for _, r := range slices.Concat(s.Leasable, s.Reserved) {
				if !s.Prefix.Contains(r.From()) || !s.Prefix.Contains(r.To()) || s.Gateway.IsValid() && r.Contains(s.Gateway) {
					t.Fatalf("%s is not the pool's to give", r)
				}
			}
			for _, r := range s.Reserved {
				if slices.ContainsFunc(s.Leasable, r.Overlaps) {
					t.Fatalf("%s is reserved and leasable", r)
				}
			}
		}
	})
}
