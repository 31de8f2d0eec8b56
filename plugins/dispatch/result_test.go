// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package dispatch_test

import (
	"bytes"
	"encoding/json"
	"net"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/plugins/dispatch"
)

// TestEncode: what is printed is what the library would print.
func TestEncode(t *testing.T) {
	_, n, err := net.ParseCIDR("10.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	full := current.Result{
		Interfaces: []*current.Interface{{Name: "net1", Mac: "02:00:00:00:00:01", Mtu: 9000, Sandbox: "/n", PciID: "0000:3b:00.0"}},
		IPs:        []*current.IPConfig{{Interface: current.Int(0), Address: *n, Gateway: net.IPv4(10, 0, 0, 1)}},
		Routes:     []*types.Route{{Dst: *n, GW: net.IPv4(10, 0, 0, 1), MTU: 1500, Table: new(7)}},
	}
	named := full
	named.DNS = types.DNS{Nameservers: []string{"10.0.0.53"}, Search: []string{"<x>"}}
	for name, r := range map[string]current.Result{"empty": {}, "full": full, "with DNS": named} {
		for _, v := range dispatch.Versions() {
			r.CNIVersion = current.ImplementedSpecVersion
			got, err := dispatch.Encode(&r, v)
			if err != nil {
				t.Fatal(err)
			}
			at, err := r.GetAsVersion(v)
			if err != nil {
				t.Fatal(err)
			}
			var want bytes.Buffer
			if err := at.PrintTo(&want); err != nil {
				t.Fatal(err)
			}
			var x, y any
			if err := json.Unmarshal(got, &x); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(want.Bytes(), &y); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(y, x); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", name, v, diff)
			}
		}
	}
}
