// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package multus

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/vishvananda/netlink"
)

// chained is a network in which tuning and sbr, the reference plugins, come behind railyard. An MTU belongs into railyard's own config:
// tuning sets one and keeps it from its result.
func chained(name string) map[string]any {
	ours := network("", map[string]any{"name": nil, "cniVersion": nil})
	return map[string]any{"cniVersion": "1.0.0", "name": name, "plugins": []any{
		ours,
		map[string]any{"type": "tuning", "mac": "02:aa:bb:cc:dd:ee", "txQLen": 777, "dataDir": "/run/cni/tuning", "sysctl": map[string]string{"net.ipv4.conf.IFNAME.arp_filter": "1"}},
		map[string]any{"type": "sbr"},
	}}
}

// tuned looks that tuning and sbr have done their work on the interface.
func (p *pod) tuned(name string) error {
	return lab.node.InPod(p.name, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if a := link.Attrs(); a.HardwareAddr.String() != "02:aa:bb:cc:dd:ee" || a.TxQLen != 777 {
			return fmt.Errorf("%s has %s and a queue of %d: tuning did not set them", name, a.HardwareAddr, a.TxQLen)
		}
		value, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + name + "/arp_filter")
		if err != nil {
			return err
		}
		if string(value) != "1\n" {
			return fmt.Errorf("arp_filter is %q: tuning did not set it", value)
		}
		rules, err := netlink.RuleList(netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		for _, r := range rules {
			if r.Src == nil || r.Table < 100 {
				continue
			}
			routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: r.Table, LinkIndex: link.Attrs().Index}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
			if err == nil && len(routes) == 0 {
				err = fmt.Errorf("no route in table %d over %s: sbr did not move them", r.Table, name)
			}
			return err
		}
		return fmt.Errorf("rules %v: sbr did not add one", rules)
	})
}

// TestChained: tuning and sbr behind railyard, behind Multus.
func TestChained(t *testing.T) {
	done := begin(t)
	define(t, "default", "chain", false, chained("chain"))
	p := newPod(t, "chain")
	p.add()
	must(t, p.tuned("net1"))
	p.checkStatus()
	p.del()
	if left := p.rails(); len(left) > 0 {
		t.Errorf("DEL left %v in the pod", left)
	}
	done()
}

// TestChained_CHECK: the same by libcni, as Multus calls CHECK for the default network alone: what the plugins behind railyard changed
// is no drift, what a pod changes is.
func TestChained_CHECK(t *testing.T) {
	done := begin(t)
	p := newPod(t, "")
	text, err := json.Marshal(chained("chain"))
	must(t, err)
	list, err := libcni.NetworkConfFromBytes(text)
	must(t, err)
	rt := &libcni.RuntimeConf{ContainerID: p.box.Container, NetNS: p.box.NetNS, IfName: "net1"}
	// On a thread inside of the node, which what it executes inherits.
	run := func(f func(c *libcni.CNIConfig) error) error {
		return lab.node.Do(func() error {
			return f(libcni.NewCNIConfigWithCacheDir(strings.Split(lab.multus.Path, ":"), "/run/cni/libcni", nil))
		})
	}
	check := func() error {
		return run(func(c *libcni.CNIConfig) error { return c.CheckNetworkList(t.Context(), list, rt) })
	}
	must(t, run(func(c *libcni.CNIConfig) error {
		_, err := c.AddNetworkList(t.Context(), list, rt)
		return err
	}))
	must(t, p.tuned("net1"))
	must(t, check())
	must(t, lab.node.InPod(p.name, func() error {
		link, err := netlink.LinkByName("net1")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(link)
	}))
	if err := check(); err == nil || !strings.Contains(err.Error(), "net1") {
		t.Errorf("CHECK of an interface that is down: %v", err)
	}
	must(t, run(func(c *libcni.CNIConfig) error { return c.DelNetworkList(t.Context(), list, rt) }))
	must(t, run(func(c *libcni.CNIConfig) error { return c.DelNetworkList(t.Context(), list, rt) }))
	if left := p.rails(); len(left) > 0 {
		t.Errorf("DEL left %v in the pod", left)
	}
	done()
}
