// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/compat"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/test/cluster"
)

const whereaboutsIPAM = `{"type":"whereabouts","ipRanges":[{"range":"10.20.7.0/24","range_start":"10.20.7.10"},{"range":"fd00:20:7::/64"}],
	"gateway":"10.20.7.1","routes":[{"dst":"10.99.0.0/16"}]}`

// usePretender puts railyard-ipam into CNI_PATH under that name, and has the host own what its config's pools have.
func (l *lab) usePretender(name, section string) {
	l.t.Helper()
	if os.Getenv("RAILYARD_TEST_PLUGIN") != "" {
		l.t.Skip("the machine has neither Go nor the reference plugins")
	}
	binary := filepath.Join(l.bin, "railyard-ipam")
	out, err := exec.CommandContext(l.t.Context(), "go", "build", "-o", binary, "github.com/railyard-net/railyard/cmd/railyard-ipam").CombinedOutput()
	if err != nil {
		l.t.Fatalf("%v\n%s", err, out)
	}
	must(l.t, os.Symlink("railyard-ipam", filepath.Join(l.bin, name)))
	c, err := compat.Parse(compat.Input{Config: []byte(`{"ipam":` + section + `}`)})
	must(l.t, err)
	l.withStore(func(s *store.Store) {
		for _, pool := range c.Pools {
			p, err := ipam.ParsePool(pool.Range.Spec())
			must(l.t, err)
			must(l.t, s.SetPool(p))
			slot := p.Subnets[0].Slot(p.Subnets[0].Leasable[0].From())
			must(l.t, s.Grant(store.Holding{Block: ipam.BlockName(p.Name, slot), Pool: p.Name, Slot: slot, Ranges: p.Subnets[0].LeasableIn(slot)}))
		}
	})
}

// macvlan is one call of the reference plugin.
func (l *lab) macvlan(verb, id, netns, section string) (string, error) {
	l.t.Helper()
	tools, err := cluster.FindTools()
	must(l.t, err)
	file, err := tools.Path("cni/macvlan")
	must(l.t, err)
	cmd := exec.CommandContext(l.t.Context(), file)
	cmd.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + id, "CNI_IFNAME=net1", "CNI_NETNS=" + netns, "CNI_PATH=" + l.bin, "RAILYARD_STATE_DIR=" + l.dir,
		"CNI_ARGS=IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + id,
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin = strings.NewReader(`{"cniVersion":"1.0.0","name":"macvlan-net","type":"macvlan","master":"rail0","ipam":` + section + `}`)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := l.host.do(cmd.Run); err != nil {
		return "", fmt.Errorf("%s: %w: %s%s", verb, err, &stdout, &stderr)
	}
	return stdout.String(), nil
}

// TestWhereaboutsName: any main plugin that executes whereabouts gets our addresses, and gives both families back.
func TestWhereaboutsName(t *testing.T) {
	l, pod := newLab(t), newSpace(t)
	l.usePretender("whereabouts", whereaboutsIPAM)
	out, err := l.macvlan("ADD", "c1", pod.path, whereaboutsIPAM)
	must(t, err)
	var r struct {
		IPs []struct{ Address, Gateway string }
	}
	must(t, json.Unmarshal([]byte(out), &r))
	if len(r.IPs) != 2 || r.IPs[0].Address != "10.20.7.10/24" || r.IPs[0].Gateway != "10.20.7.1" || r.IPs[1].Address != "fd00:20:7::1/64" || r.IPs[1].Gateway != "" {
		t.Errorf("result %s", out)
	}
	has := map[string]bool{}
	addrs, err := pod.link.AddrList(pod.get("net1"), netlink.FAMILY_ALL)
	must(t, err)
	for _, a := range addrs {
		has[a.IPNet.String()] = true
	}
	routes, err := pod.link.RouteList(pod.get("net1"), netlink.FAMILY_V4)
	must(t, err)
	for _, x := range routes {
		has[x.Dst.String()+" "+x.Gw.String()] = true
	}
	for _, want := range []string{"10.20.7.10/24", "fd00:20:7::1/64", "10.99.0.0/16 10.20.7.1"} {
		if !has[want] {
			t.Errorf("the pod lacks %s: %v", want, has)
		}
	}
	if n := len(l.leases()); n != 2 {
		t.Errorf("%d leases", n)
	}
	// A DEL without the namespace and with a stripped config, as after a node's trouble.
	_, err = l.macvlan("DEL", "c1", "", `{"type":"whereabouts"}`)
	must(t, err)
	if left := l.leases(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestWhereaboutsDelegate: the railyard plugin executes it as any other plugin's address management, whosever it is.
func TestWhereaboutsDelegate(t *testing.T) {
	l, pod := newLab(t), newSpace(t)
	l.usePretender("whereabouts", whereaboutsIPAM)
	c := call{id: "c1", ifName: "net1", netns: pod.path, conf: map[string]any{"ipam": json.RawMessage(whereaboutsIPAM)}}
	r := l.add(c)
	if len(r.IPs) != 2 || r.IPs[0].Address.String() != "10.20.7.10/24" || r.IPs[1].Address.String() != "fd00:20:7::1/64" {
		t.Errorf("result %v", r.IPs)
	}
	c.verb = "CHECK"
	l.mustRun(c.with(map[string]any{"ipam": json.RawMessage(whereaboutsIPAM), "prevResult": r}))
	l.mustRun(call{verb: "DEL", id: "c1", ifName: "net1", stdin: `{"cniVersion":"1.1.0","name":"rail0","type":"railyard","ipam":{"type":"whereabouts"}}`})
	if left := l.leases(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
