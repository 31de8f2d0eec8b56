// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/plugins/cni/journal"
)

const (
	guidA = "02:11:22:33:44:55:66:77"
	guidB = "02:00:00:00:00:00:00:01"
)

// vfList is a link's attributes as the kernel writes them, with the node and port GUIDs of virtual functions 0, 1 and so on.
func vfList(t *testing.T, list ...guids) []byte {
	t.Helper()
	all := nl.NewRtAttr(unix.IFLA_VFINFO_LIST|unix.NLA_F_NESTED, nil)
	for i, g := range list {
		info := all.AddRtAttr(nl.IFLA_VF_INFO|unix.NLA_F_NESTED, nil)
		for kind, text := range map[int]string{nl.IFLA_VF_IB_NODE_GUID: g.node, nl.IFLA_VF_IB_PORT_GUID: g.port} {
			if text == "" {
				continue
			}
			mac, err := net.ParseMAC(text)
			if err != nil {
				t.Fatal(err)
			}
			var v uint64
			for _, b := range mac {
				v = v<<8 | uint64(b)
			}
			info.AddRtAttr(kind, (&nl.VfGUID{Vf: uint32(i), GUID: v}).Serialize())
		}
	}
	name := nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("ib0"))
	return append(name.Serialize(), all.Serialize()...)
}

func TestParseGUIDs(t *testing.T) {
	b := vfList(t, guids{guidB, guidB}, guids{guidA, guidB}, guids{})
	for number, want := range []guids{{guidB, guidB}, {guidA, guidB}, {}, {}} {
		if got, err := parseGUIDs(b, number); got != want || err != nil {
			t.Errorf("%d: %+v, %v, want %+v", number, got, err, want)
		}
	}
	short := nl.NewRtAttr(unix.IFLA_VFINFO_LIST, nil)
	short.AddRtAttr(nl.IFLA_VF_INFO, nil).AddRtAttr(nl.IFLA_VF_IB_NODE_GUID, []byte{1, 2, 3, 4})
	if got, err := parseGUIDs(short.Serialize(), 0); err == nil {
		t.Errorf("too short: %+v", got)
	}
}

func TestWithGUID(t *testing.T) {
	want, err := net.ParseMAC(guidA)
	if err != nil {
		t.Fatal(err)
	}
	trust := true
	fresh := journal.VF{PF: "0000:3b:00.0", Number: 3}
	for name, c := range map[string]struct {
		vf   *journal.VF
		is   guids
		want *journal.VF
	}{
		"both":     {nil, guids{guidB, guidB}, &journal.VF{PF: fresh.PF, Number: 3, Set: journal.VFState{NodeGUID: guidA, PortGUID: guidA}, Old: journal.VFState{NodeGUID: guidB, PortGUID: guidB}}},
		"port":     {nil, guids{guidA, guidB}, &journal.VF{PF: fresh.PF, Number: 3, Set: journal.VFState{PortGUID: guidA}, Old: journal.VFState{PortGUID: guidB}}},
		"has it":   {nil, guids{guidA, guidA}, nil},
		"and more": {&journal.VF{Number: 3, Set: journal.VFState{Trust: &trust}}, guids{guidA, guidB}, &journal.VF{Number: 3, Set: journal.VFState{Trust: &trust, PortGUID: guidA}, Old: journal.VFState{PortGUID: guidB}}},
		"no more":  {&journal.VF{Number: 3, Set: journal.VFState{Trust: &trust}}, guids{guidA, guidA}, &journal.VF{Number: 3, Set: journal.VFState{Trust: &trust}}},
	} {
		if diff := cmp.Diff(c.want, withGUID(c.vf, fresh, want, c.is)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// What the function has already is not set again: a driver that refuses to would keep the rest from being restored.
func TestMissingGUIDs(t *testing.T) {
	s := journal.VFState{NodeGUID: guidA, PortGUID: guidB}
	for is, want := range map[guids]journal.VFState{
		{guidA, guidB}: {}, {guidA, guidA}: {PortGUID: guidB}, {guidB, guidB}: {NodeGUID: guidA}, {}: s,
	} {
		if got := missingGUIDs(s, is); got != want {
			t.Errorf("%+v: %+v, want %+v", is, got, want)
		}
	}
	if got := missingGUIDs(journal.VFState{}, guids{guidA, guidB}); got != (journal.VFState{}) {
		t.Errorf("%+v", got)
	}
}

// FuzzParseGUIDs: of any bytes, the same GUIDs for the same function, or an error.
func FuzzParseGUIDs(f *testing.F) {
	f.Add([]byte{}, 0)
	f.Add([]byte{4, 0, unix.IFLA_VFINFO_LIST, 0}, 1)
	short := nl.NewRtAttr(unix.IFLA_VFINFO_LIST, nil)
	short.AddRtAttr(nl.IFLA_VF_INFO, nil).AddRtAttr(nl.IFLA_VF_IB_NODE_GUID, make([]byte, 16))
	f.Add(short.Serialize(), 0)
	f.Fuzz(func(t *testing.T, b []byte, number int) {
		got, err := parseGUIDs(b, number)
		if err != nil {
			return
		}
		for _, text := range []string{got.node, got.port} {
			if mac, err := net.ParseMAC(text); text != "" && (err != nil || len(mac) != 8) {
				t.Errorf("%q is no GUID", text)
			}
		}
	})
}
