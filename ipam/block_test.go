// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package ipam_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/iprange"
)

func mustRanges(t *testing.T, texts ...string) (out []iprange.Range) {
	t.Helper()
	for _, s := range texts {
		r, err := iprange.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func TestBlockCheck(t *testing.T) {
	slot := netip.MustParsePrefix("10.20.0.64/26")
	cases := map[string]struct {
		name   string
		shares [][]string
		want   string // part of the error; empty: sound
	}{
		"one owner":         {"rail0.10-20-0-64", [][]string{{"10.20.0.64/26"}}, ""},
		"two owners":        {"rail0.10-20-0-64", [][]string{{"10.20.0.64/27"}, {"10.20.0.96/27"}}, ""},
		"nobody":            {"rail0.10-20-0-64", nil, ""},
		"owned twice":       {"rail0.10-20-0-64", [][]string{{"10.20.0.64/27"}, {"10.20.0.90-10.20.0.99"}}, "owned twice"},
		"one address twice": {"rail0.10-20-0-64", [][]string{{"10.20.0.70", "10.20.0.70"}}, "owned twice"},
		"outside":           {"rail0.10-20-0-64", [][]string{{"10.20.0.63-10.20.0.64"}}, "outside"},
		"wrong name":        {"rail0.10-20-0-0", nil, "must be named rail0.10-20-0-64"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := ipam.Block{Name: c.name, Pool: "rail0", Slot: slot}
			for _, s := range c.shares {
				b.Shares = append(b.Shares, ipam.Share{Node: "n", Ranges: mustRanges(t, s...)})
			}
			err := b.Check()
			if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, ipam.ErrInvalid) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestUnowned(t *testing.T) {
	b := ipam.Block{Shares: []ipam.Share{{Ranges: mustRanges(t, "10.0.0.4-10.0.0.7")}, {Ranges: mustRanges(t, "10.0.0.10")}}}
	got := texts(b.Unowned(mustRanges(t, "10.0.0.0-10.0.0.12")))
	if d := cmp.Diff([]string{"10.0.0.0/30", "10.0.0.8/31", "10.0.0.11-10.0.0.12"}, got); d != "" {
		t.Errorf("unowned (-want +got):\n%s", d)
	}
}

func TestOwns(t *testing.T) {
	me := ipam.Owner{Node: "n1", NodeUID: "u1", Session: "s1"}
	cases := map[string]struct {
		owner ipam.Owner
		share ipam.Share
		want  bool
	}{
		"mine":                     {me, ipam.Share{Node: "n1", NodeUID: "u1", Session: "s1"}, true},
		"after a reboot":           {me, ipam.Share{Node: "n1", NodeUID: "u1", Session: "s0"}, true},
		"node object made again":   {me, ipam.Share{Node: "n1", NodeUID: "u0", Session: "s1"}, true},
		"another machine, my name": {me, ipam.Share{Node: "n1", NodeUID: "u0", Session: "s0"}, false},
		"another node":             {me, ipam.Share{Node: "n2", NodeUID: "u1", Session: "s1"}, false},
		"no session on either":     {ipam.Owner{Node: "n1", NodeUID: "u1"}, ipam.Share{Node: "n1", NodeUID: "u0"}, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := c.owner.Owns(c.share); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestStatNetNSRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		path string
		want error
	}{
		"missing":        {filepath.Join(dir, "none"), fs.ErrNotExist},
		"file":           {file, ipam.ErrInvalid},
		"folder":         {dir, ipam.ErrInvalid},
		"file in proc":   {"/proc/version", ipam.ErrInvalid},
		"pid namespace":  {"/proc/self/ns/pid", ipam.ErrInvalid},
		"user namespace": {"/proc/self/ns/user", ipam.ErrInvalid},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if ns, err := ipam.StatNetNS(c.path); !errors.Is(err, c.want) {
				t.Errorf("got %+v, %v, want %v", ns, err, c.want)
			}
		})
	}
}

// /proc/self means another file to the next process that looks, and /var/run need not be there in a container.
func TestStatNetNSFollowsFolders(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/proc/self/ns", link); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("/proc/%d/ns/net", os.Getpid())
	for _, path := range []string{"/proc/self/ns/net", filepath.Join(link, "net")} {
		if n, err := ipam.StatNetNS(path); err != nil || n.Path != want {
			t.Errorf("%s: got %s, %v, want %s", path, n.Path, err, want)
		}
	}
}

func TestNetNSGone(t *testing.T) {
	self, err := ipam.StatNetNS("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	anchored, err := ipam.StatNetNS("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	anchored.Path = filepath.Join(dir, "gone") // as if it had been seen through another folder
	cases := map[string]struct {
		change func(*ipam.NetNS)
		want   bool
	}{
		"alive":                   {func(*ipam.NetNS) {}, false},
		"zero":                    {func(n *ipam.NetNS) { *n = ipam.NetNS{} }, false},
		"another behind the path": {func(n *ipam.NetNS) { n.Ino++ }, true},
		"process is dead":         {func(n *ipam.NetNS) { n.Path = "/proc/4194305/ns/net" }, true},
		"another proc":            {func(n *ipam.NetNS) { n.Path, n.AnchorIno = "/proc/4194305/ns/net", n.AnchorIno+1 }, false},
		"another folder":          {func(n *ipam.NetNS) { *n = anchored }, false},
		"folder is missing":       {func(n *ipam.NetNS) { n.Path = filepath.Join(dir, "a/b") }, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			n := self
			c.change(&n)
			if got := n.Gone(); got != c.want {
				t.Errorf("%+v: got %v, want %v", n, got, c.want)
			}
		})
	}
}

func TestRequestValidate(t *testing.T) {
	addrs := func(texts ...string) (out []netip.Addr) {
		for _, s := range texts {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	cases := map[string]struct {
		change func(*ipam.Request)
		want   string // field; empty: sound
	}{
		"sound":             {func(*ipam.Request) {}, ""},
		"one of each":       {func(r *ipam.Request) { r.Static = addrs("10.0.0.1", "fd00::1") }, ""},
		"no network":        {func(r *ipam.Request) { r.Key.Network = "" }, "network"},
		"long network":      {func(r *ipam.Request) { r.Key.Network = strings.Repeat("n", ipam.MaxNetwork+1) }, "network"},
		"zero byte":         {func(r *ipam.Request) { r.Key.ContainerID = "a\x00b" }, "containerID"},
		"no container":      {func(r *ipam.Request) { r.Key.ContainerID = "" }, "containerID"},
		"no interface":      {func(r *ipam.Request) { r.Key.IfName = "" }, "ifName"},
		"not UTF-8":         {func(r *ipam.Request) { r.Key.ContainerID = "c\xff" }, "containerID"},
		"newline":           {func(r *ipam.Request) { r.Key.IfName = "net1\n" }, "ifName"},
		"no pool":           {func(r *ipam.Request) { r.Pool = "" }, "pool"},
		"pool with a slash": {func(r *ipam.Request) { r.Pool = "a/b" }, "pool"},
		"long pod":          {func(r *ipam.Request) { r.Pod.Name = strings.Repeat("p", 254) }, "pod.name"},
		"no address":        {func(r *ipam.Request) { r.Static = []netip.Addr{{}} }, "ips[0]"},
		"mapped":            {func(r *ipam.Request) { r.Static = addrs("fd00::1", "::ffff:10.0.0.1") }, "ips[1]"},
		"zone":              {func(r *ipam.Request) { r.Static = addrs("fe80::1%eth0") }, "ips[0]"},
		"two of a family":   {func(r *ipam.Request) { r.Static = addrs("10.0.0.1", "10.0.0.2") }, "ips[1]"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := ipam.Request{Key: ipam.Key{Network: "n", ContainerID: "c", IfName: "i"}, Pool: "rail0"}
			c.change(&r)
			err := r.Validate()
			var field *ipam.FieldError
			if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &field) || field.Field != c.want || !errors.Is(err, ipam.ErrInvalid)) {
				t.Errorf("got %v, want an error on %q", err, c.want)
			}
		})
	}
}
