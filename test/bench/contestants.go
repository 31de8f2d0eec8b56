// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/railyard-net/railyard/test/bench/bare"
	"github.com/railyard-net/railyard/test/bench/lab"
	"github.com/railyard-net/railyard/test/bench/measure"
	"github.com/railyard-net/railyard/test/bench/report"
)

const (
	ifName = "net1"
	// hostLocalDir is on the lab's tmpfs.
	hostLocalDir = "/run/host-local"
)

// families is which addresses an attachment has, and from where each contestant takes them.
type families struct {
	name             string // also the pool's and the network's
	v4, v6           bool
	subnet4, subnet6 string
}

var (
	dual   = families{name: "bench", v4: true, v6: true, subnet4: "10.128.0.0/12", subnet6: "fd00:128::/64"}
	v4Only = families{name: "bench-v4", v4: true, subnet4: "10.144.0.0/12"}
)

// addresses are the floor's: fixed by the slot.
func (f families) addresses(slot int) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range []string{f.subnet4, f.subnet6} {
		if s != "" {
			all = append(all, nth(netip.MustParsePrefix(s), slot+2))
		}
	}
	return all
}

// nth is the address n after the first of p, with p's length. n is below 65,536.
func nth(p netip.Prefix, n int) netip.Prefix {
	b := p.Addr().AsSlice()
	b[len(b)-2], b[len(b)-1] = byte(n>>8), byte(n)
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, p.Bits())
}

// railyardConf is the CNI configuration of ours. The type is the plugin's that reads it: the IPAM plugin can also be run alone.
func (f families) railyardConf() []byte {
	return encode(map[string]any{
		"cniVersion": "1.0.0", "name": f.name, "type": "railyard", "kind": "macvlan", "master": lab.Master, "mode": "bridge",
		"ipam": map[string]any{"type": "railyard-ipam", "pool": f.name},
	})
}

func (f families) upstreamConf() []byte { return encode(f.upstream()) }

func (f families) upstream() map[string]any {
	var ranges [][]map[string]string
	if f.v4 {
		ranges = append(ranges, []map[string]string{{"subnet": f.subnet4}})
	}
	if f.v6 {
		ranges = append(ranges, []map[string]string{{"subnet": f.subnet6}})
	}
	return map[string]any{
		"cniVersion": "1.0.0", "name": f.name, "type": "macvlan", "master": lab.Master, "mode": "bridge",
		"ipam": map[string]any{"type": "host-local", "dataDir": hostLocalDir, "ranges": ranges},
	}
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // maps of strings
	}
	return b
}

// cniPlugin runs a CNI plugin with the job's parameters.
func cniPlugin(name, path string, pods []lab.Pod, conf []byte) measure.Contestant {
	return cniPluginAt(name, path, pods, func(int) []byte { return conf })
}

// cniPluginAt is cniPlugin with a configuration for each slot.
func cniPluginAt(name, path string, pods []lab.Pod, conf func(slot int) []byte) measure.Contestant {
	dir := filepath.Dir(path)
	return measure.Contestant{Name: name, Do: func(ctx context.Context, verb measure.Verb, job measure.Job) (time.Duration, error) {
		env := []string{
			"CNI_COMMAND=" + string(verb), "CNI_CONTAINERID=" + job.ID, "CNI_NETNS=" + pods[job.Slot].Path, "CNI_IFNAME=" + ifName,
			"CNI_PATH=" + dir, "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=" + job.ID[:12], "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		}
		out, cpu, err := measure.Program(ctx, path, nil, env, conf(job.Slot))
		if err == nil && verb == measure.Add && !bytes.Contains(out, []byte(`"address"`)) {
			err = fmt.Errorf("%s answered ADD without an address: %s", name, out)
		}
		return cpu, err
	}}
}

// emptyExec runs a program that does nothing, with the parameters and the input that a plugin gets.
func emptyExec(path string, pods []lab.Pod, conf []byte) measure.Contestant {
	return measure.Contestant{Name: report.EmptyExec, Do: func(ctx context.Context, verb measure.Verb, job measure.Job) (time.Duration, error) {
		env := []string{"CNI_COMMAND=" + string(verb), "CNI_CONTAINERID=" + job.ID, "CNI_NETNS=" + pods[job.Slot].Path, "CNI_IFNAME=" + ifName}
		_, cpu, err := measure.Program(ctx, path, nil, env, conf)
		return cpu, err
	}}
}

// floorExec runs the floor as a program, floorInside within this process.
func floorExec(path string, pods []lab.Pod, f families) measure.Contestant {
	return measure.Contestant{Name: report.Floor, Do: func(ctx context.Context, verb measure.Verb, job measure.Job) (time.Duration, error) {
		args := []string{string(verb), pods[job.Slot].Path, ifName, lab.Master}
		for _, a := range f.addresses(job.Slot) {
			args = append(args, a.String())
		}
		_, cpu, err := measure.Program(ctx, path, args, nil, nil)
		return cpu, err
	}}
}

func floorInside(pods []lab.Pod, f families) measure.Contestant {
	return measure.Contestant{Name: report.FloorInside, Do: func(_ context.Context, verb measure.Verb, job measure.Job) (time.Duration, error) {
		link := bare.Link{NetNS: pods[job.Slot].Path, IfName: ifName, Master: lab.Master, Addresses: f.addresses(job.Slot)}
		if verb == measure.Add {
			return 0, link.Add()
		}
		return 0, link.Del()
	}}
}

// verify looks whether the job was done; pods may be nil where there is no link to look at.
func verify(pods []lab.Pod, f families) func(measure.Contestant, measure.Verb, measure.Job) error {
	return func(c measure.Contestant, verb measure.Verb, job measure.Job) error {
		switch {
		case c.Name == report.EmptyExec:
			return nil
		case verb == measure.Add:
			return pods[job.Slot].Check(ifName, f.v4, f.v6)
		default:
			return pods[job.Slot].Empty()
		}
	}
}

// ids gives container IDs that look like a runtime's and never repeat.
func ids(seed int64) func() string {
	n := 0
	prefix := fmt.Sprintf("%016x", seed)
	return func() string {
		n++
		id := fmt.Sprintf("%08x%s", n, strings.Repeat(prefix, 4))
		return id[:64]
	}
}
