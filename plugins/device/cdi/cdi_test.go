// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"tags.cncf.io/container-device-interface/specs-go"

	"github.com/railyard-net/railyard/plugins/device/pool"
	"github.com/railyard-net/railyard/rdma"
	"github.com/railyard-net/railyard/rdma/inventory"
)

func nic(addr rdma.BusAddr) inventory.Snapshot {
	return inventory.Snapshot{NICs: []inventory.NIC{{Addr: addr, Files: rdma.CharDevs{Verbs: "/dev/infiniband/uverbs0", CM: "/dev/infiniband/rdma_cm", UMAD: []string{"/dev/infiniband/umad0"}}}, {Addr: "0000:00:01.0"}}}
}

func TestNICs(t *testing.T) {
	want := &Spec{Kind: "railyard.dev/nic", Devices: []Device{{Name: "0000:18:00.0", ContainerEdits: Edits{DeviceNodes: []*specs.DeviceNode{
		{Path: "/dev/infiniband/uverbs0", HostPath: "/sim/dev/infiniband/uverbs0", Permissions: "rw"},
		{Path: "/dev/infiniband/rdma_cm", HostPath: "/sim/dev/infiniband/rdma_cm", Permissions: "rw"},
	}}}}}
	if diff := cmp.Diff(want, NICs(nic("0000:18:00.0"), "/sim")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Other people's specs stay whatever we write and remove.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	others := []string{"nvidia.com-gpu.json", "railyard.dev-nic-other.json", "nvidia.com_net-rdma.yaml", "railyard.dev-nic.yaml"}
	for _, name := range others {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("theirs"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list := func() string {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return strings.Join(names, " ")
	}
	before := list()
	for range 2 {
		if err := Write(dir, pool.NICKind, NICs(nic("0000:18:00.0"), "")); err != nil {
			t.Fatal(err)
		}
	}
	if want := strings.Replace(before, "railyard.dev-nic.yaml", "railyard.dev-nic.json railyard.dev-nic.yaml", 1); list() != want {
		t.Errorf("files are %s, want %s", list(), want)
	}
	// What no runtime would read is not written over what they can.
	if err := Write(dir, pool.NICKind, NICs(nic("0000:18:00.0 "), "")); err == nil || !strings.Contains(err.Error(), "railyard.dev/nic") {
		t.Errorf("a spec with a bad name: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "railyard.dev-nic.json")); err != nil || !strings.Contains(string(b), `"0000:18:00.0"`) {
		t.Errorf("%s, %v", b, err)
	}
	if err := errors.Join(Write(dir, pool.NICKind, &Spec{}), Write(dir, pool.GPUKind, nil)); err != nil || list() != before {
		t.Errorf("%v: files are %s, want %s", err, list(), before)
	}
}

func TestTranslate(t *testing.T) {
	spec := &Spec{ContainerEdits: Edits{
		Mounts:      []*specs.Mount{{HostPath: "/driver-root/usr/lib64/libcuda.so.580.1", ContainerPath: "/usr/lib64/libcuda.so.580.1"}, {HostPath: "/other/x", ContainerPath: "/x"}},
		DeviceNodes: []*specs.DeviceNode{{Path: "/dev/nvidiactl", HostPath: "/driver-root/dev/nvidiactl"}, {Path: "/dev/nvidia0"}},
	}}
	translate(spec, "/driver-root", "/run/nvidia/driver")
	libraryPath(spec)
	want := &Spec{ContainerEdits: Edits{
		Env:         []string{"LD_LIBRARY_PATH=/usr/lib64"},
		Mounts:      []*specs.Mount{{HostPath: "/run/nvidia/driver/usr/lib64/libcuda.so.580.1", ContainerPath: "/usr/lib64/libcuda.so.580.1"}, {HostPath: "/other/x", ContainerPath: "/x"}},
		DeviceNodes: []*specs.DeviceNode{{Path: "/dev/nvidiactl", HostPath: "/run/nvidia/driver/dev/nvidiactl"}, {Path: "/dev/nvidia0"}},
	}}
	if diff := cmp.Diff(want, spec); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
