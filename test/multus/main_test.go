// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package multus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/iprange"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/test/cluster"
	"github.com/railyard-net/railyard/test/podresources"
)

// Where things are inside of the node.
const (
	binDir        = "/run/cni/bin"
	stateDir      = "/run/railyard"
	kubeletSocket = "/var/lib/kubelet/pod-resources/kubelet.sock"
)

// shared is what all tests use, one after the other: an API server and a node with its Multus, its kubelet and its leases.
type shared struct {
	api     *cluster.API
	node    *cluster.Node
	multus  *cluster.Multus
	kubelet *podresources.Kubelet
	sys     string // the plugin's /sys
}

var lab shared

func TestMain(m *testing.M) {
	code, err := setUpAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func setUpAndRun(m *testing.M) (code int, err error) {
	ctx := context.Background()
	if lab.api, err = cluster.StartAPI(ctx, cluster.APIOptions{}); err != nil {
		return 0, err
	}
	defer func() {
		stop := lab.api.Stop
		if code != 0 || err != nil {
			fmt.Fprintln(os.Stderr, "logs are kept in", lab.api.Dir())
			stop = lab.api.StopKeepingLogs
		}
		err = errors.Join(err, stop())
	}()
	if err := lab.api.InstallMultus(ctx); err != nil {
		return 0, err
	}
	fabric, err := cluster.NewFabric()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, fabric.Close()) }()
	if lab.node, err = cluster.NewNode(ctx, "node-1", fabric, lab.api); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, lab.node.Close()) }()
	if err := lab.furnish(ctx); err != nil {
		return 0, err
	}
	defer lab.kubelet.Stop()
	return m.Run(), nil
}

// furnish puts the plugin, the kubelet and the leases into the node.
func (s *shared) furnish(ctx context.Context) (err error) {
	plugin := filepath.Join(s.node.Dir(), "railyard")
	build := exec.CommandContext(ctx, "go", "build", "-tags", "failpoint", "-o", plugin, "github.com/railyard-net/railyard/cmd/railyard")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the plugin: %w", err)
	}
	s.sys = filepath.Join(s.node.Dir(), "sys")
	if err := os.MkdirAll(filepath.Join(s.sys, "class/net"), 0o755); err != nil {
		return err
	}
	if s.multus, err = cluster.NewMultus(ctx, s.node, binDir, netip.MustParsePrefix("10.244.1.0/24")); err != nil {
		return err
	}
	if err := s.withoutDefaultRoute(); err != nil {
		return err
	}
	s.kubelet = podresources.New()
	return s.node.Do(func() error {
		if err := os.MkdirAll(binDir, 0o755); err != nil {
			return err
		}
		program, err := os.ReadFile(plugin)
		if err != nil {
			return err
		}
		return errors.Join(
			os.WriteFile(filepath.Join(binDir, "railyard"), program, 0o755),
			hideVarLib(), s.kubelet.Start(kubeletSocket), makeStore(),
		)
	})
}

// withoutDefaultRoute has the default network give none: the pinned Multus does not see a default route that there is (its netlink says
// 0.0.0.0/0 where it looks for nothing), and so leaves it when a pod asks for another.
func (s *shared) withoutDefaultRoute() error {
	path := filepath.Join(s.node.Dir(), "10-default.conf")
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var config map[string]any
	if err := json.Unmarshal(data, &config); err != nil {
		return err
	}
	delete(config["ipam"].(map[string]any), "routes")
	if data, err = json.Marshal(config); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// hideVarLib gives the node a /var/lib in which there can be a folder of the kubelet; what the host has there stays in sight.
func hideVarLib() error {
	host, err := os.Open("/var/lib")
	if err != nil {
		return err
	}
	defer host.Close()
	entries, err := host.ReadDir(-1)
	if err != nil {
		return err
	}
	if err := unix.Mount("varlib", "/var/lib", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs over /var/lib: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || e.Name() == "kubelet" {
			continue
		}
		path := filepath.Join("/var/lib", e.Name())
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(fmt.Sprintf("/proc/thread-self/fd/%d/%s", host.Fd(), e.Name()), path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s again: %w", path, err)
		}
	}
	return nil
}

// pools are those of the tests' networks: the subnets 10.<i>.0.0/16 and fd00:<i>::/64.
var pools = map[string]int{"rail0": 20, "rail1": 21}

// makeStore makes the node's leases: of each pool one slot of each family, and all that is reserved.
func makeStore() error {
	o, err := store.SystemOptions()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return err
	}
	s, err := store.Open(context.Background(), filepath.Join(stateDir, "ipam.db"), o)
	if err != nil {
		return err
	}
	errs := []error{}
	for name, i := range pools {
		errs = append(errs, grant(s, name, i))
	}
	return errors.Join(append(errs, s.Recovered(), s.Close())...)
}

func grant(s *store.Store, name string, i int) error {
	p, err := ipam.ParsePool(ipam.PoolSpec{
		Name: name, UID: "uid-" + name,
		IPv4: &ipam.SubnetSpec{Subnet: fmt.Sprintf("10.%d.0.0/16", i), Gateway: fmt.Sprintf("10.%d.0.1", i), BlockSize: 256, Reserved: []string{fmt.Sprintf("10.%d.255.0/24", i)}},
		IPv6: &ipam.SubnetSpec{Subnet: fmt.Sprintf("fd00:%d::/64", i), BlockSize: 256},
		Routes: []ipam.RouteSpec{
			{Dst: fmt.Sprintf("10.%d.0.0/16", i+70)}, // over the gateway
		},
	})
	if err != nil {
		return err
	}
	if err := s.SetPool(p); err != nil {
		return err
	}
	hold := func(slot netip.Prefix, ranges []iprange.Range) error {
		return s.Grant(store.Holding{Block: ipam.BlockName(name, slot), Pool: name, Slot: slot, Ranges: ranges})
	}
	for _, sub := range p.Subnets {
		text := fmt.Sprintf("10.%d.1.0", i)
		if !sub.Is4() {
			text = fmt.Sprintf("fd00:%d::1:0", i)
		}
		slot := sub.Slot(netip.MustParseAddr(text))
		if err := hold(slot, sub.LeasableIn(slot)); err != nil {
			return err
		}
		for _, r := range sub.Reserved {
			slot := sub.Slot(r.From())
			if err := hold(slot, sub.ReservedIn(slot)); err != nil {
				return err
			}
		}
	}
	return nil
}
