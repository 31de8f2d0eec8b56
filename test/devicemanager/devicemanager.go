// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package devicemanager is a kubelet as far as its device manager goes, for tests of device plugins. It speaks to plugins over the same sockets, and keeps to the rules
// of the real one (pkg/kubelet/cm/devicemanager of the version that go.mod names): it removes all sockets when it starts, dials whoever registers, believes ListAndWatch,
// takes devices of a container's resources in random order, asks for a preference and takes of it what is free, gives nothing twice, and keeps what it gave
// in a checkpoint that outlives it.
package devicemanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/railyard-net/railyard/test/podresources"
)

const checkpoint = "kubelet_internal_checkpoint"

// Kubelet is the kubelet. Its methods may be called concurrently.
type Kubelet struct {
	api.UnimplementedRegistrationServer

	// Pods answers PodResources.
	Pods *podresources.Kubelet

	dir     string
	sockets string // of PodResources

	mu        sync.Mutex
	server    *grpc.Server
	served    chan struct{}
	plugins   map[string]*plugin
	given     map[string]map[string]string // resource, ID: the pod
	registers int
	changed   chan struct{}
}

// plugin is a resource as its endpoint last said.
type plugin struct {
	conn    *grpc.ClientConn
	client  api.DevicePluginClient
	devices map[string]bool // ID: healthy
	stop    context.CancelFunc
	done    chan struct{}
}

// Response is what a container got of a resource.
type Response struct {
	IDs []string
	*api.ContainerAllocateResponse
}

// New is a kubelet whose device plugins are in dir, and that does not run.
func New(dir, podResourcesSocket string) *Kubelet {
	return &Kubelet{
		Pods: podresources.New(), dir: dir, sockets: podResourcesSocket,
		plugins: map[string]*plugin{}, given: map[string]map[string]string{}, changed: make(chan struct{}),
	}
}

// Start starts it: sockets that it finds are removed, as the real one does, and what it gave is read again.
func (k *Kubelet) Start() error {
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != checkpoint {
			if err := os.RemoveAll(filepath.Join(k.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.given = map[string]map[string]string{}
	if b, err := os.ReadFile(filepath.Join(k.dir, checkpoint)); err == nil {
		if err := json.Unmarshal(b, &k.given); err != nil {
			return err
		}
	}
	if err := k.Pods.Start(k.sockets); err != nil {
		return err
	}
	l, err := net.Listen("unix", filepath.Join(k.dir, "kubelet.sock"))
	if err != nil {
		return err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	k.server, k.served = grpc.NewServer(), make(chan struct{})
	api.RegisterRegistrationServer(k.server, k)
	go func(s *grpc.Server, done chan struct{}) {
		defer close(done)
		_ = s.Serve(l) // ends with Stop
	}(k.server, k.served)
	return nil
}

// Stop ends it at once; pods run on.
func (k *Kubelet) Stop() {
	k.mu.Lock()
	s, done, plugins := k.server, k.served, k.plugins
	k.server, k.plugins = nil, map[string]*plugin{}
	k.mu.Unlock()
	if s != nil {
		s.Stop()
		<-done
	}
	for _, p := range plugins {
		p.end()
	}
	k.Pods.Stop()
}

func (p *plugin) end() {
	p.stop()
	<-p.done
	p.conn.Close()
}

// Register is the API's. The real one dials back before it answers, too.
func (k *Kubelet) Register(ctx context.Context, r *api.RegisterRequest) (*api.Empty, error) {
	if r.GetVersion() != api.Version {
		return nil, fmt.Errorf("version %s is not served", r.GetVersion())
	}
	conn, err := grpc.NewClient("unix://"+filepath.Join(k.dir, r.GetEndpoint()), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	p := &plugin{conn: conn, client: api.NewDevicePluginClient(conn), devices: map[string]bool{}, done: make(chan struct{})}
	if _, err := p.client.GetDevicePluginOptions(ctx, &api.Empty{}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	streamCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.stop = stop
	k.mu.Lock()
	if k.server == nil {
		k.mu.Unlock()
		stop()
		return nil, errors.Join(errors.New("the kubelet ends"), conn.Close())
	}
	old := k.plugins[r.GetResourceName()]
	k.plugins[r.GetResourceName()] = p
	k.registers++
	k.mu.Unlock()
	if old != nil {
		old.end()
	}
	go k.listen(streamCtx, p)
	return &api.Empty{}, nil
}

// listen believes what a plugin says, until the stream ends; then its devices are unhealthy.
func (k *Kubelet) listen(ctx context.Context, p *plugin) {
	defer close(p.done)
	s, err := p.client.ListAndWatch(ctx, &api.Empty{})
	for err == nil {
		var list *api.ListAndWatchResponse
		if list, err = s.Recv(); err == nil {
			devices := map[string]bool{}
			for _, d := range list.GetDevices() {
				devices[d.GetID()] = d.GetHealth() == api.Healthy
			}
			k.set(p, devices)
		}
	}
	k.mu.Lock()
	sick := maps.Clone(p.devices)
	k.mu.Unlock()
	for id := range sick {
		sick[id] = false
	}
	k.set(p, sick)
}

func (k *Kubelet) set(p *plugin, devices map[string]bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p.devices = devices
	close(k.changed)
	k.changed = make(chan struct{})
}

// Devices are those of a resource, and whether they are healthy; nil: nobody serves it.
func (k *Kubelet) Devices(resource string) map[string]bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.plugins[resource]; p != nil {
		return maps.Clone(p.devices)
	}
	return nil
}

// Healthy are the IDs of a resource that are healthy, whoever has them, in order.
func (k *Kubelet) Healthy(resource string) []string {
	var ids []string
	for id, ok := range k.Devices(resource) {
		if ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Registers counts registrations.
func (k *Kubelet) Registers() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.registers
}

// Await waits until ok of the plugins' devices, and returns false if that does not come in time.
func (k *Kubelet) Await(limit time.Duration, ok func() bool) bool {
	deadline := time.After(limit)
	for {
		k.mu.Lock()
		changed := k.changed
		k.mu.Unlock()
		if ok() {
			return true
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Millisecond): // what is awaited may be another's
		case <-deadline:
			return ok()
		}
	}
}

// Admit admits a pod of one container that asks for so many devices of resources. When one of them can't be had the pod has failed, and keeps nothing.
func (k *Kubelet) Admit(ctx context.Context, namespace, name string, wants map[string]int) (map[string]Response, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	pod := namespace + "/" + name
	got := map[string]Response{}
	for resource, n := range wants { // in no order, as with the real one
		r, err := k.allocate(ctx, pod, resource, n)
		if err != nil {
			k.forget(pod)
			return nil, fmt.Errorf("UnexpectedAdmissionError: %s: %w", resource, err)
		}
		got[resource] = r
	}
	devices := map[string][]string{}
	for resource, r := range got {
		devices[resource] = r.IDs
	}
	if err := k.Pods.Run(namespace, name, devices); err != nil {
		k.forget(pod)
		return nil, err
	}
	return got, k.save()
}

func (k *Kubelet) allocate(ctx context.Context, pod, resource string, n int) (Response, error) {
	p := k.plugins[resource]
	if p == nil {
		return Response{}, errors.New("nobody serves it")
	}
	var free []string
	for id, healthy := range p.devices {
		if healthy && k.given[resource][id] == "" {
			free = append(free, id)
		}
	}
	if len(free) < n {
		return Response{}, fmt.Errorf("requested number of devices unavailable: %d of %d", len(free), n)
	}
	chosen := free
	if n < len(free) {
		r, err := p.client.GetPreferredAllocation(ctx, &api.PreferredAllocationRequest{ContainerRequests: []*api.ContainerPreferredAllocationRequest{
			{AvailableDeviceIDs: free, AllocationSize: int32(n)},
		}})
		if err != nil {
			return Response{}, err
		}
		chosen = nil
		for _, id := range slices.Concat(r.GetContainerResponses()[0].GetDeviceIDs(), free) {
			if len(chosen) < n && slices.Contains(free, id) && !slices.Contains(chosen, id) {
				chosen = append(chosen, id)
			}
		}
	}
	r, err := p.client.Allocate(ctx, &api.AllocateRequest{ContainerRequests: []*api.ContainerAllocateRequest{{DevicesIds: chosen}}})
	if err != nil {
		return Response{}, err
	}
	if k.given[resource] == nil {
		k.given[resource] = map[string]string{}
	}
	for _, id := range chosen {
		k.given[resource][id] = pod
	}
	slices.Sort(chosen)
	return Response{chosen, r.GetContainerResponses()[0]}, nil
}

// End ends a pod. No plugin is told.
func (k *Kubelet) End(namespace, name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.Pods.End(namespace, name)
	k.forget(namespace + "/" + name)
	return k.save()
}

func (k *Kubelet) forget(pod string) {
	for _, ids := range k.given {
		maps.DeleteFunc(ids, func(_, by string) bool { return by == pod })
	}
}

func (k *Kubelet) save() error {
	b, err := json.Marshal(k.given)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(k.dir, checkpoint), b, 0o600)
}
