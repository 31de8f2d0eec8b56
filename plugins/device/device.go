// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package device is the kubelet's device plugin for RDMA NICs, GPUs, and pairs of them: one process and one ledger for all resources, so that nothing is handed out
// twice under two names.
//
//	hardware, config, kubelet ─▶ refresh: inventory ─▶ pool.Build ─▶ CDI specs, device-info files ─▶ endpoints ─▶ kubelet
//	                                                      ▲                                            │ Allocate
//	                                                    ledger ◀───────────────────Take────────────────┘
//	                                                      └◀──Sync── PodResources
//
// The API is v1beta1 of k8s.io/kubelet, one gRPC server and socket for each resource.
//
// # What happens when
//
//   - the kubelet restarts: it removes our sockets and makes its own anew. Both are seen in the folder: the endpoints listen again and register.
//   - this process restarts: records and PodResources say what is in pods. Devices in pods stay listed; their containers are not touched.
//   - hardware comes, goes, or a driver is loaded: a kernel event, or the next look, makes a refresh. CDI specs are written before a device is offered.
//   - the config changes: it is read again; a bad one is told, and the last good one stays, across restarts too.
//   - the kubelet does not answer: everything in the records counts as in use.
//
// The paper is docs/design/0009-devices.md.
package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/railyard-net/railyard/plugins/device/cdi"
	"github.com/railyard-net/railyard/plugins/device/config"
	"github.com/railyard-net/railyard/plugins/device/pool"
	"github.com/railyard-net/railyard/plugins/kubelet"
	"github.com/railyard-net/railyard/rdma/gpu"
	"github.com/railyard-net/railyard/rdma/inventory"
	"github.com/railyard-net/railyard/rdma/ledger"
)

// Options are what a plugin works on.
type Options struct {
	Hardware inventory.Source
	// WatchGPUs reports faults of GPUs until its context ends, as gpu.Watch does; nil: nobody does.
	WatchGPUs func(ctx context.Context, report func(gpu.Event)) error
	// GPUSpec describes the GPUs of a snapshot for CDI; nil: there is none.
	GPUSpec func(inventory.Snapshot) (*cdi.Spec, error)
	// Events are signals that hardware may have changed; nil: only looking tells.
	Events func(ctx context.Context, changed func()) error

	// ReadConfig reads the files, and ConfigDirs are the folders in which they change.
	ReadConfig func() (config.Sources, error)
	ConfigDirs []string

	PluginDir     string // of the kubelet's sockets
	KubeletSocket string // of PodResources
	StateDir      string // lives as long as the boot
	CDIDir        string // empty: no specs
	DevInfoDir    string // empty: no device-info files
	DevRoot       string // where the host's /dev is, for the paths of files; empty: at its place

	SyncEvery time.Duration // how often PodResources is asked
	FreeAfter time.Duration // how long no pod must have had a device before it is free

	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
}

// Plugin is the whole process. Its methods may be called concurrently; Run once.
type Plugin struct {
	o       Options
	ledger  *ledger.Ledger
	metrics *metrics
	wake    chan struct{} // holds one
	state   state

	// mu is of what is offered: Allocate sees one catalogue, that of the ledger.
	mu        sync.Mutex
	config    *config.Config
	health    *gpu.Health
	resources map[string]pool.Resource
	snapshot  inventory.Snapshot
	endpoints map[string]*endpoint
	faults    map[string]string // what State tells, by topic
	refreshed bool
	gpuSpec   *cdi.Spec // of refresh alone, as are the next
	gpusThen  string
	gpuErr    error

	endpointsDone sync.WaitGroup
}

// New reads what an earlier process left. It starts nothing.
func New(o Options) (*Plugin, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Plugin{
		o: o, wake: make(chan struct{}, 1), state: state{dir: o.StateDir},
		resources: map[string]pool.Resource{}, endpoints: map[string]*endpoint{}, faults: map[string]string{},
	}
	records, err := p.state.loadRecords()
	if err != nil {
		// Unreadable records are as lost: PodResources has what matters, but for the GPUs of pairs, which are guessed.
		o.Log.Warn("records of devices in use are lost; the kubelet is asked", "err", err)
	}
	p.ledger = ledger.New(records, o.Now, o.FreeAfter, p.state.saveRecords)
	p.metrics = newMetrics(o.Registerer, p)
	return p, nil
}

// kick has a refresh done soon.
func (p *Plugin) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run serves until ctx ends. Pods keep their devices after it.
func (p *Plugin) Run(ctx context.Context) error {
	dirs, err := newDirWatch(p.o.Log, p.o.PluginDir, p.o.ConfigDirs)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return dirs.run(ctx, p.kubeletMoved, p.kick) })
	g.Go(func() error { return p.syncLoop(ctx) })
	if p.o.Events != nil {
		g.Go(func() error {
			if err := p.o.Events(ctx, p.kick); err != nil && ctx.Err() == nil {
				p.o.Log.WarnContext(ctx, "no events of hardware: changes are seen at the next look", "err", err)
			}
			return nil
		})
	}
	if p.o.WatchGPUs != nil {
		g.Go(func() error { p.watchGPUs(ctx); return nil })
	}
	g.Go(func() error { return p.loop(ctx) })
	err = g.Wait()
	p.endpointsDone.Wait()
	return err
}

// settle is how long a burst of events may last before it is looked at.
const settle = 200 * time.Millisecond

func (p *Plugin) loop(ctx context.Context) error {
	c, _, _ := p.loadConfig()
	p.mu.Lock()
	p.config = c
	p.mu.Unlock()
	// What pods have comes first: nothing must be offered that is theirs. A kubelet that is not there yet has no requests either.
	if err := p.sync(ctx); err != nil {
		p.o.Log.InfoContext(ctx, "what is in pods is not known yet; records count as in use", "err", err)
	}
	for {
		p.refresh(ctx)
		var rescan <-chan time.Time
		timer := time.NewTimer(max(p.rescan(), time.Second))
		if p.rescan() > 0 {
			rescan = timer.C
		}
		select {
		case <-ctx.Done():
		case <-rescan:
		case <-p.wake:
			select {
			case <-ctx.Done():
			case <-time.After(settle):
			}
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil //nolint:nilerr // told to end
		}
	}
}

func (p *Plugin) rescan() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.config == nil {
		return config.DefaultRescan
	}
	return p.config.Rescan
}

// fault keeps or forgets what State tells of a topic, and logs it when it is new.
func (p *Plugin) fault(ctx context.Context, topic string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if p.faults[topic] == text {
		return
	}
	if p.faults[topic] = text; text == "" {
		delete(p.faults, topic)
		p.o.Log.InfoContext(ctx, "well again", "topic", topic)
		return
	}
	p.o.Log.WarnContext(ctx, "not all is well", "topic", topic, "err", text)
}

// sync asks the kubelet what pods have.
func (p *Plugin) sync(ctx context.Context) error {
	asked := p.o.Now()
	list, err := kubelet.Devices(ctx, p.o.KubeletSocket)
	if err != nil {
		return err
	}
	held := map[ledger.Device]ledger.Holder{}
	for d, c := range list {
		if p.ours(d.Resource) {
			held[ledger.Device{Resource: d.Resource, ID: d.ID}] = ledger.Holder{Namespace: c.Namespace, Pod: c.Pod, Container: c.Name}
		}
	}
	changed, err := p.ledger.Sync(held, asked)
	if changed {
		p.kick()
	}
	return err
}

// ours says whether a resource is or was this plugin's: a config may have been changed while pods have its devices.
func (p *Plugin) ours(resource string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.config != nil && p.config.Owns(resource) || slices.ContainsFunc(p.ledger.Used(), func(r ledger.Record) bool { return r.Device.Resource == resource })
}

func (p *Plugin) syncLoop(ctx context.Context) error {
	tick := time.NewTicker(p.o.SyncEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := p.sync(ctx); ctx.Err() == nil {
			p.mu.Lock()
			p.fault(ctx, "PodResources", err)
			p.mu.Unlock()
		}
	}
}

// watchGPUs reports faults for as long as there is a driver, and looks for one otherwise.
func (p *Plugin) watchGPUs(ctx context.Context) {
	for ctx.Err() == nil {
		began := false
		err := p.o.WatchGPUs(ctx, func(e gpu.Event) {
			began = true
			p.mu.Lock()
			health, all := p.health, p.snapshot.GPUs
			p.mu.Unlock()
			if health == nil {
				return
			}
			p.o.Log.WarnContext(ctx, "a GPU reports a fault", "gpu", e.UUID, "xid", e.XID, "instance", e.GPUInstance)
			p.metrics.xid(e.XID)
			if health.Report(e, all, p.o.Now()) {
				p.kick()
			}
		})
		p.mu.Lock()
		if err != nil && !errors.Is(err, gpu.ErrNotReady) && p.health != nil {
			p.health.Reloaded()
		}
		p.mu.Unlock()
		if err != nil && began {
			p.o.Log.WarnContext(ctx, "the GPUs' driver is no longer heard", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
			p.kick()
		}
	}
}

// kubeletMoved has every endpoint look whether it is still known.
func (p *Plugin) kubeletMoved() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.endpoints {
		e.again()
	}
}

// Alive is the daemon's: a plugin that looks at the hardware is of use.
func (p *Plugin) Alive() error { return nil }

// State is ready when the resources were offered once, and tells what is not well.
func (p *Plugin) State() (lines []string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, r := range p.resources {
		lines = append(lines, fmt.Sprintf("%s: %d devices", name, len(r.Devices)))
	}
	for topic, text := range p.faults {
		lines = append(lines, topic+": "+text)
	}
	if !p.refreshed {
		return lines, errors.New("nothing is offered yet")
	}
	return lines, nil
}

// socketOf is the file of a resource's server.
func (o Options) socketOf(resource string) string {
	return filepath.Join(o.PluginDir, socketName(resource))
}
