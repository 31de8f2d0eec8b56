// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
)

func TestParseBusAddr(t *testing.T) {
	for s, want := range map[string]BusAddr{
		"0000:3b:00.0": "0000:3b:00.0", "0000:3B:1F.7": "0000:3b:1f.7", "10000:01:00.0": "10000:01:00.0",
		"mlx5_core.sf.4": "mlx5_core.sf.4", "mlx5_core.eth-rep.0": "mlx5_core.eth-rep.0",
		"3b:00.0": "", "0000:3b:00.8": "", "0000:3b:00.0 ": "", "": "", "eth0": "", "a.b.c": "", "a.b.01": "", "a.b.-1": "", ".b.1": "",
		"a/.b.1": "", "..": "", "a.b.1.2": "",
	} {
		got, err := ParseBusAddr(s)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("ParseBusAddr(%q) = %q, %v, want %q", s, got, err, want)
		}
	}
}

func TestIDText(t *testing.T) {
	id := ID{Index: 3, NodeGUID: 0x506b4b0300a1b2c3}
	data, err := json.Marshal(id)
	if want := `{"index":3,"nodeGUID":"506b:4b03:00a1:b2c3"}`; string(data) != want || err != nil {
		t.Errorf("got %s, %v, want %s", data, err, want)
	}
	var back ID
	if err := json.Unmarshal(data, &back); back != id || err != nil {
		t.Errorf("got %v, %v back", back, err)
	}
	if err := json.Unmarshal([]byte(`{"nodeGUID":"506b"}`), &back); err == nil {
		t.Error("no error for half a GUID")
	}
	if got := id.String(); got != "index 3, node GUID 506b:4b03:00a1:b2c3" {
		t.Errorf("got %s", got)
	}
}

func TestNames(t *testing.T) {
	for got, want := range map[string]string{
		StateActive.String(): "ACTIVE", PortState(9).String(): "UNKNOWN", PortState(-1).String(): "UNKNOWN",
		Shared.String(): "shared", Exclusive.String(): "exclusive", Mode(0).String(): "unknown",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func FuzzParseGUID(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		g, err := ParseGUID(s)
		if err == nil && g.String() != strings.ToLower(s) {
			t.Errorf("%q became %s", s, g)
		}
	})
}

func FuzzParseBusAddr(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseBusAddr(s)
		if err != nil {
			if a != "" {
				t.Errorf("%q with the error %v", a, err)
			}
			return
		}
		if again, err := ParseBusAddr(string(a)); again != a || err != nil {
			t.Errorf("%q became %q, then %q, %v", s, a, again, err)
		}
		if dir, err := a.dir(); err != nil || strings.Count(dir, "/") != 3 || strings.Contains(dir, "..") {
			t.Errorf("%q is at %q, %v", s, dir, err)
		}
	})
}

// FuzzGID reads a table with one entry: what is read is what netip reads, and nothing else is.
func FuzzGID(f *testing.F) {
	f.Fuzz(func(t *testing.T, gid, kind string) {
		if strings.ContainsRune(gid+kind, 0) {
			t.Skip() // the tree's sign for an error
		}
		sys := tree{}
		sys.port(sys.rdma("", "rxe0", ""), 1, Ethernet, active, 1, map[int][3]string{0: {gid, kind, "eth0"}})
		got, err := GIDs(sys, "rxe0", 1)
		if err != nil || len(got) == 0 {
			return
		}
		want, err := netip.ParseAddr(strings.TrimSpace(gid))
		if err != nil || got[0].Addr.As16() != want.As16() || want.IsUnspecified() {
			t.Errorf("%q became %s", gid, got[0].Addr)
		}
	})
}
