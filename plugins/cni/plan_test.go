// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

func testMaster() master {
	a := netlink.NewLinkAttrs()
	a.Name, a.Index, a.MTU, a.HardwareAddr = "rail0", 7, 9000, net.HardwareAddr{2, 0, 0, 0, 0, 1}
	return master{link: &netlink.Veth{LinkAttrs: a}}
}

func TestPlanLink(t *testing.T) {
	id := journal.ID{ContainerID: "c", IfName: "net1"}
	derived := deriveMAC(id).String()
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	const masters = "02:00:00:00:00:01"
	for name, c := range map[string]struct {
		spec      conf.Spec
		mtu       int
		want      *journal.Link
		wantField string
	}{
		"defaults":         {spec: conf.Spec{Kind: "macvlan", Mode: "bridge"}, want: &journal.Link{Mode: "bridge", MTU: 9000, MAC: derived}},
		"all":              {spec: conf.Spec{Kind: "macvlan", Mode: "vepa", MAC: mac}, mtu: 1500, want: &journal.Link{Mode: "vepa", MTU: 1500, MAC: mac.String()}},
		"passthru":         {spec: conf.Spec{Kind: "macvlan", Mode: "passthru"}, want: &journal.Link{Mode: "passthru", MTU: 9000, MAC: masters}},
		"passthru and MAC": {spec: conf.Spec{Kind: "macvlan", Mode: "passthru", MAC: mac}, wantField: "mac"},
		"MTU":              {spec: conf.Spec{Kind: "macvlan", Mode: "bridge"}, mtu: 9001, wantField: "mtu"},
		"ipvlan":           {spec: conf.Spec{Kind: "ipvlan", Mode: "l3"}, want: &journal.Link{Mode: "l3", MTU: 9000, MAC: masters}},
		"ipvlan and MAC":   {spec: conf.Spec{Kind: "ipvlan", Mode: "l2", MAC: mac}, wantField: "mac"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := planLink(c.spec, conf.RailSpec{MTU: c.mtu}, testMaster(), id)
			var field *conf.FieldError
			if errors.As(err, &field) != (c.wantField != "") || field != nil && field.Field != c.wantField {
				t.Fatalf("%v, want an error on %q", err, c.wantField)
			}
			if c.want != nil {
				c.want.Kind, c.want.Name, c.want.Parent, c.want.Master = c.spec.Kind, "net1", 7, "rail0"
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// An IPoIB link has its master's mode and partition if it is told none, and in another mode an MTU that the master's says nothing of.
func TestPlanIPoIB(t *testing.T) {
	for name, tt := range map[string]struct {
		master    netlink.IPoIBMode
		spec      conf.Spec
		mtu       int
		want      journal.Link // mode, partition and MTU
		wantField string
	}{
		"the master's":            {master: netlink.IPOIB_MODE_CONNECTED, want: journal.Link{Mode: "connected", PKey: 0xffff, MTU: 4092}},
		"its own":                 {spec: conf.Spec{Mode: "datagram", PKey: 0x8001}, mtu: 2000, want: journal.Link{Mode: "datagram", PKey: 0x8001, MTU: 2000}},
		"more than the master's":  {mtu: 4093, wantField: "mtu"},
		"connected":               {spec: conf.Spec{Mode: "connected"}, want: journal.Link{Mode: "connected", PKey: 0xffff}},
		"connected, an MTU":       {spec: conf.Spec{Mode: "connected"}, mtu: 65520, want: journal.Link{Mode: "connected", PKey: 0xffff, MTU: 65520}},
		"connected, too large":    {spec: conf.Spec{Mode: "connected"}, mtu: 65521, wantField: "mtu"},
		"datagram on connected":   {master: netlink.IPOIB_MODE_CONNECTED, spec: conf.Spec{Mode: "datagram"}, want: journal.Link{Mode: "datagram", PKey: 0xffff}},
		"an address of one's own": {spec: conf.Spec{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}}, wantField: "mac"},
	} {
		t.Run(name, func(t *testing.T) {
			a := netlink.NewLinkAttrs()
			a.Name, a.MTU = "ib0", 4092
			tt.spec.Kind = "ipoib"
			m := master{link: &netlink.IPoIB{LinkAttrs: a, Mode: tt.master, Pkey: 0xffff}}
			got, err := planLink(tt.spec, conf.RailSpec{MTU: tt.mtu}, m, journal.ID{ContainerID: "c", IfName: "net1"})
			if tt.wantField != "" {
				var field *conf.FieldError
				if !errors.As(err, &field) || field.Field != tt.wantField {
					t.Fatalf("%v, want an error on %q", err, tt.wantField)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, journal.Link{Mode: got.Mode, PKey: got.PKey, MTU: got.MTU}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDeriveMAC(t *testing.T) {
	seen := map[string]bool{}
	for _, id := range []journal.ID{{ContainerID: "a", IfName: "b"}, {ContainerID: "a", IfName: "c"}, {ContainerID: "b", IfName: "b"}} {
		mac := deriveMAC(id)
		if mac[0]&3 != 2 || seen[mac.String()] || mac.String() != deriveMAC(id).String() {
			t.Errorf("%s: %s", id, mac)
		}
		seen[mac.String()] = true
	}
}

// A macvlan on a macvlan stands beside it: what it shows as its parent is the device below. An ipvlan stands on it.
func TestParent(t *testing.T) {
	if got := testMaster().parent(conf.KindMacvlan); got != 7 {
		t.Error(got)
	}
	m := master{link: &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Index: 9, ParentIndex: 7}}}
	if got := m.parent(conf.KindMacvlan); got != 7 {
		t.Error(got)
	}
	if got := m.parent(conf.KindIPvlan); got != 9 {
		t.Error(got)
	}
}

func TestFromLease(t *testing.T) {
	a := fromLease(ipam.Lease{
		Addresses: []ipam.Address{{Prefix: netip.MustParsePrefix("10.0.0.7/8"), Gateway: netip.MustParseAddr("10.0.0.1")}, {Prefix: netip.MustParsePrefix("fd00::7/64")}},
		Routes:    []ipam.Route{{Dst: netip.MustParsePrefix("10.9.0.0/16")}, {Dst: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fd00::1")}},
	})
	r := a.appendTo(&current.Result{CNIVersion: "1.1.0", Interfaces: []*current.Interface{{Name: "x"}}}, &current.Interface{Name: "net1"}, conf.Spec{})
	b, err := json.Marshal(r)
	want := `{"cniVersion":"1.1.0","interfaces":[{"name":"x"},{"name":"net1"}],` +
		`"ips":[{"address":"10.0.0.7/8","gateway":"10.0.0.1","interface":1},{"address":"fd00::7/64","interface":1}],` +
		`"routes":[{"dst":"10.9.0.0/16"},{"dst":"::/0","gw":"fd00::1"}]}`
	if string(b) != want || err != nil || !a.has6() {
		t.Errorf("%s %v, want\n%s", b, err, want)
	}
	if a.install[0].GW != nil {
		t.Error("a route of ours without a next hop is on the link")
	}
}

// A route of another plugin's without a next hop goes to the first gateway of its family.
func TestFromResult(t *testing.T) {
	cidr := func(s string) net.IPNet {
		_, n, err := net.ParseCIDR(s)
		if err != nil {
			t.Fatal(err)
		}
		return *n
	}
	r := &current.Result{
		IPs:    []*current.IPConfig{{Address: cidr("10.0.0.0/8")}, {Address: cidr("10.0.0.0/8"), Gateway: net.ParseIP("10.0.0.1")}, {Address: cidr("fd00::/64")}},
		Routes: []*types.Route{{Dst: cidr("0.0.0.0/0")}, {Dst: cidr("::/0")}, {Dst: cidr("10.9.0.0/16"), GW: net.ParseIP("10.0.0.9")}},
	}
	a := fromResult(r)
	if got := []string{a.install[0].GW.String(), a.install[1].GW.String(), a.install[2].GW.String()}; !cmp.Equal(got, []string{"10.0.0.1", "<nil>", "10.0.0.9"}) {
		t.Error(got)
	}
	if r.Routes[0].GW != nil {
		t.Error("the result itself is to stay as it came")
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	for path, ok := range map[string]bool{"": false, dir: false, ":" + filepath.Dir(dir): false} {
		if _, err := find("x", path); (err == nil) != ok || !errors.Is(err, errNoPlugin) {
			t.Errorf("%q: %v", path, err)
		}
	}
	if _, err := find("../sh", "/bin/x:/bin"); !errors.Is(err, errNoPlugin) {
		t.Errorf("a path for a name: %v", err)
	}
}

// TestByBus: of a device without exactly one link it is said why not.
func TestByBus(t *testing.T) {
	sys := fstest.MapFS{
		"bus/pci/devices/0000:01:00.0/net/a":  {},
		"bus/pci/devices/0000:02:00.0/net":    {Mode: fs.ModeDir}, // its link is in another namespace
		"bus/pci/devices/0000:03:00.0/vendor": {},                 // no link ever, as for RDMA alone
		"bus/pci/devices/0000:04:00.0/net/a":  {},
		"bus/pci/devices/0000:04:00.0/net/b":  {},
	}
	for address, words := range map[string]string{
		"0000:01:00.0": "", "0000:02:00.0": "no network link on the host: a pod has it", "0000:03:00.0": "for RDMA alone", "0000:04:00.0": "has the links [a b]",
		"0000:05:00.0": "the host has no device 0000:05:00.0",
	} {
		name, err := byBus(sys, "pci", "device", address)
		if words == "" && (err != nil || name != "a") || words != "" && (err == nil || !strings.Contains(err.Error(), words) || dispatch.Code(err) != dispatch.CodeMaster) {
			t.Errorf("%s: %q, %v", address, name, err)
		}
	}
}
