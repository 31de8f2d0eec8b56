// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package podresources is a kubelet as far as its PodResources API (v1) goes, for tests: it knows pods and the devices that it gave
// them, gives no device twice, and answers as a kubelet of the version that go.mod names does.
package podresources

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// Kubelet is the kubelet. Its methods may be called concurrently.
type Kubelet struct {
	podresources.UnimplementedPodResourcesListerServer

	mu      sync.Mutex
	pods    map[string]*podresources.PodResources // by namespace/name
	holder  map[string]string                     // of resource=device: the pod
	server  *grpc.Server
	served  chan struct{}
	lists   int
	failing error
}

// New is a kubelet that runs no pods and does not listen.
func New() *Kubelet {
	return &Kubelet{pods: map[string]*podresources.PodResources{}, holder: map[string]string{}}
}

// Run takes a pod in, with one container that is given the devices (by resource). A pod that is there is refused, and a device that
// another has.
func (k *Kubelet) Run(namespace, name string, devices map[string][]string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := namespace + "/" + name
	if k.pods[key] != nil {
		return fmt.Errorf("pod %s runs already", key)
	}
	c := &podresources.ContainerResources{Name: "main"}
	for resource, ids := range devices {
		for _, id := range ids {
			if by := k.holder[resource+"="+id]; by != "" {
				return fmt.Errorf("device %s of %s is given to pod %s", id, resource, by)
			}
		}
		c.Devices = append(c.Devices, &podresources.ContainerDevices{ResourceName: resource, DeviceIds: slices.Clone(ids)})
	}
	for resource, ids := range devices {
		for _, id := range ids {
			k.holder[resource+"="+id] = key
		}
	}
	k.pods[key] = &podresources.PodResources{Namespace: namespace, Name: name, Containers: []*podresources.ContainerResources{c}}
	return nil
}

// End forgets a pod; its devices are free again.
func (k *Kubelet) End(namespace, name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := namespace + "/" + name
	delete(k.pods, key)
	for device, by := range k.holder {
		if by == key {
			delete(k.holder, device)
		}
	}
}

// Fail makes every answer that error, until it is nil.
func (k *Kubelet) Fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failing = err
}

// Lists is how often List was asked.
func (k *Kubelet) Lists() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lists
}

// Start listens at socket, whose folder is made if it is missing; a socket that a stopped kubelet left is replaced, as a kubelet does.
// It must be called in the mount namespace that socket is meant in.
func (k *Kubelet) Start(socket string) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		return err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // a kubelet that ends leaves it there
	k.mu.Lock()
	defer k.mu.Unlock()
	k.server, k.served = grpc.NewServer(), make(chan struct{})
	podresources.RegisterPodResourcesListerServer(k.server, k)
	go func(s *grpc.Server, done chan struct{}) {
		defer close(done)
		_ = s.Serve(l) // ends with Stop
	}(k.server, k.served)
	return nil
}

// Stop ends the serving, at once; what the kubelet knows stays. It may be called again.
func (k *Kubelet) Stop() {
	k.mu.Lock()
	s, done := k.server, k.served
	k.server = nil
	k.mu.Unlock()
	if s != nil {
		s.Stop()
		<-done
	}
}

// List gives every pod, those without devices too.
func (k *Kubelet) List(context.Context, *podresources.ListPodResourcesRequest) (*podresources.ListPodResourcesResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lists++
	if k.failing != nil {
		return nil, k.failing
	}
	out := &podresources.ListPodResourcesResponse{}
	for _, p := range k.pods {
		out.PodResources = append(out.PodResources, p)
	}
	return out, nil
}

// Get gives one pod.
func (k *Kubelet) Get(_ context.Context, r *podresources.GetPodResourcesRequest) (*podresources.GetPodResourcesResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.pods[r.GetPodNamespace()+"/"+r.GetPodName()]
	switch {
	case k.failing != nil:
		return nil, k.failing
	case p == nil:
		return nil, status.Errorf(codes.NotFound, "pod %s in namespace %s not found", r.GetPodName(), r.GetPodNamespace())
	}
	return &podresources.GetPodResourcesResponse{PodResources: p}, nil
}
