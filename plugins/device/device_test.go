// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/plugins/device/config"
	"github.com/railyard-net/railyard/rdma/gpu"
	"github.com/railyard-net/railyard/test/sysfs"
)

// server has two sockets, and on each a switch with a GPU and a NIC; the first NIC has virtual functions.
const server = `
pci0000:10 numa=0
  0000:10:00.0 root
    0000:11:00.0 up
      0000:12:00.0 down
        0000:18:00.0 nic NIC0 speed=400000
        0000:18:00.1 vf VF0 of=0000:18:00.0
        0000:18:00.2 vf VF1 of=0000:18:00.0
        0000:18:00.3 vf VF2 of=0000:18:00.0
      0000:12:01.0 down
        0000:1b:00.0 gpu GPU0
pci0000:80 numa=1
  0000:80:00.0 root
    0000:81:00.0 up
      0000:82:00.0 down
        0000:88:00.0 nic NIC1 speed=400000
      0000:82:01.0 down
        0000:8b:00.0 gpu GPU1
`

const sharedJSON = `{"periodicUpdateInterval": 1, "configList": [
  {"resourceName": "hca_shared", "rdmaHcaMax": 3, "selectors": {"ifNames": ["nic0", "nic1"]}, "inject": {"env": ["NCCL_IB_HCA", "UCX_NET_DEVICES"]}}]}`

func TestShared(t *testing.T) {
	l := newLab(t, server)
	l.sources = config.Sources{Shared: []byte(sharedJSON)}
	l.start()
	const name = "rdma/hca_shared"
	l.healthy(name, 6)
	got := l.admit("a", map[string]int{name: 1})[name]
	if got.IDs[0] != "0000:18:00.0#0" || nodes(got) != "uverbs0 rw, rdma_cm rw" {
		t.Errorf("got %v with %s, want slot 0 of the first HCA and its files alone", got.IDs, nodes(got))
	}
	if diff := cmp.Diff(map[string]string{"NCCL_IB_HCA": "=mlx5_0:1", "UCX_NET_DEVICES": "mlx5_0:1"}, got.GetEnvs()); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if got := l.admit("b", map[string]int{name: 1})[name]; got.IDs[0] != "0000:88:00.0#0" {
		t.Errorf("the second pod got %v, want the HCA with more free slots", got.IDs)
	}
	if got := l.admit("c", map[string]int{name: 2})[name]; nodes(got) != "uverbs0 rw, rdma_cm rw, uverbs4 rw" {
		t.Errorf("two slots are %v with %s, want one of each HCA", got.IDs, nodes(got))
	}
}

func TestSharedCompat(t *testing.T) {
	l := newLab(t, server)
	l.sources = config.Sources{Shared: []byte(`{"compat": "upstream", "configList": [{"resourceName": "a", "resourcePrefix": "x.io", "rdmaHcaMax": 5, "devices": ["nic0", "nic1"]}]}`)}
	l.start()
	l.healthy("x.io/a", 5)
	got := l.admit("a", map[string]int{"x.io/a": 1})["x.io/a"]
	want := "uverbs0 rwm, rdma_cm rwm, umad0 rwm, issm0 rwm, uverbs4 rwm, umad4 rwm, issm4 rwm"
	if got.IDs[0] != "0" || nodes(got) != want {
		t.Errorf("got %v with %s, want 0 with %s", got.IDs, nodes(got), want)
	}
}

const sriovJSON = `{"resourceList": [{"resourceName": "vfs", "resourcePrefix": "railyard.dev", "selectors": {"pfNames": ["nic0#0-2"], "linkTypes": ["ether"], "isRdma": true}}]}`

const vfs = "railyard.dev/vfs"

func TestVFs(t *testing.T) {
	l := newLab(t, server)
	l.sources = config.Sources{SRIOV: []byte(sriovJSON)}
	l.start()
	l.healthy(vfs, 3)
	got := l.admit("a", map[string]int{vfs: 2})[vfs]
	if diff := cmp.Diff([]string{"0000:18:00.1", "0000:18:00.2"}, got.IDs); diff != "" {
		t.Errorf("IDs (-want +got):\n%s", diff)
	}
	env := got.GetEnvs()
	if env["PCIDEVICE_RAILYARD_DEV_VFS"] != "0000:18:00.1,0000:18:00.2" || nodes(got) != "uverbs1 rw, rdma_cm rw, uverbs2 rw" {
		t.Errorf("%v, %s", env, nodes(got))
	}
	var info map[string]map[string]map[string]string
	if err := json.Unmarshal([]byte(env["PCIDEVICE_RAILYARD_DEV_VFS_INFO"]), &info); err != nil {
		t.Fatal(err)
	}
	want := map[string]map[string]string{
		"generic": {"deviceID": "0000:18:00.1"},
		"rdma":    {"rdma_cm": "/dev/infiniband/rdma_cm", "rdma_dev": "mlx5_1", "uverbs": "/dev/infiniband/uverbs1"},
	}
	if diff := cmp.Diff(want, info["0000:18:00.1"]); diff != "" {
		t.Errorf("info (-want +got):\n%s", diff)
	}
	b, err := os.ReadFile(l.path("devinfo", "railyard.dev-vfs-0000:18:00.1-device.json"))
	if want := `{"type":"pci","version":"1.1.0","pci":{"pci-address":"0000:18:00.1","pf-pci-address":"0000:18:00.0","rdma-device":"mlx5_1"}}`; err != nil || string(b) != want {
		t.Errorf("device-info %s, %v; want %s", b, err, want)
	}
}

// TestDevicesInPodsStay is what the SR-IOV plugin got wrong: with VFs in pods, their interfaces and RDMA devices away, it comes back with as many.
func TestDevicesInPodsStay(t *testing.T) {
	l := newLab(t, server)
	l.sources = config.Sources{SRIOV: []byte(sriovJSON)}
	l.start()
	l.healthy(vfs, 3)
	for _, pod := range []string{"a", "b"} {
		id := l.admit(pod, map[string]int{vfs: 1})[vfs].IDs[0]
		l.change(func(m *sysfs.Machine) { m.At(id).Away = true })
	}
	same := func(what string) {
		t.Helper()
		l.healthy(vfs, 3)
		if b, err := os.ReadFile(l.path("devinfo", "railyard.dev-vfs-0000:18:00.1-device.json")); err != nil || !strings.Contains(string(b), "mlx5_1") {
			t.Errorf("%s: the device-info of a VF in a pod is %s, %v", what, b, err)
		}
	}
	same("in pods")
	l.restart()
	same("the plugin anew")
	l.kubelet.Stop()
	if err := l.kubelet.Start(); err != nil {
		t.Fatal(err)
	}
	same("the kubelet anew")
	l.stop()
	l.kubelet.Stop()
	if err := l.kubelet.Start(); err != nil {
		t.Fatal(err)
	}
	l.start()
	same("both anew")
	// Records lost, as before the first version that kept them.
	l.stop()
	if err := os.RemoveAll(l.path("state")); err != nil {
		t.Fatal(err)
	}
	l.start()
	same("without records")
	if got := l.admit("c", map[string]int{vfs: 1})[vfs].IDs[0]; got != "0000:18:00.3" {
		t.Errorf("the third pod got %s, which another has", got)
	}
}

// A kubelet that starts after the plugin finds it, and one that loses a socket gets it again.
func TestRegistersAgain(t *testing.T) {
	l := newLab(t, server)
	l.sources = config.Sources{SRIOV: []byte(sriovJSON)}
	l.kubelet.Stop()
	l.start()
	if err := l.kubelet.Start(); err != nil {
		t.Fatal(err)
	}
	l.healthy(vfs, 3)
	before := l.kubelet.Registers()
	if err := os.Remove(l.plugin.o.socketOf(vfs)); err != nil {
		t.Fatal(err)
	}
	if !l.kubelet.Await(patience, func() bool { return l.kubelet.Registers() > before }) {
		t.Error("nobody registered after a socket was removed")
	}
	l.healthy(vfs, 3)
}

func TestHotPlug(t *testing.T) {
	l := newLab(t, server)
	l.sources = config.Sources{SRIOV: []byte(sriovJSON), Shared: []byte(sharedJSON)}
	l.start()
	l.healthy(vfs, 3)
	l.healthy("rdma/hca_shared", 6)
	l.change(func(m *sysfs.Machine) { m.At("VF1").Gone = true })
	l.listed(vfs, 2)
	if _, err := os.Stat(l.path("devinfo", "railyard.dev-vfs-0000:18:00.2-device.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the device-info of a VF that is gone: %v", err)
	}
	spec := func() string { b, _ := os.ReadFile(l.path("cdi", "railyard.dev-nic.json")); return string(b) }
	if strings.Contains(spec(), "0000:18:00.2") {
		t.Error("the CDI spec has a VF that is gone")
	}
	// The driver is loaded anew: for a while nothing is bound.
	l.change(func(m *sysfs.Machine) {
		m.At("VF1").Gone = false
		m.At("NIC1").Options["driver"] = "none"
	})
	l.healthy(vfs, 3)
	l.healthy("rdma/hca_shared", 3)
	l.change(func(m *sysfs.Machine) { delete(m.At("NIC1").Options, "driver") })
	l.healthy("rdma/hca_shared", 6)
	if !strings.Contains(spec(), "0000:18:00.2") {
		t.Error("the CDI spec lacks a VF that is back")
	}
}

func TestLink(t *testing.T) {
	l := newLab(t, server)
	l.sources = config.Sources{SRIOV: []byte(strings.Replace(sriovJSON, `"selectors"`, `"health": {"link": true}, "selectors"`, 1))}
	l.start()
	l.healthy(vfs, 3)
	l.change(func(m *sysfs.Machine) { m.At("NIC0").Options["down"] = "" })
	l.healthy(vfs, 0)
	l.listed(vfs, 3)
	if _, err := l.kubelet.Admit(t.Context(), "default", "a", map[string]int{vfs: 1}); err == nil {
		t.Error("a VF without a link is given")
	}
	l.change(func(m *sysfs.Machine) { delete(m.At("NIC0").Options, "down") })
	l.healthy(vfs, 3)
}

func TestConfigChanges(t *testing.T) {
	l := newLab(t, server)
	l.sources = config.Sources{Shared: []byte(sharedJSON)}
	l.start()
	const name = "rdma/hca_shared"
	l.healthy(name, 6)
	l.set(config.Sources{Shared: []byte(strings.Replace(sharedJSON, "3", "5", 1))})
	l.healthy(name, 10)
	l.set(config.Sources{Shared: []byte(`{"configList": [`)})
	if !l.kubelet.Await(patience, func() bool {
		lines, _ := l.plugin.State()
		return strings.Contains(strings.Join(lines, "\n"), "config: shared: the file")
	}) {
		t.Error("a bad config is not told")
	}
	l.healthy(name, 10)
	l.restart() // the last good one is that of the process before
	l.healthy(name, 10)
	l.set(config.Sources{Shared: []byte(strings.Replace(sharedJSON, "hca_shared", "other", 1))})
	l.healthy("rdma/other", 6)
	if !l.kubelet.Await(patience, func() bool { return len(l.kubelet.Healthy(name)) == 0 }) {
		t.Error("a resource that the config has no more is still served")
	}
}

func TestNoConfig(t *testing.T) {
	l := newLab(t, server)
	l.sources = config.Sources{Shared: []byte("{")}
	l.start()
	if !l.kubelet.Await(patience, func() bool {
		lines, err := l.plugin.State()
		return err != nil && strings.Contains(strings.Join(lines, "\n"), "config: shared: the file")
	}) {
		t.Error("a plugin that never had a good config does not say so, or is ready")
	}
	l.set(config.Sources{Shared: []byte(sharedJSON)})
	l.healthy("rdma/hca_shared", 6)
}

const gpuYAML = `
version: v1
gpu: {health: {recoverAfter: 1m}}
`

func TestGPUFaults(t *testing.T) {
	l := newLab(t, server)
	l.sources = config.Sources{Railyard: []byte(gpuYAML)}
	l.start()
	const name = "railyard.dev/gpu"
	l.healthy(name, 2)
	got := l.admit("a", map[string]int{name: 1})[name]
	if cdiNames(got) != "railyard.dev/gpu="+got.IDs[0] {
		t.Errorf("%v comes by %s", got.IDs, cdiNames(got))
	}
	l.fault(gpu.Event{UUID: "GPU-1", GPUInstance: -1, ComputeInstance: -1, XID: 13}) // the program's own
	l.fault(gpu.Event{UUID: "GPU-1", GPUInstance: -1, ComputeInstance: -1, XID: 74})
	l.healthy(name, 1)
	if got := l.kubelet.Healthy(name); got[0] != "GPU-0" {
		t.Errorf("healthy is %v", got)
	}
	l.mu.Lock()
	l.clock += time.Hour
	l.mu.Unlock()
	l.touch()
	// The driver does not say what is needed, and this fault needs a reset.
	l.stays(name, 1)
	l.mu.Lock()
	l.gpus = func() (gpu.Inventory, error) {
		inv := l.machine.GPUs()
		inv.GPUs[1].Recovery = gpu.RecoveryNone
		return inv, nil
	}
	l.mu.Unlock()
	l.touch()
	l.healthy(name, 2)
}

// fault has the driver report an event, as soon as somebody listens.
func (l *lab) fault(e gpu.Event) {
	l.Helper()
	var report func(gpu.Event)
	if !l.kubelet.Await(patience, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		report = l.report
		return report != nil
	}) {
		l.Fatal("nobody listens to GPUs")
	}
	report(e)
}

// stays looks that a refresh leaves the number of healthy devices as it is: another resource, made by a change of config that comes later, is the sign.
func (l *lab) stays(resource string, n int) {
	l.Helper()
	l.mu.Lock()
	s := l.sources
	l.mu.Unlock()
	with := s
	with.Shared = []byte(`{"configList": [{"resourceName": "sign", "rdmaHcaMax": 1, "selectors": {"vendors": ["15b3"], "ifNames": ["nic0"]}}]}`)
	l.set(with)
	l.healthy("rdma/sign", 1)
	l.healthy(resource, n)
	l.set(s)
}

// The driver goes and comes, and with it its GPUs.
func TestDriverReload(t *testing.T) {
	l := newLab(t, server)
	l.sources = config.Sources{Railyard: []byte(gpuYAML)}
	l.start()
	const name = "railyard.dev/gpu"
	l.healthy(name, 2)
	was := l.gpus
	l.mu.Lock()
	l.gpus = func() (gpu.Inventory, error) { return gpu.Inventory{State: gpu.NoDriver}, nil }
	l.mu.Unlock()
	l.touch()
	l.healthy(name, 0)
	if _, err := os.Stat(l.path("cdi", "railyard.dev-gpu.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the CDI spec of GPUs without a driver: %v", err)
	}
	l.mu.Lock()
	l.gpus = was
	l.mu.Unlock()
	l.touch()
	l.healthy(name, 2)
}
