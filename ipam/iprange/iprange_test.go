// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package iprange_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/ipam/iprange"
)

func TestParse(t *testing.T) {
	cases := map[string]struct {
		text    string
		want    string // as String gives it
		wantErr string // part of the error
	}{
		"address":              {text: "10.0.0.1", want: "10.0.0.1"},
		"CIDR":                 {text: "10.0.0.0/28", want: "10.0.0.0/28"},
		"range":                {text: "10.0.0.1-10.0.0.9", want: "10.0.0.1-10.0.0.9"},
		"range with spaces":    {text: "10.0.0.1 - 10.0.0.9", want: "10.0.0.1-10.0.0.9"},
		"range that is a CIDR": {text: "10.0.0.0-10.0.0.15", want: "10.0.0.0/28"},
		"range of one":         {text: "10.0.0.1-10.0.0.1", want: "10.0.0.1"},
		"IPv6":                 {text: "fd00::1-fd00::ffff", want: "fd00::1-fd00::ffff"},
		"IPv6, long":           {text: "FD00:0:0::0001", want: "fd00::1"},
		"everything":           {text: "0.0.0.0/0", want: "0.0.0.0/0"},
		"whole IPv6":           {text: "::/0", want: "::/0"},
		"empty":                {text: "", wantErr: "not an IP address"},
		"half a range":         {text: "10.0.0.1-", wantErr: "not an IP address"},
		"three ends":           {text: "10.0.0.1-10.0.0.2-10.0.0.3", wantErr: "not an IP address"},
		"host bits":            {text: "10.0.0.7/28", wantErr: "write 10.0.0.0/28"},
		"/33":                  {text: "10.0.0.0/33", wantErr: "not a CIDR"},
		"mapped":               {text: "::ffff:10.0.0.1", wantErr: "write 10.0.0.1"},
		"mapped CIDR":          {text: "::ffff:10.0.0.0/104", wantErr: "write 10.0.0.0"},
		"mapped end":           {text: "::1-::ffff:10.0.0.1", wantErr: "write 10.0.0.1"},
		"zone":                 {text: "fe80::1%eth0", wantErr: "write fe80::1"},
		"upside down":          {text: "10.0.0.9-10.0.0.1", wantErr: "write 10.0.0.1-10.0.0.9"},
		"mixed":                {text: "10.0.0.1-fd00::1", wantErr: "mixes IPv4 and IPv6"},
		"leading zero":         {text: "10.0.0.01", wantErr: "not an IP address"},
		"range of CIDRs":       {text: "10.0.0.0/24-10.0.1.0/24", wantErr: "not an IP address"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r, err := iprange.Parse(c.text)
			if c.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), c.wantErr) || r.IsValid() {
					t.Fatalf("got %s, %v, want %q", r, err, c.wantErr)
				}
				return
			}
			if err != nil || r.String() != c.want {
				t.Fatalf("got %s, %v, want %s", r, err, c.want)
			}
		})
	}
}

func TestSetAndRanges(t *testing.T) {
	var in []iprange.Range
	for _, s := range []string{"10.0.0.8-10.0.0.9", "10.0.0.1-10.0.0.4", "10.0.0.4-10.0.0.7", "fd00::/127"} {
		r, err := iprange.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		in = append(in, r)
	}
	var got []string
	for _, r := range iprange.Ranges(iprange.Set(append(in, iprange.Range{})...)) {
		got = append(got, r.String())
	}
	if d := cmp.Diff([]string{"10.0.0.1-10.0.0.9", "fd00::/127"}, got); d != "" {
		t.Errorf("ranges (-want +got):\n%s", d)
	}
}

func TestContains(t *testing.T) {
	r := iprange.FromPrefix(netip.MustParsePrefix("255.255.255.0/24"))
	for a, want := range map[string]bool{"255.255.255.255": true, "255.255.254.255": false, "fd00::1": false, "::ffff:255.255.255.1": false} {
		if got := r.Contains(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: got %v, want %v", a, got, want)
		}
	}
	if r.Contains(netip.Addr{}) || (iprange.Range{}).Contains(netip.Addr{}) {
		t.Error("no address is contained")
	}
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"10.0.0.1", "10.0.0.0/28", "10.0.0.1-10.0.0.9", "fd00::1-fd00::ffff", "::ffff:1.2.3.4", "fe80::1%a-b", "::/0", "-", "/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := iprange.Parse(s)
		if err != nil {
			if r.IsValid() {
				t.Fatalf("%q: a range and an error: %v", s, err)
			}
			return
		}
		if !r.IsValid() || r.To().Less(r.From()) || r.From().Is4In6() || r.From().Zone() != "" || r.From().Is4() != r.To().Is4() {
			t.Fatalf("%q: %s-%s", s, r.From(), r.To())
		}
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var again iprange.Range
		if err := json.Unmarshal(b, &again); err != nil || again != r {
			t.Fatalf("%q: %s became %s: %v", s, b, again, err)
		}
		if got := iprange.Ranges(iprange.Set(r)); len(got) != 1 || got[0] != r {
			t.Fatalf("%q: as a set it is %v", s, got)
		}
	})
}
