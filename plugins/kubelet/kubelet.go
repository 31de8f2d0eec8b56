// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package kubelet asks the node's kubelet what it runs, by the PodResources API (v1) on its socket. It is for programs that
// stay; what starts for every pod links no gRPC.
package kubelet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/railyard-net/railyard/plugins/cni"
)

// Socket is where kubelets listen.
const Socket = "/var/lib/kubelet/pod-resources/kubelet.sock"

const (
	// answerWait bounds one question, dialling included.
	answerWait = 5 * time.Second
	// maxAnswer is what the kubelet's own clients allow.
	maxAnswer = 16 << 20
)

// ErrHidden: the kubelet answers, and its process cannot be seen from here; nor can those of pods, then.
var ErrHidden = errors.New("the kubelet's process cannot be seen from here: this program needs the host's PID namespace (hostPID)")

// errNone: the pod that asks is on the node, so a kubelet that has none has just started.
var errNone = errors.New("the kubelet lists no pod at all: it does not know its pods yet")

// Running asks the kubelet at socket. It dials for each question: there is one when something looks abandoned, and none for
// days otherwise. A kubelet that cannot be reached, or that has just started and knows no pods, is an error.
func Running(ctx context.Context, socket string) (cni.Running, error) {
	running, err := ask(ctx, socket)
	if err != nil {
		return cni.Running{}, fmt.Errorf("ask the kubelet at %s: %w", socket, err)
	}
	return running, nil
}

func ask(ctx context.Context, socket string) (cni.Running, error) {
	list, err := list(ctx, socket)
	if err != nil {
		return cni.Running{}, err
	}
	return read(list), nil
}

// Device is what a device plugin gave: an ID of a resource.
type Device struct{ Resource, ID string }

// Container is who has it.
type Container struct{ Namespace, Pod, Name string }

// Devices asks the kubelet at socket which containers have which devices of device plugins. The errors are those of Running.
func Devices(ctx context.Context, socket string) (map[Device]Container, error) {
	list, err := list(ctx, socket)
	if err != nil {
		return nil, fmt.Errorf("ask the kubelet at %s: %w", socket, err)
	}
	held := map[Device]Container{}
	for _, p := range list.GetPodResources() {
		for _, c := range p.GetContainers() {
			for _, d := range c.GetDevices() {
				for _, id := range d.GetDeviceIds() {
					held[Device{d.GetResourceName(), id}] = Container{p.GetNamespace(), p.GetName(), c.GetName()}
				}
			}
		}
	}
	return held, nil
}

func list(ctx context.Context, socket string) (*podresources.ListPodResourcesResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	// Dialled here and not by gRPC, which would hide why it cannot be and try again in its own time.
	c, err := dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///kubelet",
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(once(c)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	defer func() { _ = conn.Close(); _ = c.Close() }() // a second close is no error that matters
	list, err := podresources.NewPodResourcesListerClient(conn).List(ctx, &podresources.ListPodResourcesRequest{})
	if err != nil {
		return nil, err
	}
	if len(list.GetPodResources()) == 0 {
		return nil, errNone
	}
	return list, nil
}

// dial connects to the kubelet, whose process must be one that this one can see.
func dial(ctx context.Context, socket string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err == nil {
		var peer *unix.Ucred
		if ctl := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); ctl != nil {
			err = ctl
		}
		// Who has no number in our PID namespace is 0 (unix(7)).
		if err == nil && (peer.Pid == 0 || !exists(peer.Pid)) {
			err = ErrHidden
		}
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func exists(pid int32) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d/ns", pid))
	return err == nil
}

// once hands the connection to the first who dials.
func once(c net.Conn) func(context.Context, string) (net.Conn, error) {
	first := make(chan net.Conn, 1)
	first <- c
	return func(context.Context, string) (net.Conn, error) {
		select {
		case c := <-first:
			return c, nil
		default:
			return nil, errors.New("the kubelet has ended the connection")
		}
	}
}

func read(list *podresources.ListPodResourcesResponse) cni.Running {
	running := cni.Running{Pods: map[cni.PodName]bool{}, Devices: map[string]bool{}}
	for _, p := range list.GetPodResources() {
		running.Pods[cni.PodName{Namespace: p.GetNamespace(), Name: p.GetName()}] = true
		for _, c := range p.GetContainers() {
			for _, d := range c.GetDevices() {
				for _, id := range d.GetDeviceIds() {
					running.Devices[id] = true
				}
			}
			for _, id := range claimed(c) {
				running.Devices[id] = true
			}
		}
	}
	delete(running.Devices, "") // a claim's device with one of its names only
	return running
}

// claimed are the devices of resource claims: the name that the driver has for each, and its CDI name, which is what follows
// vendor and class.
func claimed(c *podresources.ContainerResources) []string {
	var ids []string
	for _, claim := range c.GetDynamicResources() {
		for _, r := range claim.GetClaimResources() {
			ids = append(ids, r.GetDeviceName())
			for _, d := range r.GetCdiDevices() {
				if _, name, ok := strings.Cut(d.GetName(), "="); ok {
					ids = append(ids, name)
				}
			}
		}
	}
	return ids
}
