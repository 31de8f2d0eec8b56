// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/railyard-net/railyard/plugins/device/pool"
	"github.com/railyard-net/railyard/rdma/ledger"
)

const (
	kubeletSocket = "kubelet.sock"
	registerWait  = 10 * time.Second // for one answer of the kubelet, which dials us meanwhile
	retryFirst    = 200 * time.Millisecond
	retryMost     = 10 * time.Second
	// listless is how long a registered endpoint may be without a listener before it registers anew.
	listless = 30 * time.Second
)

// socketName is short, for a socket's path has 107 bytes at most, and says whose it is.
func socketName(resource string) string {
	h := fnv.New64a()
	fmt.Fprint(h, resource)
	plain := regexp.MustCompile(`[^a-zA-Z0-9]+`).ReplaceAllString(filepath.Base(resource), "-")
	return fmt.Sprintf("railyard-%.20s-%x.sock", plain, h.Sum64())
}

// endpoint serves one resource to the kubelet.
type endpoint struct {
	api.UnimplementedDevicePluginServer

	plugin *Plugin
	name   string
	socket string
	wake   chan struct{} // holds one
	ended  chan struct{}

	mu             sync.Mutex
	devices        []*api.Device
	changed        chan struct{} // closed when devices are others
	streams, begun int           // open now, and ever
}

func newEndpoint(p *Plugin, name string) *endpoint {
	return &endpoint{
		plugin: p, name: name, socket: p.o.socketOf(name),
		wake: make(chan struct{}, 1), ended: make(chan struct{}), changed: make(chan struct{}),
	}
}

// again has the endpoint look whether its socket is there and the kubelet knows it.
func (e *endpoint) again() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *endpoint) end() { close(e.ended) }

// offer tells the listeners, if anything is new.
func (e *endpoint) offer(r pool.Resource) {
	list := make([]*api.Device, 0, len(r.Devices))
	for _, d := range r.Devices {
		dev := &api.Device{ID: d.ID, Health: api.Healthy}
		if d.Unhealthy != "" {
			dev.Health = api.Unhealthy
		}
		if len(d.NUMA) > 0 {
			dev.Topology = &api.TopologyInfo{}
			for _, n := range d.NUMA {
				dev.Topology.Nodes = append(dev.Topology.Nodes, &api.NUMANode{ID: int64(n)})
			}
		}
		list = append(list, dev)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if equalDevices(e.devices, list) {
		return
	}
	e.devices = list
	close(e.changed)
	e.changed = make(chan struct{})
}

func equalDevices(a, b []*api.Device) bool {
	if a == nil || len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].String() != b[i].String() {
			return false
		}
	}
	return true
}

// run serves until the endpoint is ended or ctx is. Whenever the socket is gone it listens anew; whenever the kubelet may have forgotten it, it registers.
func (e *endpoint) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-e.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	log := e.plugin.o.Log.With("resource", e.name)
	for ctx.Err() == nil {
		if err := e.serve(ctx); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "a resource is not served; trying again", "err", err)
			e.pause(ctx, time.Second)
		}
	}
}

// pause waits, or for what wakes the endpoint.
func (e *endpoint) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-e.wake:
	case <-t.C:
	}
}

// serve listens and keeps itself registered for as long as its socket is there.
func (e *endpoint) serve(ctx context.Context) error {
	if err := os.Remove(e.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", e.socket)
	if err != nil {
		return err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // by then it may be another's
	inode := inodeOf(e.socket)
	s := grpc.NewServer()
	api.RegisterDevicePluginServer(s, e)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	defer func() {
		s.Stop()
		<-served //nolint:errcheck // it was stopped
		if inodeOf(e.socket) == inode {
			_ = os.Remove(e.socket) // what is left is replaced by the next one
		}
	}()
	retry := retryFirst
	for ctx.Err() == nil && inodeOf(e.socket) == inode {
		e.mu.Lock()
		begun := e.begun
		e.mu.Unlock()
		if err := e.register(ctx); err != nil {
			if !errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil { // no kubelet is no fault: it may start
				e.plugin.o.Log.InfoContext(ctx, "not registered yet", "resource", e.name, "err", err)
			}
			e.pause(ctx, retry)
			retry = min(2*retry, retryMost)
			continue
		}
		retry = retryFirst
		e.plugin.metrics.registered(e.name)
		e.plugin.o.Log.InfoContext(ctx, "registered with the kubelet", "resource", e.name)
		if e.listening(ctx, inode, begun) {
			return nil
		}
	}
	return nil
}

// listening waits until the endpoint has reason to register again, or (true) to be served anew. Begun is how many streams there had been
// before it registered.
func (e *endpoint) listening(ctx context.Context, inode uint64, begun int) (gone bool) {
	kubelet := inodeOf(filepath.Join(e.plugin.o.PluginDir, kubeletSocket))
	since := time.Now()
	for ctx.Err() == nil {
		e.pause(ctx, listless)
		switch {
		case inodeOf(e.socket) != inode:
			return true
		case inodeOf(filepath.Join(e.plugin.o.PluginDir, kubeletSocket)) != kubelet:
			return false
		}
		e.mu.Lock()
		// The kubelet takes a moment to ask for the devices, in which it is no reason that something else wakes the endpoint.
		alone := e.streams == 0 && (e.begun > begun || time.Since(since) >= listless)
		e.mu.Unlock()
		if alone {
			return false
		}
	}
	return true
}

// inodeOf is 0 for what is not there.
func inodeOf(path string) uint64 {
	info, err := os.Lstat(path)
	if err != nil {
		return 0
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

func (e *endpoint) register(ctx context.Context) error {
	path := filepath.Join(e.plugin.o.PluginDir, kubeletSocket)
	if _, err := os.Stat(path); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, registerWait)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = api.NewRegistrationClient(conn).Register(ctx, &api.RegisterRequest{
		Version: api.Version, Endpoint: filepath.Base(e.socket), ResourceName: e.name,
		Options: &api.DevicePluginOptions{GetPreferredAllocationAvailable: true},
	})
	return err
}

// GetDevicePluginOptions is the API's.
func (e *endpoint) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{GetPreferredAllocationAvailable: true}, nil
}

// ListAndWatch sends the devices now and whenever they change.
func (e *endpoint) ListAndWatch(_ *api.Empty, s grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	e.mu.Lock()
	e.streams++
	e.begun++
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.streams--
		e.mu.Unlock()
		e.again()
	}()
	for {
		e.mu.Lock()
		devices, changed := e.devices, e.changed
		e.mu.Unlock()
		if err := s.Send(&api.ListAndWatchResponse{Devices: devices}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-e.ended:
			return nil
		case <-s.Context().Done():
			return nil
		}
	}
}

// GetPreferredAllocation proposes; the kubelet takes of it what it likes.
func (e *endpoint) GetPreferredAllocation(_ context.Context, r *api.PreferredAllocationRequest) (*api.PreferredAllocationResponse, error) {
	p := e.plugin
	p.mu.Lock()
	resource := p.resources[e.name]
	p.mu.Unlock()
	out := &api.PreferredAllocationResponse{}
	for _, c := range r.GetContainerRequests() {
		ids := resource.Prefer(c.GetAvailableDeviceIDs(), c.GetMustIncludeDeviceIDs(), int(c.GetAllocationSize()))
		out.ContainerResponses = append(out.ContainerResponses, &api.ContainerPreferredAllocationResponse{DeviceIDs: ids})
	}
	return out, nil
}

// Allocate gives devices, or says why not, which the pod's events show.
func (e *endpoint) Allocate(ctx context.Context, r *api.AllocateRequest) (*api.AllocateResponse, error) {
	start := time.Now()
	out := &api.AllocateResponse{}
	for _, c := range r.GetContainerRequests() {
		answer, err := e.plugin.allocate(e.name, c.GetDevicesIds())
		e.plugin.metrics.allocated(e.name, time.Since(start), err)
		if err != nil {
			e.plugin.o.Log.WarnContext(ctx, "devices are not given", "resource", e.name, "ids", c.GetDevicesIds(), "err", err)
			return nil, status.Error(codes.FailedPrecondition, err.Error())
		}
		e.plugin.o.Log.InfoContext(ctx, "devices given", "resource", e.name, "ids", c.GetDevicesIds())
		out.ContainerResponses = append(out.ContainerResponses, e.response(answer))
	}
	// Others may have to be withheld now.
	e.plugin.kick()
	return out, nil
}

func (e *endpoint) response(a pool.Answer) *api.ContainerAllocateResponse {
	out := &api.ContainerAllocateResponse{Envs: a.Env, Annotations: a.Annotations}
	for _, n := range a.Nodes {
		out.Devices = append(out.Devices, &api.DeviceSpec{ContainerPath: n.Path, HostPath: e.plugin.o.DevRoot + n.Path, Permissions: n.Permissions})
	}
	for _, name := range a.CDI {
		out.CdiDevices = append(out.CdiDevices, &api.CDIDevice{Name: name})
	}
	return out
}

// allocate records what is given before it is.
func (p *Plugin) allocate(resource string, ids []string) (pool.Answer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.resources[resource]
	if r.RefuseSeveral && len(ids) > 1 {
		return pool.Answer{}, fmt.Errorf("%s: %d replicas asked for: they share one GPU's time, and more of them give no more of it; ask for 1", resource, len(ids))
	}
	var devices []pool.Device
	var takes []ledger.Device
	for _, id := range ids {
		d, ok := r.Device(id)
		switch {
		case !ok:
			return pool.Answer{}, fmt.Errorf("%s %s: %w", resource, id, ledger.ErrUnknown)
		case d.Unhealthy != "":
			return pool.Answer{}, fmt.Errorf("%s %s is not well: %s", resource, id, d.Unhealthy)
		}
		devices, takes = append(devices, d), append(takes, ledger.Device{Resource: resource, ID: id})
	}
	answer, err := pool.NewAnswer(resource, devices)
	if err != nil {
		return pool.Answer{}, err
	}
	return answer, p.ledger.Take(takes...)
}
