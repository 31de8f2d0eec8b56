// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/agent"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/compat"
	"github.com/railyard-net/railyard/ipam/compat/pools"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/test/cluster"
)

// The main thread never ends, so nothing that enters a namespace may run on it.
func init() { runtime.LockOSThread() }

func (o *old) nvPool(name, subnet string, size int64, blocks ...[3]string) {
	var list []any
	for _, b := range blocks {
		list = append(list, map[string]any{"nodeName": b[0], "startIP": b[1], "endIP": b[2]})
	}
	gateway := netip.MustParsePrefix(subnet).Addr().Next().String()
	o.object(nvKind("IPPool"), name, map[string]any{
		"spec":   map[string]any{"subnet": subnet, "perNodeBlockSize": size, "gateway": gateway},
		"status": map[string]any{"allocations": list},
	})
}

// namespaceWith is a pod's namespace with an address in it, as its name in a folder of the test's own.
func namespaceWith(t *testing.T, addr string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	path := filepath.Join(dir, "pod")
	must(t, os.WriteFile(path, nil, 0o600))
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		var lo netlink.Link
		if err == nil {
			lo, err = netlink.LinkByName("lo")
		}
		if err == nil {
			err = netlink.AddrAdd(lo, &netlink.Addr{IPNet: netlink.NewIPNet(netip.MustParseAddr(addr).AsSlice())})
		}
		done <- err
	}()
	must(t, <-done)
	t.Cleanup(func() { must(t, unix.Unmount(path, unix.MNT_DETACH)) })
	return dir
}

// startAgent runs the agent of a node, which looks for pods in dir.
func (o *old) startAgent(node, dir string) *agent.Agent {
	o.t.Helper()
	api, watched, err := agent.Connect(o.srv.RESTConfig(), node)
	must(o.t, err)
	opts, err := store.SystemOptions()
	must(o.t, err)
	s, err := store.Open(o.t.Context(), filepath.Join(o.t.TempDir(), "ipam.db"), opts)
	must(o.t, err)
	a, err := agent.New(agent.Config{
		Node: node, Store: s, Client: api, Cache: watched, Log: slog.New(slog.DiscardHandler), NamespaceDirs: []string{dir}, MirrorInterval: 50 * time.Millisecond, CedeWait: 300 * time.Millisecond,
	})
	must(o.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	o.t.Cleanup(func() {
		cancel()
		must(o.t, errors.Join(<-done, s.Check(), s.Close()))
	})
	return a
}

// TestNVIPAM: what a pod's status says is held, what it does not say is found by the node's agent in the pod's namespace,
// and the rest of a node's block is given as any address is.
func TestNVIPAM(t *testing.T) {
	o := newOld(t)
	o.node("n1", corev1.ConditionTrue)
	o.node("n2", corev1.ConditionTrue)
	const silent, told = "172.30.91.9", "172.30.91.10"
	o.nvPool("rail0", "172.30.91.0/27", 8, [3]string{"n1", "172.30.91.8", "172.30.91.15"}, [3]string{"n2", "172.30.91.16", "172.30.91.23"})
	o.pod("a", "n1", "rail0", told)
	daemon := &corev1.Pod{}
	daemon.Namespace, daemon.Name, daemon.Labels = "default", "daemon", map[string]string{"name": "nv-ipam-node"}
	daemon.Spec.NodeName, daemon.Spec.Containers = "n1", []corev1.Container{{Name: "c", Image: "i"}}
	o.create(daemon)
	m := o.migration(compat.TypeNVIPAM)
	if _, err := m.Apply(t.Context()); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "DaemonSet") || len(o.blocks()) > 0 {
		t.Fatalf("with a daemon that gives addresses: %v", err)
	}
	must(t, o.api.Delete(t.Context(), daemon, client.GracePeriodSeconds(0)))
	first := o.startAgent("n1", namespaceWith(t, silent))
	second := o.startAgent("n2", t.TempDir())
	_, err := m.Apply(t.Context())
	must(t, err)
	if p := o.pool("rail0"); pools.IsClosed(p) || p.Spec.IPv4.BlockSize != 8 {
		t.Fatalf("%+v", p.Spec)
	}
	// The nodes take all that there is, in turns.
	got := map[string]string{}
	for full, i := 0, 0; full < 4; i++ { // both say so twice, one after the other
		for _, n := range []struct {
			name string
			ipam.Leaser
		}{{"n1", first}, {"n2", second}} {
			var l ipam.Lease
			key := ipam.Key{Network: "rail0", ContainerID: fmt.Sprint(n.name, "-", i), IfName: "net1"}
			cluster.Eventually(t, "a lease, or none is left", func() (err error) {
				l, err = n.Lease(t.Context(), ipam.Request{Key: key, Pool: "rail0"})
				if errors.Is(err, ipam.ErrPoolFull) {
					full++
					return nil
				}
				return err
			})
			for _, a := range l.Addresses {
				full = 0
				addr := a.Prefix.Addr().String()
				if was, ok := got[addr]; ok || addr == silent || addr == told {
					t.Errorf("%s was given to %s (and to %s)", addr, n.name, was)
				}
				got[addr] = n.name
			}
		}
	}
	if len(got) != 30-1-2 { // a /27 without the gateway and the two in use
		t.Errorf("%d addresses were given", len(got))
	}
	if owners := o.ownersOf("rail0"); owners[told] != "held:n1" || owners[silent] != "n1" {
		t.Errorf("%s is owned by %s, %s by %s", told, owners[told], silent, owners[silent])
	}
}

func TestConvert(t *testing.T) {
	in := func(key string, op corev1.NodeSelectorOperator) *corev1.NodeSelector {
		return &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: op, Values: []string{"1"}}}}}}
	}
	for name, tc := range map[string]struct {
		change   func(*nvPool)
		ok       func(*v1alpha1.IPPool) bool
		wantLost string
		wantErr  string
	}{
		"as it is":       {ok: func(p *v1alpha1.IPPool) bool { return p.Spec.IPv4.Gateway == "10.0.0.1" && p.Spec.IPv4.BlockSize == 64 }},
		"size":           {change: func(p *nvPool) { p.Spec.PerNodeBlockSize = 100 }, ok: func(p *v1alpha1.IPPool) bool { return p.Spec.IPv4.BlockSize == 64 }},
		"large":          {change: func(p *nvPool) { p.Spec.PerNodeBlockSize = 1 << 20 }, ok: func(p *v1alpha1.IPPool) bool { return p.Spec.IPv4.BlockSize == 4096 }},
		"default route":  {change: func(p *nvPool) { p.Spec.DefaultGateway = true }, ok: func(p *v1alpha1.IPPool) bool { return p.Spec.DefaultRoute }},
		"selector":       {change: func(p *nvPool) { p.Spec.NodeSelector = in("a", "In") }, ok: func(p *v1alpha1.IPPool) bool { return p.Spec.NodeSelector.MatchExpressions[0].Key == "a" }},
		"selector by Gt": {change: func(p *nvPool) { p.Spec.NodeSelector = in("a", "Gt") }, wantErr: "Gt"},
		"two terms": {change: func(p *nvPool) {
			s := in("a", "In")
			s.NodeSelectorTerms = append(s.NodeSelectorTerms, s.NodeSelectorTerms[0])
			p.Spec.NodeSelector = s
		}, wantErr: "several terms"},
		"by node":        {change: func(p *nvPool) { p.Spec.PerNodeExclusions = []any{1} }, wantLost: "perNodeExclusions", ok: func(*v1alpha1.IPPool) bool { return true }},
		"IPv6":           {change: func(p *nvPool) { p.Spec.Subnet, p.Spec.Gateway = "fd00::/64", "fd00::1" }, ok: func(p *v1alpha1.IPPool) bool { return p.Spec.IPv6 != nil && p.Spec.IPv4 == nil }},
		"no subnet":      {change: func(p *nvPool) { p.Spec.Subnet = "x" }, wantErr: "subnet"},
		"gateway astray": {change: func(p *nvPool) { p.Spec.Gateway = "10.1.0.1" }, wantErr: "spec.ipv4.gateway"},
	} {
		t.Run(name, func(t *testing.T) {
			var p nvPool
			p.Spec.Subnet, p.Spec.Gateway, p.Spec.PerNodeBlockSize = "10.0.0.0/16", "10.0.0.1", 64
			if tc.change != nil {
				tc.change(&p)
			}
			got, lost, err := p.convert("pool1")
			switch {
			case (err != nil) != (tc.wantErr != "") || err != nil && !strings.Contains(err.Error(), tc.wantErr):
				t.Errorf("error %v", err)
			case err == nil && !tc.ok(got):
				t.Errorf("%+v", got.Spec)
			case strings.Join(lost, " ") != "" && tc.wantLost == "", !strings.Contains(strings.Join(lost, " "), tc.wantLost):
				t.Errorf("lost %q", lost)
			}
		})
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]string{
		"10.20.0.0-16": " true", "rail0-10.20.0.0-16": "rail0 true", "a-b-10.20.0.0-16": "a-b true", "rail0-10.20.0.0-16-node1": "rail0-10.20.0.0-16-node1 false",
	} {
		network, ok := networkOf(name, "10.20.0.0/16")
		if got := fmt.Sprint(network, " ", ok); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
	for name, want := range map[string][]string{
		"10.20.0.5": {"10.20.0.5 of "}, "rail0-10.20.0.5": {"10.20.0.5 of rail0"}, "fd00--5": {"fd00::5 of "}, "net-fd00--5": {"fd00::5 of net"},
		"abc-fd00--5": {"abc:fd00::5 of ", "fd00::5 of abc"}, "x": nil,
	} {
		var got []string
		for _, u := range reserved(name) {
			got = append(got, u.addr.String()+" of "+u.network)
		}
		for _, w := range want {
			if !strings.Contains(strings.Join(got, ","), w) {
				t.Errorf("%s: %q lacks %q", name, got, w)
			}
		}
		if len(want) == 0 && len(got) > 0 {
			t.Errorf("%s: %q", name, got)
		}
	}
	for in, want := range map[[2]string]string{
		{"10.20.0.0", "257"}: "10.20.1.1", {"10.20.0.5", "1"}: "10.20.0.6", {"fd00::", "18446744073709551616"}: "fd00:0:0:1::",
		{"255.255.255.255", "1"}: "is past the last address", {"10.0.0.0", "-1"}: "is no number", {"10.0.0.0", "x"}: "is no number",
	} {
		got, err := plus(netip.MustParseAddr(in[0]), in[1])
		text := got.String()
		if err != nil {
			text = err.Error()
		}
		if text != want {
			t.Errorf("%v: %s, want %s", in, text, want)
		}
	}
}
