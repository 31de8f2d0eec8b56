//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"errors"
	"testing"
)

// The plugin finds a NIC by its PCI address and gives the pod a macvlan of it.
func TestPluginMacvlan(t *testing.T) {
	n := nics(t)[0]
	pod := newSpace(t)
	a := attach(t, n.host, pod, "net1", map[string]any{"master": n.pci})
	a.mustRun("ADD")
	l := pod.get("net1")
	if l.Type() != "macvlan" || l.Attrs().ParentIndex != n.host.get(n.name).Attrs().Index {
		t.Errorf("the pod has a %s of link %d", l.Type(), l.Attrs().ParentIndex)
	}
	a.mustRun("CHECK")
	a.mustRun("DEL")
	if pod.has("net1") {
		t.Error("DEL left the interface")
	}
	a.mustRun("DEL")
}

// In shared mode a pod's address becomes usable for RDMA without the plugin's help: the rail's device takes it into its table.
func TestPluginMacvlanGID(t *testing.T) {
	needShared(t)
	n := nics(t)[1]
	pod := newSpace(t)
	must(t, n.host.link.LinkSetUp(n.host.get(n.name)))
	n.host.rxe("rxe0", n.name)
	a := attach(t, n.host, pod, "net1", map[string]any{"master": n.name})
	a.mustRun("ADD")
	pod.address("net1", "10.9.0.11/24")
	waitGID(t, "rxe0", "10.9.0.11")
	a.mustRun("DEL")
	eventually(t, func() error {
		all, err := gids("rxe0")
		for _, g := range all {
			if g.link == "net1" {
				err = errors.Join(err, errors.New("the GID is still there"))
			}
		}
		return err
	})
}
