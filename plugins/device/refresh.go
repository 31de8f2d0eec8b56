// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/railyard-net/railyard/plugins/device/cdi"
	"github.com/railyard-net/railyard/plugins/device/config"
	"github.com/railyard-net/railyard/plugins/device/pool"
	"github.com/railyard-net/railyard/rdma/gpu"
	"github.com/railyard-net/railyard/rdma/inventory"
	"github.com/railyard-net/railyard/rdma/ledger"
)

// refresh looks at everything and offers what is there. While there is no config that can be used, and never was one, it offers nothing and waits for one.
func (p *Plugin) refresh(ctx context.Context) {
	c, configErr, warnings := p.loadConfig()
	if c == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.fault(ctx, "config", configErr)
		p.metrics.configIs(false)
		return
	}
	snapshot, hardwareErr := p.o.Hardware.Read()
	p.describeGPUs(snapshot) // before mu, as it waits for the driver's library, which a fault may hold while it waits for mu

	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault(ctx, "config", configErr)
	p.fault(ctx, "config warnings", asError(warnings))
	p.fault(ctx, "hardware", hardwareErr)
	p.metrics.configIs(configErr == nil)
	p.configureHealth(c)
	in := pool.Input{Config: c, Snapshot: snapshot, Used: p.ledger.Used(), Sick: p.sick(snapshot)}
	built := pool.Build(in)
	known := map[ledger.Device][]ledger.Claim{}
	for _, r := range built {
		for _, d := range r.Devices {
			known[ledger.Device{Resource: r.Name, ID: d.ID}] = d.Claims
		}
	}
	p.ledger.Know(known)
	p.config, p.snapshot = c, snapshot
	// Before they are offered: a container may start a moment later.
	p.fault(ctx, "CDI", p.writeCDI(built, snapshot))
	p.fault(ctx, "device-info", p.writeDeviceInfo(built, snapshot))
	p.fault(ctx, "accounts", p.ledger.Check())
	p.offer(ctx, built)
	p.refreshed = true
}

// configureHealth keeps what is known to be sick through changes of the config.
func (p *Plugin) configureHealth(c *config.Config) {
	ignore, quiet := config.DefaultIgnored(), config.DefaultRecover
	switch {
	case c.GPU == nil && c.Pair == nil, c.GPU != nil && c.GPU.NoHealthChecks:
		p.health = nil
		return
	case c.GPU != nil:
		ignore, quiet = c.GPU.IgnoreXIDs, c.GPU.RecoverAfter
	}
	if p.health == nil {
		p.health = gpu.NewHealth(ignore, quiet)
		return
	}
	p.health.Configure(ignore, quiet)
}

func asError(warnings []string) error {
	if len(warnings) == 0 {
		return nil
	}
	return errors.New(strings.Join(warnings, "; "))
}

// loadConfig returns the config of the files, or else the last good one with the error of the files.
func (p *Plugin) loadConfig() (*config.Config, error, []string) { //nolint:staticcheck,revive // the error is one of two results, not the outcome
	sources, err := p.o.ReadConfig()
	if err == nil {
		c, warnings, parseErr := config.Parse(sources)
		if parseErr == nil {
			return c, p.state.saveConfig(sources), warnings
		}
		err = parseErr
	}
	p.mu.Lock()
	last := p.config
	p.mu.Unlock()
	if last != nil {
		return last, err, nil
	}
	old, oldErr := p.state.loadConfig()
	if oldErr != nil {
		return nil, errors.Join(err, oldErr), nil
	}
	c, warnings, oldErr := config.Parse(old)
	if oldErr != nil {
		return nil, errors.Join(err, oldErr), nil
	}
	return c, err, warnings
}

// sick are GPUs and instances with faults, as units.
func (p *Plugin) sick(s inventory.Snapshot) map[ledger.Unit]string {
	units := map[ledger.Unit]string{}
	if p.health == nil {
		return units
	}
	for uuid, reason := range p.health.Look(s.GPUs, p.o.Now()) {
		units[pool.MIGUnit(uuid)] = reason
		for _, g := range s.GPUs.GPUs {
			if g.UUID == uuid {
				units[pool.GPUUnit(g.Addr)] = reason
			}
		}
	}
	return units
}

// offer withholds what is in use under another name, and brings the endpoints in line.
func (p *Plugin) offer(ctx context.Context, built []pool.Resource) {
	p.resources = map[string]pool.Resource{}
	for _, r := range built {
		r.Devices = slices.Clone(r.Devices)
		for i, d := range r.Devices {
			if err := p.ledger.Conflict(ledger.Device{Resource: r.Name, ID: d.ID}, d.Claims); err != nil && d.Unhealthy == "" {
				r.Devices[i].Unhealthy = err.Error()
			}
		}
		p.resources[r.Name] = r
		e := p.endpoints[r.Name]
		if e == nil {
			e = newEndpoint(p, r.Name)
			p.endpoints[r.Name] = e
			p.endpointsDone.Go(func() { e.run(ctx) })
		}
		e.offer(r)
	}
	for _, name := range slices.Sorted(maps.Keys(p.endpoints)) {
		if _, ok := p.resources[name]; !ok {
			p.endpoints[name].end()
			delete(p.endpoints, name)
		}
	}
	p.metrics.offered(built)
}

// describeGPUs asks for the GPUs' spec when they are others than the last time, or it failed then.
func (p *Plugin) describeGPUs(s inventory.Snapshot) {
	if p.o.GPUSpec == nil || p.o.CDIDir == "" {
		return
	}
	if s.GPUs.State != gpu.Ready || len(s.GPUs.GPUs) == 0 {
		p.gpuSpec, p.gpusThen, p.gpuErr = nil, "", nil
		return
	}
	now := fmt.Sprintf("%+v", s.GPUs)
	if now == p.gpusThen && p.gpuErr == nil {
		return
	}
	spec, err := p.o.GPUSpec(s)
	if p.gpuErr = err; err == nil { // otherwise the old one stays: containers may be about to start by it
		p.gpuSpec, p.gpusThen = spec, now
	}
}

func (p *Plugin) writeCDI(built []pool.Resource, s inventory.Snapshot) error {
	if p.o.CDIDir == "" {
		return nil
	}
	nics := cdi.NICs(s, p.o.DevRoot)
	return errors.Join(
		p.gpuErr,
		cdi.Write(p.o.CDIDir, pool.NICKind, nics),
		cdi.Write(p.o.CDIDir, pool.GPUKind, p.gpuSpec),
		cdi.Write(p.o.CDIDir, pool.PairKind, cdi.Pairs(built, nics, p.gpuSpec)),
	)
}
