// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/wire"
)

// Without their methods, for package json to write and read them by itself.
type (
	plainRequest wire.Request
	plainReply   wire.Reply
)

// TestJSON: a line is what it always was, though most of package json's preparations are left out.
func TestJSON(t *testing.T) {
	key := ipam.Key{Network: "n", ContainerID: "c", IfName: "i"}
	for _, r := range []wire.Request{
		{V: 1, Verb: wire.Lease, TimeoutMS: 7, Request: &ipam.Request{Key: key, Pool: "p", Static: []netip.Addr{netip.MustParseAddr("10.0.0.7")}}},
		{V: 1, Verb: wire.Lease},
		{V: 1, Verb: wire.Release, TimeoutMS: 7, Key: key},
		{V: 1, Verb: wire.Release},
		{V: 1, Verb: wire.Lookup, Key: key},
		{V: 1, Verb: wire.Decline, Key: key, Conflict: ipam.Conflict{Address: netip.MustParseAddr("fd00::7"), Neighbour: "x"}},
		{V: 1, Verb: wire.Retain, Network: "n", Keep: []ipam.Key{key}},
		{V: 1, Verb: wire.Ready, Pool: "p"},
		{V: 2, Verb: "other", Pool: "p"},
	} {
		got, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		want, err := json.Marshal(plainRequest(r))
		if err != nil || string(got) != string(want) {
			t.Errorf("%s, want %s, %v", got, want, err)
		}
	}
	for _, r := range []wire.Reply{
		{V: 1},
		{V: 1, Count: 7},
		{V: 1, Error: &wire.Error{Code: "invalid", Field: "f", Detail: "d"}},
		{V: 1, Lease: &ipam.Lease{Key: key, Pool: "p", Since: time.Unix(7, 0).UTC(), Probe: true,
			Addresses: []ipam.Address{{Prefix: netip.MustParsePrefix("10.0.0.7/8"), Gateway: netip.MustParseAddr("10.0.0.1")}}}},
	} {
		line, err := json.Marshal(plainReply(r))
		if err != nil {
			t.Fatal(err)
		}
		got, err := wire.ParseReply(line)
		if diff := cmp.Diff(r, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" || err != nil {
			t.Errorf("%s (-want +got):\n%s%v", line, diff, err)
		}
	}
	for _, line := range []string{`{"v":1,"lease":7}`, `{"v":1,"error":[]}`, `{"v":1,"lease":{"addresses":[{"prefix":"x"}]}}`, `{"v":1,"lease":null}`} {
		var plain plainReply
		want := json.Unmarshal([]byte(line), &plain)
		if r, err := wire.ParseReply([]byte(line)); (err == nil) != (want == nil) || r.Lease != nil {
			t.Errorf("%s: %+v, %v; by itself %v", line, r, err, want)
		}
	}
}
