//go:build cgo

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"
	"golang.org/x/sys/unix"
	"tags.cncf.io/container-device-interface/specs-go"

	"github.com/railyard-net/railyard/plugins/device/pool"
)

// dgx is NVIDIA's own fake of a DGX H100, with what nvcdi asks beside that.
func dgx(t *testing.T) *server.Server {
	s, ok := any(dgxh100.New()).(*server.Server)
	if !ok {
		t.Fatal("the fake is another than it was")
	}
	for i, d := range s.Devices {
		d := d.(*server.Device)
		d.GetPciInfoFunc = func() (nvml.PciInfo, nvml.Return) {
			var info nvml.PciInfo
			for at, c := range fmt.Sprintf("00000000:%02X:00.0", 0x10+i) {
				info.BusId[at] = int8(c)
			}
			return info, nvml.SUCCESS
		}
		d.GetMaxMigDeviceCountFunc = func() (int, nvml.Return) { return 0, nvml.SUCCESS }
		d.IsMigDeviceHandleFunc = func() (bool, nvml.Return) { return false, nvml.SUCCESS }
	}
	return s
}

// TestGPUs has nvcdi describe the fake, on a driver root with one library.
func TestGPUs(t *testing.T) {
	s := dgx(t)
	version, _ := s.SystemGetDriverVersion()
	root := t.TempDir()
	for _, file := range []string{"usr/lib/x86_64-linux-gnu/libcuda.so." + version, "usr/bin/nvidia-cdi-hook"} {
		path := filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Nodes as the driver makes them, which nobody opens.
	if err := os.MkdirAll(filepath.Join(root, "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidia4", "nvidia5", "nvidia6", "nvidia7", "nvidiactl"} {
		if err := unix.Mknod(filepath.Join(root, "dev", name), unix.S_IFCHR|0o666, int(unix.Mkdev(195, uint32(i)))); err != nil {
			t.Fatal(err)
		}
	}
	with, err := NVIDIA{Root: root, HostRoot: "/run/nvidia/driver"}.describe(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(root, "usr/bin/nvidia-cdi-hook")); err != nil {
		t.Fatal(err)
	}
	without, err := NVIDIA{Root: root}.describe(s)
	if err != nil {
		t.Fatal(err)
	}
	uuid, _ := s.Devices[7].GetUUID()
	for name, spec := range map[string]*Spec{"with hook": with, "without": without} {
		d, ok := find(spec, uuid)
		if !ok || spec.Kind != pool.GPUKind || !slices.ContainsFunc(d.ContainerEdits.DeviceNodes, func(n *specs.DeviceNode) bool { return n.Path == "/dev/nvidia7" }) {
			t.Errorf("%s: kind %s, device %s: %+v", name, spec.Kind, uuid, d)
		}
		if err := Write(t.TempDir(), pool.GPUKind, spec); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(with.ContainerEdits.Hooks) == 0 || len(without.ContainerEdits.Hooks) != 0 {
		t.Errorf("%d hooks with nvidia-cdi-hook on the host, %d without", len(with.ContainerEdits.Hooks), len(without.ContainerEdits.Hooks))
	}
	if env := strings.Join(without.ContainerEdits.Env, " "); !strings.Contains(env, "LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu") {
		t.Errorf("environment without hooks: %s", env)
	}
	library := func(m *specs.Mount) bool { return strings.Contains(m.HostPath, "libcuda.so") }
	if i := slices.IndexFunc(with.ContainerEdits.Mounts, library); i < 0 || !strings.HasPrefix(with.ContainerEdits.Mounts[i].HostPath, "/run/nvidia/driver/") {
		t.Errorf("mounts are %v, want the library from where the runtime sees it", with.ContainerEdits.Mounts)
	}
}
