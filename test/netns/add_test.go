// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// TestConformance_B: what ADD makes.
func TestConformance_B(t *testing.T) {
	for name, test := range map[string]func(*testing.T, *lab, *space, call){
		"result":                      testResult,
		"announced":                   testAnnounced,
		"addresses_are_not_tentative": testSettled,
		"no_default_route":            testNoDefaultRoute,
		"peer_answers":                testPeer,
		"modes":                       testModes,
		"mtu":                         testMTU,
		"mtu_above_master":            testMTUAboveMaster,
		"mac":                         testMAC,
		"mac_in_use":                  testMACInUse,
		"static":                      testStatic,
		"layer_2_only":                testLayer2,
		"master_by_altname":           testMasterAltName,
		"master_by_pci":               testMasterPCI,
		"master_by_default_route":     testMasterDefault,
		"master_down":                 testMasterDown,
		"master_no_ethernet":          testMasterLoopback,
		"interface_exists":            testInterfaceExists,
		"host_has_the_name":           testHostHasName,
		"twice":                       testTwice,
		"other_namespace_by_now":      testReborn,
		"chained":                     testChained,
		"foreign_ipam":                testForeignIPAM,
		"sysctls":                     testSysctls,
		"sysctl_only_read":            testSysctlOnlyRead,
		"same_network_twice":          testSameNetworkTwice,
		"default_route_of_another":    testDefaultRoute,
		"ipam_leaves_a_process":       testIPAMLeavesProcess,
		"ipv6_disabled_in_the_pod":    testIPv6Disabled,
		"one_family":                  testFamilies,
		"socket":                      testSocket,
		"dns":                         testDNS,
		"device_info":                 testDeviceInfo,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := newSpace(t)
			l := newLab(t)
			before := l.snapshot(pod)
			c := call{verb: "ADD", id: "c1", ifName: "net1", netns: pod.path, args: "K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_UID=u"}
			test(t, l, pod, c)
			for _, id := range []string{"c1", "c2"} {
				l.mustRun(call{verb: "DEL", id: id, ifName: "net1", netns: pod.path})
			}
			after := l.snapshot(pod)
			if len(after.Leases) != len(before.Leases) || len(after.Files) != 0 {
				t.Errorf("after DEL: %v %v", after.Leases, after.Files)
			}
		})
	}
}

func testResult(t *testing.T, l *lab, pod *space, c call) {
	r := l.add(c)
	link := pod.get("net1")
	i := r.Interfaces[0]
	if len(r.Interfaces) != 1 || i.Name != "net1" || i.Mac != link.Attrs().HardwareAddr.String() || i.Sandbox != pod.path || i.Mtu != 1500 {
		t.Errorf("interfaces: %+v", r.Interfaces)
	}
	m, ok := link.(*netlink.Macvlan)
	if !ok || m.Mode != netlink.MACVLAN_MODE_BRIDGE || m.ParentIndex != l.host.get("rail0").Attrs().Index || m.Flags&net.FlagUp == 0 {
		t.Errorf("the link: %#v", link)
	}
	if len(r.IPs) != 2 || r.IPs[0].Address.String() != "10.20.1.0/16" || r.IPs[0].Gateway.String() != gateway4 || *r.IPs[0].Interface != 0 {
		t.Errorf("ips: %v", r.IPs)
	}
	if len(r.Routes) != 2 || r.Routes[0].GW.String() != gateway4 {
		t.Errorf("routes: %v", r.Routes)
	}
	lease := l.leases()[0]
	if lease.Pod.Name != "p" || lease.Pod.Namespace != "ns" || lease.Pod.UID != "u" || lease.NetNS.Path != pod.path {
		t.Errorf("the lease does not say for whom it is: %+v", lease)
	}
}

// testAnnounced wants, on another host's port, a gratuitous ARP and an unsolicited advertisement of each address.
func testAnnounced(t *testing.T, l *lab, pod *space, c call) {
	frames := l.capture("port0")
	r := l.add(c)
	wantAnnounced(t, frames(), pod.get("net1").Attrs().HardwareAddr, r.IPs)
}

// wantAnnounced looks for a gratuitous ARP and an unsolicited neighbour advertisement of a lease.
func wantAnnounced(t *testing.T, frames [][]byte, m net.HardwareAddr, lease []*current.IPConfig) {
	t.Helper()
	v4, v6 := lease[0].Address.IP.To4(), lease[1].Address.IP
	var arp, na bool
	for _, f := range frames {
		// ARP, RFC 826: sender MAC at 22, sender address at 28, target address at 38. Gratuitous: both are one.
		arp = arp || len(f) >= 42 && f[12] == 8 && f[13] == 6 && bytes.Equal(f[22:28], m) && bytes.Equal(f[28:32], v4) && bytes.Equal(f[38:42], v4)
		// Neighbour advertisement, RFC 4861 4.4: hop limit 255 at 21, type 136 at 54, override flag at 58, target at 62, its MAC at 80.
		na = na || len(f) >= 86 && f[12] == 0x86 && f[13] == 0xdd && f[21] == 255 && f[54] == 136 && f[58]&0x20 != 0 &&
			bytes.Equal(f[62:78], v6) && bytes.Equal(f[80:86], m)
	}
	if !arp || !na {
		t.Errorf("seen on the peer: gratuitous ARP %v, unsolicited NA %v", arp, na)
	}
}

func testSettled(t *testing.T, l *lab, pod *space, c call) {
	l.add(c)
	list, err := pod.link.AddrList(pod.get("net1"), netlink.FAMILY_V6)
	must(t, err)
	if len(list) != 2 {
		t.Errorf("addresses: %v, want the pool's and the link's own", list)
	}
	for _, a := range list {
		if a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			t.Errorf("%s is tentative after ADD", a.IPNet)
		}
	}
}

func testNoDefaultRoute(t *testing.T, l *lab, pod *space, c call) {
	l.add(c)
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := pod.link.RouteList(nil, family)
		must(t, err)
		for _, r := range routes {
			if r.Dst == nil || r.Dst.IP.IsUnspecified() && r.Gw != nil {
				t.Errorf("an unasked default route: %v", r)
			}
		}
	}
}

// testPeer talks to the gateway in the fabric, over both families and at once.
func testPeer(t *testing.T, l *lab, pod *space, c call) {
	l.add(c)
	for _, target := range []string{gateway4, "[" + gateway6 + "]"} {
		var server net.PacketConn
		must(t, l.fabric.do(func() (err error) {
			server, err = net.ListenPacket("udp", target+":0")
			return err
		}))
		defer server.Close()
		must(t, pod.do(func() error {
			conn, err := net.Dial("udp", server.LocalAddr().String())
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write([]byte("hello"))
			return err
		}))
		b := make([]byte, 16)
		n, from, err := server.ReadFrom(b)
		must(t, err)
		t.Logf("%s said %s", from, b[:n])
	}
}

func testStatic(t *testing.T, l *lab, pod *space, c call) {
	for _, x := range []struct {
		conf map[string]any
		args string
	}{
		{map[string]any{"runtimeConfig": map[string]any{"ips": []string{"10.20.255.7/16"}}}, ""},
		{map[string]any{"runtimeConfig": map[string]any{"ips": []string{"10.20.255.7"}}}, ""},
		{map[string]any{"args": map[string]any{"cni": map[string]any{"ips": []string{"10.20.255.7"}}}}, ""},
		{nil, "IgnoreUnknown=1;IP=10.20.255.7"},
	} {
		c.verb, c.args = "ADD", x.args
		r := l.add(c.with(x.conf))
		if r.IPs[0].Address.String() != "10.20.255.7/16" || len(r.IPs) != 2 {
			t.Errorf("%v: %v", x, r.IPs)
		}
		other := newSpace(t)
		l.mustFail(dispatch.CodeTaken, "10.20.255.7", call{verb: "ADD", id: "c2", ifName: "net1", netns: other.path, args: x.args}.with(x.conf))
		c.verb = "DEL"
		l.mustRun(c)
	}
}

func testLayer2(t *testing.T, l *lab, pod *space, c call) {
	for _, none := range []any{nil, map[string]any{}, json.RawMessage("null")} {
		c.verb = "ADD"
		r := l.add(c.with(map[string]any{"ipam": none}))
		if len(r.IPs) != 0 || pod.get("net1").Attrs().Flags&net.FlagUp == 0 || len(l.leases()) != 0 {
			t.Errorf("%v: %v", none, r)
		}
		c.verb = "DEL"
		l.mustRun(c)
	}
}

func testTwice(t *testing.T, l *lab, pod *space, c call) {
	l.add(c)
	before := l.snapshot(pod)
	l.mustFail(dispatch.CodeAttached, "DEL must come first", c)
	l.mustFail(dispatch.CodeAttached, "rail0", c.with(map[string]any{"name": "othernet"}))
	if diff := cmp.Diff(before, l.snapshot(pod)); diff != "" {
		t.Errorf("the second ADD changed something:\n%s", diff)
	}
	c.verb = "CHECK"
	l.mustRun(c)
}

// testReborn: the namespace of the first attachment is gone without a DEL.
func testReborn(t *testing.T, l *lab, pod *space, c call) {
	first := newSpace(t)
	c.netns = first.path
	l.add(c)
	first.kill()
	c.netns = pod.path
	l.add(c)
	if len(l.leases()) != 1 {
		t.Errorf("leases: %v", l.leases())
	}
}

func testChained(t *testing.T, l *lab, pod *space, c call) {
	prev := json.RawMessage(`{"cniVersion":"1.0.0","interfaces":[{"name":"veth0","mac":"02:00:00:00:00:01"},{"name":"eth0","sandbox":"/x"}],
		"ips":[{"interface":1,"address":"10.1.0.2/24","gateway":"10.1.0.1"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.1.0.1"}],"dns":{"nameservers":["10.1.0.1"]}}`)
	r := l.add(c.with(map[string]any{"cniVersion": "1.0.0", "prevResult": prev}))
	if len(r.Interfaces) != 3 || r.Interfaces[0].Name != "veth0" || r.Interfaces[1].Name != "eth0" || r.Interfaces[2].Name != "net1" {
		t.Errorf("interfaces: %v", r.Interfaces)
	}
	if len(r.IPs) != 3 || *r.IPs[0].Interface != 1 || *r.IPs[1].Interface != 2 || *r.IPs[2].Interface != 2 {
		t.Errorf("ips: %v", r.IPs)
	}
	if len(r.Routes) != 3 || r.Routes[0].GW.String() != "10.1.0.1" || r.DNS.Nameservers[0] != "10.1.0.1" {
		t.Errorf("routes %v dns %v", r.Routes, r.DNS)
	}
	c.verb = "CHECK"
	b, err := dispatch.Encode(r, "1.0.0")
	must(t, err)
	l.mustRun(c.with(map[string]any{"cniVersion": "1.0.0", "prevResult": json.RawMessage(b)}))
}

func testSysctls(t *testing.T, l *lab, pod *space, c call) {
	before := l.snapshot(pod)
	c = c.with(map[string]any{"sysctl": map[string]any{
		"net.ipv4.conf.IFNAME.rp_filter": "2", "net.ipv4.conf.all.rp_filter": "2",
		"net/ipv4/conf/all/arp_ignore": "1", "net.core.somaxconn": "777", "net.ipv4.conf.IFNAME.arp_notify": "0",
		"net.ipv4.tcp_rmem": "4096 131072 600000", "net.ipv4.ip_local_reserved_ports": "8080",
	}})
	l.add(c)
	for path, want := range map[string]string{
		"net/ipv4/conf/net1/rp_filter": "2", "net/ipv4/conf/all/rp_filter": "2", "net/ipv4/conf/all/arp_ignore": "1",
		"net/core/somaxconn": "777", "net/ipv4/conf/net1/arp_notify": "0", "net/ipv6/conf/net1/ndisc_notify": "1",
	} {
		if got := pod.sysctl(path); got != want {
			t.Errorf("%s = %s, want %s", path, got, want)
		}
	}
	c.verb = "CHECK"
	l.mustRun(c)
	c.verb = "DEL"
	l.mustRun(c)
	if diff := cmp.Diff(before, l.snapshot(pod)); diff != "" {
		t.Error(diff)
	}
}

// testSysctlOnlyRead: a setting that a pod may not write fails the ADD, which nevertheless is undone.
func testSysctlOnlyRead(t *testing.T, l *lab, pod *space, c call) {
	readOnly := "net.core.rmem_max"
	if err := pod.do(func() error { return unix.Access("/proc/sys/net/core/rmem_max", unix.W_OK) }); err == nil {
		readOnly = "net.ipv4.conf.all" // on older kernels; a folder can't be read either, so it is refused before
	}
	before := l.snapshot(pod)
	c = c.with(map[string]any{"sysctl": map[string]any{readOnly: "1"}})
	c.verb = "ADD"
	l.mustFail(dispatch.CodeSysctl, "net/", c)
	if diff := cmp.Diff(before, l.snapshot(pod)); diff != "" {
		t.Error(diff)
	}
}

// testSameNetworkTwice: both attachments want the same route; the first has it.
func testSameNetworkTwice(t *testing.T, l *lab, pod *space, c call) {
	l.add(c)
	second := c
	second.ifName = "net2"
	l.add(second)
	for _, verb := range []string{"CHECK", "DEL"} {
		c.verb, second.verb = verb, verb
		l.mustRun(second)
		l.mustRun(c)
	}
}

// testDefaultRoute: the pod's first network has the default route, and keeps it.
func testDefaultRoute(t *testing.T, l *lab, pod *space, c call) {
	a := netlink.NewLinkAttrs()
	a.Name = "eth0"
	must(t, pod.link.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "peer0"}))
	eth0 := pod.get("eth0")
	must(t, pod.link.LinkSetUp(eth0))
	route := &netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: cidr("0.0.0.0/0"), Scope: netlink.SCOPE_LINK}
	must(t, pod.link.RouteAdd(route))
	l.script("default", `[ $CNI_COMMAND = ADD ] || exit 0
echo '{"cniVersion":"1.0.0","ips":[{"address":"10.20.9.9/16","gateway":"10.20.0.1"}],"routes":[{"dst":"0.0.0.0/0"}]}'`)
	c = c.with(map[string]any{"ipam": map[string]any{"type": "default"}})
	l.add(c)
	routes, err := pod.link.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: nil}, netlink.RT_FILTER_DST)
	must(t, err)
	if len(routes) != 1 || routes[0].LinkIndex != eth0.Attrs().Index {
		t.Errorf("default routes: %v", routes)
	}
	c.verb = "CHECK"
	l.mustRun(c)
	c.verb = "DEL"
	l.mustRun(c)
}

// testIPAMLeavesProcess: what the other plugin started in the background holds its output open.
func testIPAMLeavesProcess(t *testing.T, l *lab, pod *space, c call) {
	l.script("leaves", `[ $CNI_COMMAND = ADD ] || exit 0
sleep 20 &
echo '{"cniVersion":"1.0.0","ips":[{"address":"10.20.9.9/16"}]}'`)
	start := time.Now()
	l.add(c.with(map[string]any{"ipam": map[string]any{"type": "leaves"}}))
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("ADD took %s", took)
	}
}

func testIPv6Disabled(t *testing.T, l *lab, pod *space, c call) {
	pod.setSysctl("net/ipv6/conf/default/disable_ipv6", "1")
	pod.setSysctl("net/ipv6/conf/all/disable_ipv6", "1")
	l.add(c)
	list, err := pod.link.AddrList(pod.get("net1"), netlink.FAMILY_V6)
	must(t, err)
	if len(list) != 2 || pod.sysctl("net/ipv6/conf/all/disable_ipv6") != "1" {
		t.Errorf("addresses: %v", list)
	}
}

func testFamilies(t *testing.T, l *lab, pod *space, c call) {
	l.withStore(func(s *store.Store) {
		grant(t, s, "four", "10.20.2.0/24", "")
		grant(t, s, "six", "", "fd00:20::2:0/120")
	})
	for pool, want := range map[string]string{"four": "10.20.2.0/16", "six": "fd00:20::2:0/64"} {
		c.verb = "ADD"
		r := l.add(c.with(map[string]any{"ipam": map[string]any{"type": "railyard-ipam", "pool": pool}}))
		if len(r.IPs) != 1 || r.IPs[0].Address.String() != want {
			t.Errorf("%s: %v", pool, r.IPs)
		}
		c.verb = "DEL"
		l.mustRun(c)
	}
}

func testSocket(t *testing.T, l *lab, pod *space, c call) {
	stop := l.serve()
	defer stop()
	for _, verb := range []string{"ADD", "CHECK", "STATUS", "DEL"} {
		c.verb = verb
		l.mustRun(c)
	}
	c.verb = "ADD"
	l.mustFail(7, "nope", c.with(map[string]any{"ipam": map[string]any{"type": "railyard-ipam", "pool": "nope"}}))
	defer l.mustRun(call{verb: "DEL", id: "c1", ifName: "net1"})
}

func testDNS(t *testing.T, l *lab, pod *space, c call) {
	r := l.add(c.with(map[string]any{"dns": map[string]any{"nameservers": []string{"10.0.0.53"}, "search": []string{"x"}}}))
	if len(r.DNS.Nameservers) != 1 || r.DNS.Nameservers[0] != "10.0.0.53" {
		t.Errorf("dns: %v", r.DNS)
	}
}

func testDeviceInfo(t *testing.T, l *lab, pod *space, c call) {
	l.fakePCI("0000:3b:00.0", "rail0")
	file := filepath.Join(l.dir, "devinfo", "cni", "x.json")
	conf := map[string]any{"runtimeConfig": map[string]any{"deviceID": "0000:3b:00.1", "CNIDeviceInfoFile": file}}
	r := l.add(c.with(conf))
	b, err := os.ReadFile(file)
	must(t, err)
	if want := `{"type":"pci","version":"1.1.0","pci":{"pci-address":"0000:3b:00.1"}}`; string(b) != want || r.Interfaces[0].PciID != "0000:3b:00.0" {
		t.Errorf("%s, want %s; %s", b, want, r.Interfaces[0].PciID)
	}
	c.verb = "DEL"
	l.mustRun(c)
	if _, err := os.Stat(file); err == nil {
		t.Error("DEL left the file")
	}
	// A device plugin that gives no PCI address, and no file asked for.
	c.verb = "ADD"
	l.add(c.with(map[string]any{"deviceID": "shared-7"}))
	l.mustRun(call{verb: "DEL", id: "c1", ifName: "net1"})
	// One that the device plugin has written already is left alone.
	rich := `{"type":"pci","version":"1.1.0","pci":{"pci-address":"0000:3b:00.1","rdma-device":"mlx5_0"}}`
	must(t, os.WriteFile(file, []byte(rich), 0o644))
	l.add(c.with(conf))
	l.mustRun(call{verb: "DEL", id: "c1", ifName: "net1"})
	if b, err := os.ReadFile(file); err != nil || string(b) != rich {
		t.Errorf("%s %v", b, err)
	}
}
