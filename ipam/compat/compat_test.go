// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package compat

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/railyard-net/railyard/ipam"
)

func whereabouts(keys string) string {
	return `{"cniVersion":"1.0.0","name":"net-a","type":"macvlan","ipam":{"type":"whereabouts"` + keys + `}}`
}

// outline is a call in a few words: each pool with what it is made of, and what else the result says.
func outline(c Call) string {
	var out []string
	for _, p := range c.Pools {
		s := p.Name
		if r := p.Range; r != nil {
			s = r.Subnet.String()
			if r.Only.IsValid() {
				s += " only " + r.Only.String()
			}
			if len(r.Exclude) > 0 {
				s += fmt.Sprint(" not ", r.Exclude)
			}
			if r.BlockSize > 0 {
				s += fmt.Sprint(" by ", r.BlockSize)
			}
			if r.Network != "" {
				s += " of " + r.Network
			}
		}
		if p.Gateway.IsValid() {
			s += " via " + p.Gateway.String()
		}
		if len(p.Static) > 0 {
			s += fmt.Sprint(" static ", p.Static)
		}
		out = append(out, s)
	}
	for _, r := range c.Routes {
		out = append(out, "route "+r.Dst.String()+" "+r.GW.String())
	}
	if len(c.DNS.Nameservers) > 0 {
		out = append(out, fmt.Sprint("dns ", c.DNS.Nameservers))
	}
	return strings.Join(out, "; ")
}

func TestWhereabouts(t *testing.T) {
	for name, tc := range map[string]struct {
		keys, more, args, defaults string
		want                       string
		wantIgnored                string
		wantErr                    string // the field
	}{
		"range":                      {keys: `,"range":"10.20.0.0/16"`, want: "10.20.0.0/16"},
		"range with host bits":       {keys: `,"range":"10.20.0.9/16"`, want: "10.20.0.0/16"},
		"range from-to":              {keys: `,"range":"10.20.0.10-10.20.0.19/16"`, want: "10.20.0.0/16 only 10.20.0.10-10.20.0.19"},
		"range_start, range_end":     {keys: `,"range":"10.20.0.0/16","range_start":"10.20.0.10","range_end":"10.20.0.19"`, want: "10.20.0.0/16 only 10.20.0.10-10.20.0.19"},
		"range_start alone":          {keys: `,"range":"10.20.0.0/24","range_start":"10.20.0.128"`, want: "10.20.0.0/24 only 10.20.0.128/25"},
		"no range":                   {wantErr: "ipam.range"},
		"range is no CIDR":           {keys: `,"range":"10.20.0.0"`, wantErr: "ipam.range"},
		"range is a number":          {keys: `,"range":10`, wantErr: "ipam.range"},
		"a range of one":             {keys: `,"range":"10.20.0.1/32"`, want: "10.20.0.1/32"},
		"start outside":              {keys: `,"range":"10.20.0.0/16","range_start":"10.21.0.1"`, wantErr: "ipam.range_start"},
		"end before start":           {keys: `,"range":"10.20.0.0/16","range_start":"10.20.0.9","range_end":"10.20.0.2"`, wantErr: "ipam.range_end"},
		"exclude":                    {keys: `,"range":"10.20.0.0/16","exclude":["10.20.0.1/28","10.20.0.99","10.20.0.40-10.20.0.47","10.99.0.0/16"]`, want: "10.20.0.0/16 not [10.20.0.0/28 10.20.0.40/29 10.20.0.99]"},
		"exclude is no range":        {keys: `,"range":"10.20.0.0/16","exclude":["ten"]`, wantErr: "ipam.exclude[0]"},
		"ipRanges":                   {keys: `,"ipRanges":[{"range":"10.20.0.0/16","exclude":["10.20.0.0/28"]},{"range":"fd00:1::/64","range_end":"fd00:1::ff"}]`, want: "10.20.0.0/16 not [10.20.0.0/28]; fd00:1::/64 only fd00:1::/120"},
		"range and ipRanges":         {keys: `,"range":"10.20.0.0/16","ipRanges":[{"range":"fd00:1::/64"}]`, want: "10.20.0.0/16; fd00:1::/64"},
		"ipRanges, one wrong":        {keys: `,"range":"10.20.0.0/16","ipRanges":[{"range":"fd00:1::"}]`, wantErr: "ipam.ipRanges[0].range"},
		"ipRanges, one twice":        {keys: `,"ipRanges":[{"range":"10.20.0.0/16"},{"range":"10.20.0.1/16"}]`, wantErr: "ipam.ipRanges[1].range"},
		"too many":                   {keys: `,"ipRanges":[` + strings.Repeat(`{"range":"10.20.0.0/16"},`, 8) + `{"range":"10.20.0.0/16"}]`, wantErr: "ipam.ipRanges"},
		"gateway":                    {keys: `,"range":"10.20.0.0/16","gateway":"10.20.0.1"`, want: "10.20.0.0/16 via 10.20.0.1"},
		"gateway of its family only": {keys: `,"ipRanges":[{"range":"10.20.0.0/16"},{"range":"fd00:1::/64"}],"gateway":"fd00:1::1"`, want: "10.20.0.0/16; fd00:1::/64 via fd00:1::1"},
		"gateway of its subnet only": {keys: `,"ipRanges":[{"range":"10.20.0.0/16"},{"range":"10.30.0.0/16"}],"gateway":"10.30.0.1"`, want: "10.20.0.0/16; 10.30.0.0/16 via 10.30.0.1"},
		"gateway elsewhere":          {keys: `,"range":"10.20.0.0/16","gateway":"10.99.0.1"`, want: "10.20.0.0/16 via 10.99.0.1"},
		"gateway is no address":      {keys: `,"range":"10.20.0.0/16","gateway":"router"`, wantErr: "ipam.gateway"},
		"routes":                     {keys: `,"range":"10.20.0.0/16","routes":[{"dst":"0.0.0.0/0"},{"dst":"10.9.0.0/16","gw":"10.20.0.3"}]`, want: "10.20.0.0/16; route 0.0.0.0/0 <nil>; route 10.9.0.0/16 10.20.0.3"},
		"routes without dst":         {keys: `,"range":"10.20.0.0/16","routes":[{"gw":"10.20.0.1"}]`, wantErr: "ipam.routes[0].dst"},
		"dns":                        {keys: `,"range":"10.20.0.0/16","dns":{"nameservers":["10.20.0.2"]}`, want: "10.20.0.0/16; dns [10.20.0.2]"},
		"network_name":               {keys: `,"range":"10.20.0.0/16","network_name":"rail0"`, want: "10.20.0.0/16 of rail0"},
		"node_slice_size":            {keys: `,"range":"10.20.0.0/16","node_slice_size":"/24"`, want: "10.20.0.0/16 by 256"},
		"node_slice_size, no slash":  {keys: `,"range":"10.20.0.0/16","node_slice_size":"26"`, want: "10.20.0.0/16 by 64"},
		"node_slice_size, IPv6":      {keys: `,"range":"fd00:1::/64","node_slice_size":"/120"`, want: "fd00:1::/64 by 256"},
		"node_slice_size over range": {keys: `,"range":"10.20.0.0/24","node_slice_size":"/22"`, want: "10.20.0.0/24 by 256"},
		"node_slice_size is no size": {keys: `,"range":"10.20.0.0/16","node_slice_size":"big"`, wantErr: "ipam.node_slice_size"},
		"addresses":                  {keys: `,"range":"10.20.0.0/16","addresses":[{"address":"10.20.0.7/16","gateway":"10.20.0.1"}]`, want: "10.20.0.0/16 static [10.20.0.7]"},
		"addresses elsewhere":        {keys: `,"range":"10.20.0.0/16","addresses":[{"address":"10.30.0.7/16"}]`, wantErr: "ips"},
		"addresses is no address":    {keys: `,"range":"10.20.0.0/16","addresses":[{"address":"seven"}]`, wantErr: "ipam.addresses[0].address"},
		"CNI_ARGS":                   {keys: `,"range":"10.20.0.0/16"`, args: "10.20.0.7/16", want: "10.20.0.0/16 static [10.20.0.7]"},
		"CNI_ARGS, both families":    {keys: `,"ipRanges":[{"range":"fd00:1::/64"},{"range":"10.20.0.0/16"}]`, args: "10.20.0.7, fd00:1::7", want: "fd00:1::/64 static [fd00:1::7]; 10.20.0.0/16 static [10.20.0.7]"},
		"CNI_ARGS is no address":     {keys: `,"range":"10.20.0.0/16"`, args: "seven", wantErr: "CNI_ARGS.IP[0]"},
		"runtimeConfig first":        {keys: `,"range":"10.20.0.0/16"`, more: `,"runtimeConfig":{"ips":["10.20.0.8/16"]},"args":{"cni":{"ips":["10.20.0.9"]}}`, args: "10.20.0.7", want: "10.20.0.0/16 static [10.20.0.8]"},
		"args.cni second":            {keys: `,"range":"10.20.0.0/16"`, more: `,"args":{"cni":{"ips":["10.20.0.9"]}}`, args: "10.20.0.7", want: "10.20.0.0/16 static [10.20.0.9]"},
		"two of one range":           {keys: `,"range":"10.20.0.0/16"`, args: "10.20.0.7,10.20.0.8", wantErr: "ips"},
		"overlapping on":             {keys: `,"range":"10.20.0.0/16","enable_overlapping_ranges":true`, want: "10.20.0.0/16"},
		"overlapping off":            {keys: `,"range":"10.20.0.0/16","enable_overlapping_ranges":false`, want: "10.20.0.0/16", wantIgnored: "enable_overlapping_ranges"},
		"defaults":                   {keys: `,"range":"10.20.0.0/16","gateway":""`, defaults: `{"range":"10.30.0.0/16","gateway":"10.20.0.1","log_level":"debug"}`, want: "10.20.0.0/16 via 10.20.0.1"},
		"defaults alone":             {defaults: `{"range":"10.30.0.0/16"}`, want: "10.30.0.0/16"},
		"defaults are no object":     {keys: `,"range":"10.20.0.0/16"`, defaults: `[]`, wantErr: "the file of defaults"},
	} {
		t.Run(name, func(t *testing.T) {
			in := Input{Config: []byte(strings.TrimSuffix(whereabouts(tc.keys), "}") + tc.more + "}"), ArgsIP: tc.args}
			if tc.defaults != "" {
				in.Defaults = []byte(tc.defaults)
			}
			check(t, in, tc.want, tc.wantIgnored, tc.wantErr)
		})
	}
}

func check(t *testing.T, in Input, want, wantIgnored, wantErr string) {
	t.Helper()
	got, err := Parse(in)
	var field *ipam.FieldError
	switch {
	case wantErr == "" && err != nil:
		t.Fatal(err)
	case wantErr != "" && (!errors.As(err, &field) || field.Field != wantErr):
		t.Errorf("error %v, want one of %s", err, wantErr)
	case wantErr == "" && outline(got) != want:
		t.Errorf("got  %s\nwant %s", outline(got), want)
	case strings.Join(got.Ignored, " ") != "" && wantIgnored == "", !strings.Contains(strings.Join(got.Ignored, " "), wantIgnored):
		t.Errorf("ignored %q, want %q", got.Ignored, wantIgnored)
	}
}

func TestIgnoredKeys(t *testing.T) {
	for key := range meaningless() {
		c, err := Parse(Input{Config: []byte(whereabouts(`,"range":"10.20.0.0/16",` + fmt.Sprintf("%q", key) + `:{"any":["thing"]}`))})
		if err != nil || len(c.Ignored) != 1 || !strings.HasPrefix(c.Ignored[0], "ipam."+key+" (") {
			t.Errorf("%s: %v, ignored %q", key, err, c.Ignored)
		}
	}
}

func TestNVIPAM(t *testing.T) {
	for name, tc := range map[string]struct {
		keys, more, args, defaults string
		want, wantIgnored, wantErr string
	}{
		"poolName":                {keys: `,"poolName":"pool1"`, want: "pool1"},
		"two pools":               {keys: `,"poolName":"v4pool,v6pool"`, want: "v4pool; v6pool"},
		"three pools":             {keys: `,"poolName":"a,b,c"`, wantErr: "ipam.poolName"},
		"an empty one":            {keys: `,"poolName":"a,"`, wantErr: "ipam.poolName"},
		"one twice":               {keys: `,"poolName":"a,a"`, wantErr: "ipam.poolName"},
		"none":                    {want: "net-a"},
		"none, forced":            {keys: `,"forcePoolName":true`, wantErr: "ipam.poolName"},
		"a name with dots":        {keys: `,"poolName":"rail.0"`, want: "nv-rail-0-" + digest("rail.0")},
		"ippool":                  {keys: `,"poolType":"IPPool"`, want: "net-a"},
		"cidrpool":                {keys: `,"poolType":"cidrpool"`, wantErr: "ipam.poolType"},
		"another type":            {keys: `,"poolType":"puddle"`, wantErr: "ipam.poolType"},
		"args poolNames":          {keys: `,"poolName":"a"`, more: `,"args":{"cni":{"poolNames":["b","c"]}}`, want: "b; c"},
		"args poolType":           {more: `,"args":{"cni":{"poolType":"cidrpool"}}`, wantErr: "args.cni.poolType"},
		"allocateDefaultGateway":  {more: `,"args":{"cni":{"allocateDefaultGateway":true}}`, wantErr: "args.cni.allocateDefaultGateway"},
		"not so":                  {more: `,"args":{"cni":{"allocateDefaultGateway":false}}`, want: "net-a"},
		"allocateIPWithIndex":     {more: `,"args":{"cni":{"allocateIPWithIndex":0}}`, wantErr: "args.cni.allocateIPWithIndex"},
		"runtimeConfig.ips":       {more: `,"runtimeConfig":{"ips":["10.20.0.7/16","fd00::7"]}`, want: "net-a static [10.20.0.7 fd00::7]"},
		"ips of two pools":        {keys: `,"poolName":"a,b"`, more: `,"args":{"cni":{"ips":["fd00::7","10.20.0.7"]}}`, want: "a static [10.20.0.7]; b static [fd00::7]"},
		"two ips of a family":     {args: "10.20.0.7,10.20.0.8", wantErr: "ips"},
		"daemon and log":          {keys: `,"daemonSocket":"unix:///x","daemonCallTimeoutSeconds":5,"logFile":"/x","logLevel":"debug"`, want: "net-a", wantIgnored: "ipam.daemonCallTimeoutSeconds"},
		"defaults":                {defaults: `{"poolName":"from-file","poolType":"cidrpool"}`, keys: `,"poolType":"ippool"`, want: "from-file"},
		"poolName is a list":      {keys: `,"poolName":["a"]`, wantErr: "ipam.poolName"},
		"a wrong CNI_ARGS":        {args: "x", wantErr: "CNI_ARGS.IP[0]"},
		"args.cni is no object":   {more: `,"args":{"cni":5}`, wantErr: "args.cni"},
		"everything is reported":  {keys: `,"poolType":"cidrpool","poolName":","`, wantErr: "ipam.poolType"},
		"confDir is not reported": {keys: `,"confDir":"/etc/x"`, want: "net-a"},
	} {
		t.Run(name, func(t *testing.T) {
			in := Input{Config: []byte(`{"name":"net-a","type":"macvlan","ipam":{"type":"nv-ipam"` + tc.keys + `}` + tc.more + `}`), ArgsIP: tc.args}
			if tc.defaults != "" {
				in.Defaults = []byte(tc.defaults)
			}
			check(t, in, tc.want, tc.wantIgnored, tc.wantErr)
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for text, field := range map[string]string{
		`[]`: "config", `{"name":"a"}`: "ipam", `{"ipam":null}`: "ipam", `{"ipam":"whereabouts"}`: "ipam", `{"ipam":{"type":"host-local"}}`: "ipam.type",
		`{"ipam":{"type":"whereabouts","ipRanges":{}}}`: "ipam.ipRanges",
	} {
		_, err := Parse(Input{Config: []byte(text)})
		var wrong *ipam.FieldError
		if !errors.As(err, &wrong) || wrong.Field != field || !errors.Is(err, ipam.ErrInvalid) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestDefaultsFile(t *testing.T) {
	for config, want := range map[string]string{
		whereabouts(""): "/etc/cni/net.d/whereabouts.d/whereabouts.conf false",
		whereabouts(`,"configuration_path":"/x/y"`):     "/x/y true",
		`{"ipam":{"type":"nv-ipam"}}`:                   "/etc/cni/net.d/nv-ipam.d/nv-ipam.conf false",
		`{"ipam":{"type":"nv-ipam","confDir":"/etc/"}}`: "/etc/nv-ipam.conf false",
		`{"ipam":5}`: " false",
	} {
		if path, must := DefaultsFile([]byte(config)); fmt.Sprint(path, " ", must) != want {
			t.Errorf("%s: %s %t", config, path, must)
		}
	}
}

// TestPoolNames: what is one range has one name, however it is written, and nothing else has it.
func TestPoolNames(t *testing.T) {
	same := []string{
		`,"range":"10.20.0.0/24","range_start":"10.20.0.10","range_end":"10.20.0.19","exclude":["10.20.0.12/31","10.20.0.14"]`,
		`,"range":"10.20.0.10-10.20.0.19/24","exclude":["10.20.0.12-10.20.0.14"],"gateway":"10.20.0.1","node_slice_size":"/28","log_level":"x"`,
		`,"ipRanges":[{"range":"10.20.0.77/24","range_start":"10.20.0.10","range_end":"10.20.0.19","exclude":["10.20.0.14","10.20.0.12/31"]}]`,
	}
	other := []string{
		`,"range":"10.20.0.0/24"`, `,"range":"10.20.0.0/25"`, `,"range":"10.20.0.0/24","network_name":"a"`, `,"range":"10.20.0.0/24","network_name":"A"`,
		`,"range":"10.20.0.0/24","range_start":"10.20.0.10"`, `,"range":"10.20.0.0/24","exclude":["10.20.0.10"]`, `,"range":"fd00::/64"`,
		`,"range":"fd00:1111:2222:3333:4444:5555:6666:7700/120"`,
	}
	name := func(keys string) string {
		c, err := Parse(Input{Config: []byte(whereabouts(keys))})
		if err != nil {
			t.Fatal(err)
		}
		return c.Pools[0].Name
	}
	seen := map[string]bool{}
	for _, keys := range same {
		seen[name(keys)] = true
	}
	for _, keys := range other {
		n := name(keys)
		if seen[n] {
			t.Errorf("%s: %s is another's", keys, n)
		}
		if seen[n] = true; len(n) > ipam.MaxPoolName || ipam.CheckPoolName("", n) != nil || strings.Contains(n, ".") {
			t.Errorf("%s: %s is no name", keys, n)
		}
	}
	// A name never changes: the pool with the leases would be another's.
	if n := name(`,"range":"10.20.0.0/26","exclude":["10.20.0.32/28"],"network_name":"rail0"`); n != "wb-10-20-0-0-26-9b3eef056d5dda6e" {
		t.Errorf("the name has become %s", n)
	}
	if len(seen) != 1+len(other) {
		t.Errorf("%d names: %v", len(seen), seen)
	}
}

func TestDomains(t *testing.T) {
	seen := map[string]string{}
	for _, network := range []string{"", "default", "rail0", "rail 0", "rail-0", "Rail-0", strings.Repeat("x", 300), strings.Repeat("x", 301), "–"} {
		d := Range{Network: network}.Domain()
		if was, ok := seen[d]; ok {
			t.Errorf("%q and %q are both %s", was, network, d)
		}
		if seen[d] = network; len(d) > 63 || ipam.CheckPoolName("", d) != nil {
			t.Errorf("%q: %s is no domain", network, d)
		}
	}
}

func TestSpec(t *testing.T) {
	c, err := Parse(Input{Config: []byte(whereabouts(`,"range":"10.20.0.0/24","range_start":"10.20.0.10","exclude":["10.20.0.16/28"],"node_slice_size":"/29"`))})
	if err != nil {
		t.Fatal(err)
	}
	p, err := ipam.ParsePool(c.Pools[0].Range.Spec(netip.MustParseAddr("10.20.0.254"), netip.MustParseAddr("10.20.0.253")))
	if err != nil {
		t.Fatal(err)
	}
	s := p.Subnets[0]
	if got := fmt.Sprint(s.Leasable, s.Reserved, s.BlockSize, s.Gateway); got != "[10.20.0.10-10.20.0.15 10.20.0.32-10.20.0.252] [10.20.0.16/28] 8 10.20.0.254" {
		t.Error(got)
	}
}

func TestFind(t *testing.T) {
	for name, tc := range map[string]struct{ text, want, wantErr string }{
		"one":            {text: whereabouts(`,"range":"10.20.0.0/16"`), want: "10.20.0.0/16"},
		"a list":         {text: `{"name":"l","plugins":[` + whereabouts(`,"range":"10.20.0.0/16"`) + `,{"type":"tuning"},{"type":"x","ipam":{"type":"nv-ipam"}}]}`, want: "10.20.0.0/16|l"},
		"nested":         {text: `{"name":"n","delegate":{"type":"macvlan","ipam":{"type":"nv-ipam"}}}`, want: "n"},
		"without a name": {text: `{"type":"macvlan","ipam":{"type":"nv-ipam"}}`, want: "nad"},
		"another's":      {text: `{"ipam":{"type":"host-local"}}`},
		"not in args":    {text: `{"args":{"cni":{"ipam":{"type":"nv-ipam"}}}}`},
		"no JSON":        {text: `{`},
		"one is wrong":   {text: `[` + whereabouts(`,"range":"x"`) + `,` + whereabouts(`,"range":"10.20.0.0/16"`) + `]`, want: "10.20.0.0/16", wantErr: "ipam.range"},
	} {
		t.Run(name, func(t *testing.T) {
			calls, err := Find(tc.text, "nad")
			var got []string
			for _, c := range calls {
				got = append(got, outline(c))
			}
			if strings.Join(got, "|") != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if (err == nil) != (tc.wantErr == "") || err != nil && !strings.Contains(err.Error(), tc.wantErr) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// FuzzParse: whatever is read, a call that is not refused has pools that can be made, and parses the same again.
func FuzzParse(f *testing.F) {
	for _, keys := range []string{`,"range":"10.20.0.0/16","exclude":["10.20.0.0/28"],"gateway":"10.20.0.1"`, `,"ipRanges":[{"range":"fd00::/64"}]`, `,"range":"::ffff:1.2.3.0/120"`} {
		f.Add([]byte(whereabouts(keys)), []byte(`{"network_name":"x"}`), "10.20.0.7")
	}
	f.Add([]byte(`{"name":"a","ipam":{"type":"nv-ipam","poolName":"a,b"},"args":{"cni":{"ips":["1.2.3.4"]}}}`), []byte(nil), "")
	f.Fuzz(func(t *testing.T, config, defaults []byte, args string) {
		DefaultsFile(config)
		if _, err := Find(string(config), "nad"); err != nil && !errors.Is(err, ipam.ErrInvalid) {
			t.Errorf("find: %v", err)
		}
		in := Input{Config: config, Defaults: defaults, ArgsIP: args}
		c, err := Parse(in)
		if err != nil {
			if !errors.Is(err, ipam.ErrInvalid) {
				t.Errorf("%v is not typed", err)
			}
			return
		}
		again, err := Parse(in)
		if err != nil || outline(again) != outline(c) || !slices.Equal(again.Ignored, c.Ignored) {
			t.Errorf("%s, then %s: %v", outline(c), outline(again), err)
		}
		if len(c.Pools) == 0 || len(c.Pools) > MaxPools {
			t.Errorf("%d pools", len(c.Pools))
		}
		for _, p := range c.Pools {
			if err := ipam.CheckPoolName("name", p.Name); err != nil || strings.Contains(p.Name, ".") {
				t.Errorf("%s: %v", p.Name, err)
			}
			if p.Range == nil {
				continue
			}
			if _, err := ipam.ParsePool(p.Range.Spec()); err != nil {
				t.Error(err)
			}
			if err := ipam.CheckPoolName("domain", p.Range.Domain()); err != nil {
				t.Error(err)
			}
		}
	})
}
