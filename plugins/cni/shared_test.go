// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
	"github.com/railyard-net/railyard/rdma"
)

// namespaces gives one that lives and one that is gone.
func namespaces(t *testing.T) (living, gone ipam.NetNS) {
	t.Helper()
	living, err := ipam.StatNetNS("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var s unix.Stat_t
	if err := unix.Stat(dir, &s); err != nil {
		t.Fatal(err)
	}
	gone = ipam.NetNS{Path: dir + "/none", Dev: living.Dev, Ino: living.Ino + 1, AnchorDev: s.Dev, AnchorIno: s.Ino}
	if living.Gone() || !gone.Gone() {
		t.Fatalf("living %v, gone %v", !living.Gone(), gone.Gone())
	}
	return living, gone
}

func TestInheritToS(t *testing.T) {
	living, gone := namespaces(t)
	port := func(index uint32, port int, value, old uint8, class *int) *journal.ToS {
		return &journal.ToS{Device: "mlx5_0", ID: rdma.ID{Index: index}, Port: port, Value: value, Old: old, OldClass: class}
	}
	of := func(id string, ns ipam.NetNS, list ...*journal.ToS) journal.Journal {
		j := journal.Journal{ContainerID: id, IfName: "net1", Network: "n-" + id, NetNS: ns}
		for _, s := range list {
			j.Steps = append(j.Steps, journal.Step{ToS: s})
		}
		return j
	}
	none := rdma.NoTrafficClass
	for name, c := range map[string]struct {
		others    []journal.Journal
		want      *journal.ToS
		wantWords string
	}{
		"alone":               {nil, port(1, 1, 106, 42, nil), ""},
		"same value":          {[]journal.Journal{of("a", living, port(1, 1, 106, 7, &none))}, port(1, 1, 106, 7, &none), ""},
		"another value":       {[]journal.Journal{of("a", living, port(1, 1, 26, 7, nil))}, nil, "a@net1 of network n-a has set 26"},
		"another port":        {[]journal.Journal{of("a", living, port(1, 2, 26, 7, nil))}, port(1, 1, 106, 42, nil), ""},
		"another device":      {[]journal.Journal{of("a", living, port(2, 1, 26, 7, nil))}, port(1, 1, 106, 42, nil), ""},
		"a dead one's value":  {[]journal.Journal{of("a", gone, port(1, 1, 26, 7, nil))}, port(1, 1, 106, 7, nil), ""},
		"dead before living":  {[]journal.Journal{of("a", gone, port(1, 1, 106, 7, nil)), of("b", living, port(1, 1, 26, 7, nil))}, nil, "b@net1"},
		"living before dead":  {[]journal.Journal{of("b", living, port(1, 1, 26, 7, nil)), of("a", gone, port(1, 1, 106, 7, nil))}, nil, "b@net1"},
		"no hold in journals": {[]journal.Journal{of("a", living)}, port(1, 1, 106, 42, nil), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := port(1, 1, 106, 42, nil)
			err := inheritToS(got, c.others)
			switch {
			case c.wantWords != "":
				if err == nil || dispatch.Code(err) != dispatch.CodeRDMA || !strings.Contains(err.Error(), c.wantWords) {
					t.Errorf("error %v, want one with %q", err, c.wantWords)
				}
			case err != nil:
				t.Error(err)
			default:
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func TestSysctlHolder(t *testing.T) {
	living, gone := namespaces(t)
	other := living
	other.Ino += 7
	old := "0"
	lasting := &journal.Sysctl{Path: "net/a/b", Value: "1", Old: &old}
	own := &journal.Sysctl{Path: "net/a/b", Value: "1"}
	reused := gone // a dead pod's, whose inode another namespace has by now
	reused.Dev, reused.Ino = living.Dev, living.Ino
	for name, c := range map[string]struct {
		ns   ipam.NetNS
		has  *journal.Sysctl
		want bool
	}{
		"same pod": {living, lasting, true}, "another pod": {other, lasting, false}, "goes with the interface": {living, own, false},
		"another setting": {living, &journal.Sysctl{Path: "net/a/c", Old: &old}, false}, "inode used again": {reused, lasting, false},
	} {
		all := []journal.Journal{{NetNS: c.ns, Steps: []journal.Step{{Sysctl: c.has}}}}
		if got := sysctlHolder(all, living, "net/a/b"); (got != nil) != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
