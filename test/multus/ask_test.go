// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package multus

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestString: networks by name, by namespace and name, with a name for the interface, and one of them twice.
func TestString(t *testing.T) {
	_, err := lab.api.Client().CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	addLink(t, "rail1", 1400, "")
	done := begin(t)
	define(t, "default", "net-a", false, network("net-a", nil))
	define(t, "other", "net-b", false, network("net-b", map[string]any{"master": "rail1", "ipam": map[string]any{"type": "railyard-ipam", "pool": "rail1"}}))
	p := newPod(t, "net-a@first, other/net-b, default/net-a")
	p.add()
	p.checkStatus()
	status := p.status()
	names := map[string]string{}
	for name, s := range status {
		names[name] = s.Name
	}
	if diff := cmp.Diff(map[string]string{"first": "default/net-a", "net2": "other/net-b", "net3": "default/net-a"}, names); diff != "" {
		t.Errorf("interfaces by network (-want +got):\n%s", diff)
	}
	if status["net2"].Mtu != 1400 || len(status["net2"].IPs) != 2 || slices.Equal(status["first"].IPs, status["net3"].IPs) {
		t.Errorf("status: %+v", status)
	}
	p.del()
	p.del() // as a kubelet does that was not sure
	done()
}

// TestJSON: what a pod may wish for by the long form of the annotation.
func TestJSON(t *testing.T) {
	done := begin(t)
	define(t, "default", "net-a", false, network("net-a", nil))
	t.Run("ips, mac, interface and default route", func(t *testing.T) {
		p := newPod(t, `[{"name":"net-a","interface":"rail7","ips":["10.20.255.7/16"],"mac":"02:11:22:33:44:55","default-route":["10.20.0.1"]}]`)
		p.add()
		p.checkStatus()
		got := p.rails()["rail7"]
		if got.MAC != "02:11:22:33:44:55" || !slices.Contains(got.IPs, "10.20.255.7") || len(got.IPs) != 2 {
			t.Errorf("rail7 is %+v", got)
		}
		if via := p.defaultRoutes(); !slices.Equal(via, []string{"10.20.0.1 rail7"}) {
			t.Errorf("default routes: %v", via)
		}
		p.del()
	})
	t.Run("cni-args", func(t *testing.T) {
		p := newPod(t, `[{"name":"net-a","cni-args":{"ips":["10.20.255.8"],"mac":"02:11:22:33:44:66"}}]`)
		p.add()
		p.checkStatus()
		if got := p.rails()["net1"]; got.MAC != "02:11:22:33:44:66" || !slices.Contains(got.IPs, "10.20.255.8") {
			t.Errorf("net1 is %+v", got)
		}
		p.del()
	})
	t.Run("an address that is taken", func(t *testing.T) {
		const wish = `[{"name":"net-a","ips":["10.20.255.9"]}]`
		first := newPod(t, wish)
		first.add()
		t.Run("by another", func(t *testing.T) {
			done := begin(t)
			p := newPod(t, wish)
			p.failAdd("10.20.255.9", "taken")
			p.del()
			done()
		})
		first.del()
	})
	done()
}

// defaultRoutes are the pod's IPv4 default routes as next hop and link.
func (p *pod) defaultRoutes() (out []string) {
	p.t.Helper()
	must(p.t, lab.node.InPod(p.name, func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		for _, r := range routes {
			if r.Dst != nil && !r.Dst.IP.Equal(net.IPv4zero) {
				continue
			}
			l, err := netlink.LinkByIndex(r.LinkIndex)
			if err != nil {
				return err
			}
			out = append(out, fmt.Sprint(r.Gw, " ", l.Attrs().Name))
		}
		return err
	}))
	return out
}

// TestDevices: Multus asks the kubelet which devices the pod was given, and hands one to each mention of the network. The pinned Multus,
// 4.2, does so in the kubelet's order; 4.3 sorts the IDs first.
func TestDevices(t *testing.T) {
	macs := map[string]string{}
	for name, pci := range map[string]string{"nica": "0000:3b:00.3", "nicb": "0000:3b:00.1", "nicc": "0000:3b:00.2"} {
		macs[pci] = addLink(t, name, 1600, pci)
	}
	done := begin(t)
	define(t, "default", "device", true, network("device", map[string]any{"kind": "host-device", "master": nil}))
	for name, order := range map[string][]string{
		"by ID":                  {"0000:3b:00.1", "0000:3b:00.2", "0000:3b:00.3"},
		"in the kubelet's order": {"0000:3b:00.3", "0000:3b:00.1", "0000:3b:00.2"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, "device,device,device", order...)
			p.add()
			p.checkStatus()
			rails, status := p.rails(), p.status()
			for i, pci := range order {
				name := fmt.Sprintf("net%d", i+1)
				if got := rails[name]; got.MAC != macs[pci] || got.Type != "veth" {
					t.Errorf("%s is %+v, want the device %s with %s", name, got, pci, macs[pci])
				}
				if info := status[name].DeviceInfo; info == nil || info.Pci == nil || info.Pci.PciAddress != pci {
					t.Errorf("device information of %s: %+v, want %s", name, info, pci)
				}
			}
			p.del()
			done()
		})
	}
	t.Run("none was given", func(t *testing.T) {
		p := newPod(t, "device")
		p.failAdd("deviceID", "have the pod request the network's resource")
		p.del()
		done()
	})
	t.Run("one too few", func(t *testing.T) {
		p := newPod(t, "device,device", "0000:3b:00.2")
		p.failAdd("have the pod request the network's resource")
		p.del() // gives back the one that was attached
		done()
	})
}

// TestNetworkStatus: users and schedulers read it there, so each interface is in it, with what the kernel has.
func TestNetworkStatus(t *testing.T) {
	addLink(t, "rail1", 1400, "0000:5e:00.0")
	done := begin(t)
	t.Run("rails", func(t *testing.T) {
		define(t, "default", "rails", false, network("rails", map[string]any{"master": nil, "rails": []any{
			map[string]any{"master": "rail0", "mtu": 9000},
			map[string]any{"master": "rail1", "pool": "rail1"},
		}}))
		p := newPod(t, "rails@fast")
		p.add()
		p.checkStatus()
		status := p.status()
		if got := slices.Sorted(maps.Keys(status)); !slices.Equal(got, []string{"fast", "fast-2"}) {
			t.Fatalf("interfaces %v", got)
		}
		if status["fast"].Mtu != 9000 || status["fast-2"].Mtu != 1400 || status["fast-2"].Name != "default/rails" {
			t.Errorf("status: %+v", status)
		}
		p.del()
	})
	t.Run("device information", func(t *testing.T) {
		define(t, "default", "on-device", true, network("on-device", map[string]any{"master": nil}))
		p := newPod(t, "on-device", "0000:5e:00.0")
		p.add()
		p.checkStatus()
		s := p.status()["net1"]
		if s.DeviceInfo == nil || s.DeviceInfo.Type != "pci" || s.DeviceInfo.Version != "1.1.0" || s.DeviceInfo.Pci == nil || s.DeviceInfo.Pci.PciAddress != "0000:5e:00.0" || s.Mtu != 1400 {
			t.Errorf("status: %+v", s)
		}
		p.del()
	})
	done()
}
