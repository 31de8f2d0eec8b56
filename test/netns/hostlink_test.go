// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkState is what the kernel forgets of a link that moves: its addresses with all their attributes, and its settings.
func (s *space) linkState(name string) []string {
	s.t.Helper()
	var out []string
	list, err := s.link.AddrList(s.get(name), netlink.FAMILY_ALL)
	must(s.t, err)
	for _, a := range list {
		if !a.IP.IsLinkLocalUnicast() {
			out = append(out, fmt.Sprintf("%s peer %v broadcast %v label %q scope %d flags %#x", a.IPNet, a.Peer, a.Broadcast, a.Label, a.Scope, a.Flags&^unix.IFA_F_TENTATIVE))
		}
	}
	must(s.t, s.do(func() error {
		for _, family := range []string{"ipv4", "ipv6"} {
			files, err := filepath.Glob(filepath.Join("/proc/sys/net", family, "conf", name, "*"))
			if err != nil {
				return err
			}
			for _, f := range files {
				b, _ := os.ReadFile(f)
				out = append(out, f+"="+strings.TrimSpace(string(b)))
			}
		}
		return nil
	}))
	return out
}

// dress gives dev0 addresses and settings of every kind.
func (l *lab) dress() {
	l.t.Helper()
	dev := l.host.get("dev0")
	for _, a := range []*netlink.Addr{
		{IPNet: cidrAt("192.0.2.20/32"), Peer: cidrAt("198.51.100.1/30")},
		{IPNet: cidrAt("192.0.2.77/24"), Label: "dev0:second", Broadcast: net.IPv4(192, 0, 2, 254)},
		{IPNet: cidrAt("203.0.113.7/24"), Broadcast: net.IPv4zero, Scope: unix.RT_SCOPE_LINK, Flags: unix.IFA_F_NOPREFIXROUTE},
		{IPNet: cidrAt("fd00:d::9/64"), Flags: unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE},
		{IPNet: cidrAt("fd00:e::9/128"), Peer: cidrAt("fd00:e::1/128"), Flags: unix.IFA_F_NODAD},
	} {
		if err := l.host.link.AddrAdd(dev, a); err != nil {
			l.t.Fatalf("%s: %v", a.IPNet, err)
		}
	}
	for path, value := range map[string]string{
		"ipv4/conf/dev0/rp_filter": "2", "ipv4/conf/dev0/arp_ignore": "1", "ipv4/conf/dev0/arp_announce": "2", "ipv4/conf/dev0/forwarding": "1",
		"ipv6/conf/dev0/accept_ra": "0", "ipv6/conf/dev0/accept_dad": "0", "ipv6/conf/dev0/use_tempaddr": "2",
	} {
		l.host.setSysctl("net/"+path, value)
	}
}

func cidrAt(s string) *net.IPNet {
	ip, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err) // the tests' own text
	}
	n.IP = ip
	return n
}

// TestHostLink: what a device was on the host it is again: addresses with peers, labels, scopes, broadcast addresses and flags, and
// its settings; also from a journal of the version before, as far as that says.
func TestHostLink(t *testing.T) {
	l, pod := newLab(t), newSpace(t)
	l.addDevice()
	l.dress()
	before := l.host.linkState("dev0")
	c := call{id: "c1", ifName: "net1", netns: pod.path}
	l.roundTrip(pod, c, func() {})
	if diff := cmp.Diff(before, l.host.linkState("dev0")); diff != "" {
		t.Errorf("the device (-before +after):\n%s", diff)
	}
	// The host's default is another by now: what the device had is not what a new one gets, and what it did not have of its own is.
	l.add(c)
	l.host.setSysctl("net/ipv4/conf/default/arp_filter", "1")
	c.verb = "DEL"
	l.mustRun(c)
	if got := l.host.sysctl("net/ipv4/conf/dev0/rp_filter") + l.host.sysctl("net/ipv4/conf/dev0/arp_filter"); got != "21" {
		t.Errorf("rp_filter and arp_filter are %s", got)
	}
	l.add(c)
	l.editJournal("c1", func(j map[string]any) {
		for _, s := range j["steps"].([]any) {
			if link, ok := s.(map[string]any)["link"].(map[string]any); ok {
				host := link["host"].(map[string]any)
				delete(host, "details")
				delete(host, "sysctls")
			}
		}
	})
	l.mustRun(c)
	for _, want := range []string{"192.0.2.9/24", "192.0.2.20/32", "192.0.2.77/24", "203.0.113.7/24"} {
		if got := strings.Join(l.host.addresses(), " "); !strings.Contains(got, want) {
			t.Errorf("%s is not among %s", want, got)
		}
	}
}

// TestHostLink_GenMode: how a device makes its IPv6 addresses is what it was again, and so is a secret that it makes them of.
func TestHostLink_GenMode(t *testing.T) {
	for name, settings := range map[string][][2]string{
		"none":            {{"addr_gen_mode", "1"}},
		"secret":          {{"stable_secret", "2001:db8::7"}},
		"random":          {{"addr_gen_mode", "3"}},
		"secret, random":  {{"stable_secret", "2001:db8::7"}, {"addr_gen_mode", "3"}},
		"as the default":  {},
		"not the default": {{"", "1"}},
	} {
		t.Run(name, func(t *testing.T) {
			l, pod := newLab(t), newSpace(t)
			l.addDevice()
			for _, s := range settings {
				if s[0] == "" {
					l.host.setSysctl("net/ipv6/conf/default/addr_gen_mode", s[1])
				} else {
					l.host.setSysctl("net/ipv6/conf/dev0/"+s[0], s[1])
				}
			}
			before := l.host.linkState("dev0")
			l.roundTrip(pod, call{id: "c1", ifName: "net1", netns: pod.path}, func() {})
			if diff := cmp.Diff(before, l.host.linkState("dev0")); diff != "" {
				t.Errorf("the device (-before +after):\n%s", diff)
			}
		})
	}
}
