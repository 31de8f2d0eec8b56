// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/netip"
	"testing"
)

func TestParse(t *testing.T) {
	o, err := parse([]string{"-short", "--check", "-bin=b"}, io.Discard)
	if err != nil || !o.short || !o.check || o.bin != "b" || o.docs != "docs" {
		t.Errorf("parse = %+v, %v", o, err)
	}
	if _, err := parse([]string{"-h"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("parse(-h) = %v, want flag.ErrHelp", err)
	}
	for _, args := range [][]string{{"short"}, {"-none"}, {"-peers", "-against=old"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("parse(%q) was accepted", args)
		}
	}
}

// TestContestantsWantTheSame keeps the configurations alike: same addresses' subnets, same link.
func TestContestantsWantTheSame(t *testing.T) {
	for _, f := range []families{dual, v4Only} {
		var ours, theirs map[string]any
		for b, to := range map[*map[string]any][]byte{&ours: f.railyardConf(), &theirs: f.upstreamConf()} {
			if err := json.Unmarshal(to, b); err != nil {
				t.Fatal(err)
			}
		}
		for _, key := range []string{"cniVersion", "name", "master", "mode"} {
			if ours[key] != theirs[key] || ours[key] == nil {
				t.Errorf("%s: %s is %v for railyard and %v for its peer", f.name, key, ours[key], theirs[key])
			}
		}
		seen := map[netip.Prefix]bool{}
		for slot := range 10000 {
			for _, a := range f.addresses(slot) {
				if seen[a] {
					t.Fatalf("%s: slot %d has %s, as another has", f.name, slot, a)
				}
				seen[a] = true
				if s := map[bool]string{true: f.subnet4, false: f.subnet6}[a.Addr().Is4()]; a.Masked() != netip.MustParsePrefix(s) {
					t.Fatalf("%s: %s is not of %s", f.name, a, s)
				}
			}
		}
	}
}

func TestIDsAreUnique(t *testing.T) {
	next, seen := ids(1), map[string]bool{}
	for range 1000 {
		id := next()
		if len(id) != 64 || seen[id] {
			t.Fatalf("id %q is not 64 characters, or was there before", id)
		}
		seen[id] = true
	}
}
