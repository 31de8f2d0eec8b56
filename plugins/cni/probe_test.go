// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/hex"
	"net"
	"net/netip"
	"testing"
)

var probeMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}

// The probes are what other hosts understand: bytes that tcpdump reads without complaint.
func TestProbes(t *testing.T) {
	if got, want := hex.EncodeToString(arpProbe(probeMAC, netip.MustParseAddr("10.20.0.7"))),
		"0001080006040001"+"020000000001"+"00000000"+"000000000000"+"0a140007"; got != want {
		t.Errorf("ARP %s, want %s", got, want)
	}
	const want = "60000000" + "00183aff" + "00000000000000000000000000000000" + "ff0200000000000000000001ff000007" +
		"8700" + "7d79" + "00000000" + "fd000020000000000000000000000007"
	if got := hex.EncodeToString(dadProbe(netip.MustParseAddr("fd00:20::7"))); got != want {
		t.Errorf("NS %s, want %s", got, want)
	}
	// A checksum over what includes it is 0.
	ns := dadProbe(netip.MustParseAddr("2001:db8::abcd:1234"))
	pseudo := append(append([]byte{}, ns[8:40]...), 0, 0, 0, 24, 0, 0, 0, 58)
	if sum := checksum(append(pseudo, ns[40:]...)); sum != 0 {
		t.Errorf("checksum of the whole: %x", sum)
	}
}

func TestClaimed(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.20.0.7"), netip.MustParseAddr("fd00:20::7")
	reply := gratuitousARP(probeMAC, v4.AsSlice())
	reply[7] = 2
	other := arpProbe(probeMAC, v4) // asks for it, having another
	copy(other[14:], []byte{10, 20, 0, 9})
	packet := func(icmp []byte) []byte {
		p := dadProbe(v6)[:40]
		p[5] = byte(len(icmp))
		return append(p, icmp...)
	}
	solicitation := dadProbe(v6)
	fromHost := dadProbe(v6)
	fromHost[8] = 0xfe
	far := dadProbe(v6)
	far[7] = 64
	for name, tc := range map[string]struct {
		read func([]byte) (netip.Addr, bool)
		in   []byte
		want netip.Addr
	}{
		"an ARP reply":                      {claimedByARP, reply, v4},
		"a gratuitous ARP":                  {claimedByARP, gratuitousARP(probeMAC, v4.AsSlice()), v4},
		"an ARP probe":                      {claimedByARP, arpProbe(probeMAC, v4), v4},
		"a request by who has another":      {claimedByARP, other, netip.MustParseAddr("10.20.0.9")},
		"a short ARP":                       {claimedByARP, reply[:27], netip.Addr{}},
		"an ARP of another hardware":        {claimedByARP, append([]byte{0, 6}, reply[2:]...), netip.Addr{}},
		"an advertisement":                  {claimedByND, packet(unsolicitedNA(probeMAC, v6.AsSlice())), v6},
		"a solicitation of who has none":    {claimedByND, solicitation, v6},
		"a solicitation of who has another": {claimedByND, fromHost, netip.Addr{}},
		"one from beyond a router":          {claimedByND, far, netip.Addr{}},
		"a short one":                       {claimedByND, solicitation[:63], netip.Addr{}},
		"another message":                   {claimedByND, packet(make([]byte, 24)), netip.Addr{}},
	} {
		if got, ok := tc.read(tc.in); ok != tc.want.IsValid() || ok && got != tc.want {
			t.Errorf("%s: %v %v, want %v", name, got, ok, tc.want)
		}
	}
}

func FuzzClaimed(f *testing.F) {
	f.Add(arpProbe(probeMAC, netip.MustParseAddr("10.20.0.7")))
	f.Add(dadProbe(netip.MustParseAddr("fd00:20::7")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, ok := claimedByARP(b); ok && !a.Is4() {
			t.Errorf("ARP claims %v", a)
		}
		if a, ok := claimedByND(b); ok && !a.Is6() {
			t.Errorf("ND claims %v", a)
		}
	})
}
