// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"tags.cncf.io/container-device-interface/specs-go"

	"github.com/railyard-net/railyard/plugins/device/cdi"
	"github.com/railyard-net/railyard/plugins/device/config"
	"github.com/railyard-net/railyard/rdma/gpu"
	"github.com/railyard-net/railyard/rdma/inventory"
	"github.com/railyard-net/railyard/test/devicemanager"
	"github.com/railyard-net/railyard/test/sysfs"
)

// patience is for a machine that others load.
const patience = 30 * time.Second

// lab is a kubelet, simulated hardware, and a plugin that can be killed and started.
type lab struct {
	*testing.T
	dir     string
	machine *sysfs.Machine
	kubelet *devicemanager.Kubelet
	plugin  *Plugin
	stop    func()

	mu      sync.Mutex
	sources config.Sources
	gpus    func() (gpu.Inventory, error)
	report  func(gpu.Event)
	clock   time.Duration // beside the real one
}

// newLab draws a machine on which nothing runs but a kubelet.
func newLab(t *testing.T, drawing string) *lab {
	t.Helper()
	dir, err := os.MkdirTemp("", "ry-dp-") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m, err := sysfs.Draw(drawing)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{T: t, dir: dir, machine: m, gpus: func() (gpu.Inventory, error) { return m.GPUs(), nil }}
	l.kubelet = devicemanager.New(l.path("plugins"), l.path("pods", "kubelet.sock"))
	if err := errors.Join(os.MkdirAll(l.path("plugins"), 0o755), os.MkdirAll(l.path("config"), 0o755), m.Write(dir), l.kubelet.Start(),
		l.kubelet.Pods.Run("kube-system", "static", nil)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if l.stop != nil {
			l.stop()
		}
		l.kubelet.Stop()
	})
	return l
}

func (l *lab) path(parts ...string) string {
	return filepath.Join(append([]string{l.dir}, parts...)...)
}

// start runs a plugin, which sees what the lab has then and later.
func (l *lab) start() {
	l.Helper()
	p, err := New(Options{
		Hardware: inventory.Source{Sys: os.DirFS(l.path("sys")), GPUs: func() (gpu.Inventory, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.gpus()
		}},
		WatchGPUs: func(ctx context.Context, report func(gpu.Event)) error {
			l.mu.Lock()
			l.report = report
			l.mu.Unlock()
			<-ctx.Done()
			return nil
		},
		GPUSpec: simulatedSpec,
		ReadConfig: func() (config.Sources, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.sources, nil
		},
		ConfigDirs: []string{l.path("config")},
		PluginDir:  l.path("plugins"), KubeletSocket: l.path("pods", "kubelet.sock"), StateDir: l.path("state"),
		CDIDir: l.path("cdi"), DevInfoDir: l.path("devinfo"),
		SyncEvery: 50 * time.Millisecond, FreeAfter: 200 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(l.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})), Registerer: prometheus.NewRegistry(),
		Now: func() time.Time {
			l.mu.Lock()
			defer l.mu.Unlock()
			return time.Now().Add(l.clock)
		},
	})
	if err != nil {
		l.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	l.plugin = p
	l.stop = func() {
		cancel()
		if err := <-done; err != nil {
			l.Errorf("the plugin ended: %v", err)
		}
		l.stop = nil
	}
}

// simulatedSpec has a device for each GPU, as NVIDIA's library would.
func simulatedSpec(s inventory.Snapshot) (*cdi.Spec, error) {
	spec := &cdi.Spec{Kind: "railyard.dev/gpu"}
	for _, g := range s.GPUs.GPUs {
		spec.Devices = append(spec.Devices, cdi.Device{Name: g.UUID, ContainerEdits: cdi.Edits{DeviceNodes: []*specs.DeviceNode{{Path: "/dev/nvidia" + g.UUID[4:]}}}})
	}
	return spec, nil
}

// restart kills the plugin and starts another.
func (l *lab) restart() {
	l.Helper()
	l.stop()
	l.start()
}

// set changes the config files.
func (l *lab) set(s config.Sources) {
	l.Helper()
	l.mu.Lock()
	l.sources = s
	l.mu.Unlock()
	l.touch()
}

// touch has an event come from the folder of configs, which is how the plugin learns of anything here.
func (l *lab) touch() {
	l.Helper()
	if err := os.WriteFile(l.path("config", "changed"), nil, 0o600); err != nil {
		l.Fatal(err)
	}
}

// change changes the hardware.
func (l *lab) change(f func(*sysfs.Machine)) {
	l.Helper()
	l.mu.Lock()
	f(l.machine)
	err := l.machine.Write(l.dir)
	l.mu.Unlock()
	if err != nil {
		l.Fatal(err)
	}
	l.touch()
}

// healthy waits for a resource to have so many healthy devices.
func (l *lab) healthy(resource string, n int) {
	l.Helper()
	if !l.kubelet.Await(patience, func() bool { return l.kubelet.Devices(resource) != nil && len(l.kubelet.Healthy(resource)) == n }) {
		l.Fatalf("%s has %d healthy devices, want %d: %v", resource, len(l.kubelet.Healthy(resource)), n, l.kubelet.Devices(resource))
	}
}

// listed waits for a resource to have so many devices, well or not.
func (l *lab) listed(resource string, n int) {
	l.Helper()
	if !l.kubelet.Await(patience, func() bool { return len(l.kubelet.Devices(resource)) == n }) {
		l.Fatalf("%s has devices %v, want %d", resource, l.kubelet.Devices(resource), n)
	}
}

func (l *lab) admit(pod string, wants map[string]int) map[string]devicemanager.Response {
	l.Helper()
	got, err := l.kubelet.Admit(l.Context(), "default", pod, wants)
	if err != nil {
		l.Fatal(err)
	}
	return got
}

func (l *lab) end(pod string) {
	l.Helper()
	if err := l.kubelet.End("default", pod); err != nil {
		l.Fatal(err)
	}
}

// nodes are the files of a response with their permissions.
func nodes(r devicemanager.Response) string {
	var all []string
	for _, d := range r.GetDevices() {
		all = append(all, strings.TrimPrefix(d.GetContainerPath(), "/dev/infiniband/")+" "+d.GetPermissions())
	}
	return strings.Join(all, ", ")
}

func cdiNames(r devicemanager.Response) string {
	var all []string
	for _, d := range r.GetCdiDevices() {
		all = append(all, d.GetName())
	}
	return strings.Join(all, ",")
}
