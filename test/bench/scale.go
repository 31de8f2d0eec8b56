// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/test/bench/host"
	"github.com/railyard-net/railyard/test/bench/measure"
	"github.com/railyard-net/railyard/test/bench/report"
)

// scale leases 10,000 addresses of each family and looks at the agent's memory, and at what an ADD takes then.
func (s *session) scale(ctx context.Context) error {
	leases := 10000
	if s.o.short {
		leases = 1000
	}
	if err := fillHostLocal(dual, leases); err != nil {
		return err
	}
	title := fmt.Sprintf("IPv4 and IPv6, with %d addresses of each in use", leases)
	if s.node != nil {
		s.say("%d leases", leases)
		m, err := s.node.fill(ctx, dual, leases)
		if err != nil {
			return err
		}
		s.attach.Memory = &m
		s.attach.Bars = append(s.attach.Bars, m.Bar())
	}
	loads := []load{{1, 40, 3}, {8, 40, 1}} // no more: host-local reads every file at every call
	if s.o.short {
		loads = s.loads(false)
	}
	rows, err := s.table(ctx, "IPAM, "+title, loads, s.ipamContestants(), report.HostLocal, nil)
	if err != nil {
		return err
	}
	s.ipam.Variants = append(s.ipam.Variants, report.Table{Name: "full", Title: title, Results: rows})
	s.ipam.Bars = append(s.ipam.Bars, report.IPAMBars(title, rows)...)
	return nil
}

// fill leases n times for pods that do not exist, and measures the agent before and after.
func (n *node) fill(ctx context.Context, f families, leases int) (report.Memory, error) {
	m := report.Memory{Leases: leases}
	before, err := n.memory()
	if err != nil {
		return m, err
	}
	m.IdleRSS = before.rss
	began := time.Now()
	group, ctxGroup := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := range leases {
		group.Go(func() error {
			key := ipam.Key{Network: f.name, ContainerID: fmt.Sprintf("%064x", i), IfName: ifName}
			pod := ipam.Pod{Namespace: "bench", Name: fmt.Sprintf("worker-%d", i), UID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i)}
			_, err := n.client.Lease(ctxGroup, ipam.Request{Key: key, Pool: f.name, Pod: pod})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return m, fmt.Errorf("lease %d addresses: %w", leases, err)
	}
	m.LeasesPerS = float64(leases) / time.Since(began).Seconds()
	if err := sleep(ctx, 2*n.mirror+time.Second); err != nil { // the mirror takes memory too
		return m, err
	}
	after, err := n.memory()
	m.RSS, m.PSS, m.Peak = after.rss, after.pss, after.peak
	return m, err
}

// memory is a process's, in MB.
type memory struct{ rss, pss, peak float64 }

func (n *node) memory() (memory, error) {
	var m memory
	for _, f := range []struct {
		file, field string
		to          *float64
	}{{"status", "VmRSS", &m.rss}, {"status", "VmHWM", &m.peak}, {"smaps_rollup", "Pss", &m.pss}} {
		value := host.Field(filepath.Join("/proc", strconv.Itoa(n.agent.Pid()), f.file), f.field, ":")
		kb, err := strconv.ParseFloat(strings.TrimSuffix(value, " kB"), 64)
		if err != nil {
			return m, fmt.Errorf("read the agent's %s: %w", f.field, err)
		}
		*f.to = kb * 1024 / 1e6
	}
	return m, nil
}

// fillHostLocal writes the files of n attachments, as host-local does when it makes them.
func fillHostLocal(f families, n int) error {
	dir := filepath.Join(hostLocalDir, f.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i := range n {
		for _, a := range f.addresses(i) {
			content := fmt.Sprintf("%064x\r\n%s", i, ifName)
			if err := os.WriteFile(filepath.Join(dir, a.Addr().String()), []byte(content), 0o600); err != nil {
				return err
			}
		}
	}
	for i, a := range f.addresses(n - 1) {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("last_reserved_ip.%d", i)), []byte(a.Addr().String()), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// outage kills the API server, for good, and attaches all the same.
func (s *session) outage(ctx context.Context) error {
	if s.node == nil {
		return nil
	}
	n := 100
	if s.o.short {
		n = 16
	}
	s.say("%d ADDs with the API server killed", n)
	s.node.api.StopServer()
	const parallel = 8
	plugin := cniPlugin(report.Railyard, s.o.installed("railyard"), s.lab.Pods, dual.railyardConf())
	samples, err := measure.Once(ctx, plugin, n, parallel, s.nextID)
	if err != nil {
		return fmt.Errorf("with the API server killed: %w", err)
	}
	rows := report.Results(map[measure.Key]*measure.Samples{{Contestant: report.Railyard, Parallel: parallel, Verb: measure.Add}: &samples}, nil)
	s.attach.API.Frozen = &rows[0]
	return nil
}
