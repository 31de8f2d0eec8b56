// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestOfNetDev(t *testing.T) {
	card := func(t tree) {
		t.card([2]string{"mlx5_0", "mlx5_1"})
		t.netdev("", "bond1", 0) // without LAG
		t.link("devices/virtual/net/bond1/lower_ens1f0np0", netPath(pf0, "ens1f0np0"))
		t.link("devices/virtual/net/bond1/lower_ens1f1np1", netPath(pf1, "ens1f1np1"))
		t.netdev("", "lo", 0)
		t.netdev("", "ring", 0)
		t.link("devices/virtual/net/ring/lower_ring", "devices/virtual/net/ring")
	}
	tests := map[string]struct {
		make   func(tree)
		netdev string
		want   []string
	}{
		"hardware":          {card, "ens1f1np1", []string{"mlx5_1"}},
		"representor":       {card, "eth_rep0", []string{"mlx5_0"}},
		"bond of two":       {card, "bond1", []string{"mlx5_0", "mlx5_1"}},
		"none":              {card, "lo", nil},
		"on itself":         {card, "ring", nil},
		"RoCE LAG":          {lag, "bond0", []string{"mlx5_bond_0"}},
		"VLAN on RoCE LAG":  {lag, "bond0.100", []string{"mlx5_bond_0"}},
		"LAG's first port":  {lag, "ens1f0np0", []string{"mlx5_bond_0"}},
		"LAG's second port": {lag, "ens1f1np1", nil},
		"soft RoCE":         {soft, "eth0", []string{"rxe0"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			sys := tree{}
			test.make(sys)
			devices, err := Discover(sys)
			if err != nil {
				t.Fatal(err)
			}
			found, err := OfNetDev(sys, devices, test.netdev)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range found {
				got = append(got, d.Name)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("devices (-want +got):\n%s", diff)
			}
			if _, err := OfNetDev(sys, devices, "eth9"); !errors.Is(err, ErrNotFound) {
				t.Errorf("got %v for an interface that is not there", err)
			}
			for _, bad := range []string{"", ".", "..", "../infiniband", "a/b"} {
				if _, err := OfNetDev(sys, devices, bad); err == nil {
					t.Errorf("no error for the name %q", bad)
				}
			}
		})
	}
}

func TestFunctions(t *testing.T) {
	sys := tree{}
	sys.card([2]string{"mlx5_0", "mlx5_1"})
	sys.function(pf0+"/mlx5_core.sf.4", "")
	sys.netdev(pf0+"/mlx5_core.sf.4", "enp59s0f0s88", 0)
	sys.function("devices/pci0000:17/0000:17:00.0", "0")
	// virtfn1 was unplugged.
	const vf2 = "devices/pci0000:3a/0000:3a:00.0/0000:3b:00.4"
	sys.function(vf2, "1")
	sys.link(vf2+"/physfn", pf0)
	sys.link(pf0+"/virtfn2", vf2)

	netdevs := map[BusAddr][]string{
		"0000:3b:00.0": {"ens1f0np0", "eth_rep0"}, "mlx5_core.sf.4": {"enp59s0f0s88"}, "0000:17:00.0": nil,
	}
	for bus, want := range netdevs {
		got, err := NetDevs(sys, bus)
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" || err != nil {
			t.Errorf("%v, interfaces of %s (-want +got):\n%s", err, bus, diff)
		}
	}
	type physfn struct {
		pf BusAddr
		vf int
		ok bool
	}
	for bus, want := range map[BusAddr]physfn{
		"0000:3b:00.2": {"0000:3b:00.0", 0, true}, "0000:3b:00.4": {"0000:3b:00.0", 2, true}, "0000:3b:00.0": {},
	} {
		pf, vf, ok, err := PhysFn(sys, bus)
		if got := (physfn{pf, vf, ok}); got != want || err != nil {
			t.Errorf("got %+v, %v for %s, want %+v", got, err, bus, want)
		}
	}
	for _, bus := range []BusAddr{"0000:ff:00.0", "mlx5_core.sf.9", "", "../../class"} {
		_, err := NetDevs(sys, bus)
		_, _, _, physErr := PhysFn(sys, bus)
		if err == nil || physErr == nil {
			t.Errorf("%q: got %v and %v, want errors", bus, err, physErr)
		}
		if bus.IsPCI() && (!errors.Is(err, ErrNotFound) || !errors.Is(physErr, ErrNotFound)) {
			t.Errorf("%q: got %v and %v, want ErrNotFound", bus, err, physErr)
		}
	}
	delete(sys, pf0+"/virtfn2")
	if _, _, _, err := PhysFn(sys, "0000:3b:00.4"); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v for a function that the other does not know", err)
	}
	sys.link(vf2+"/physfn", "devices/platform/acme")
	if _, _, _, err := PhysFn(sys, "0000:3b:00.4"); err == nil {
		t.Error("no error for a physfn that is no PCI function")
	}
}
