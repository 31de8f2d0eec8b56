//go:build cgo

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package gpu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"
	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/rdma"
)

// dgx is NVIDIA's own fake of a DGX H100, with what that leaves out.
type dgx struct {
	*server.Server
	missing []string // symbols
	c2c     nvml.Return
	running int // Init less Shutdown
}

func newDGX(t *testing.T) *dgx {
	s, ok := any(dgxh100.New()).(*server.Server)
	if !ok {
		t.Fatalf("the fake is a %T", dgxh100.New())
	}
	m := &dgx{Server: s, c2c: nvml.ERROR_NOT_SUPPORTED}
	s.InitFunc = func() nvml.Return { m.running++; return nvml.SUCCESS }
	s.ShutdownFunc = func() nvml.Return { m.running--; return nvml.SUCCESS }
	for i := range s.Devices {
		d := m.device(i)
		d.GetPciInfoFunc = func() (nvml.PciInfo, nvml.Return) {
			return nvml.PciInfo{BusId: busID(fmt.Sprintf("00000000:%02X:00.0", 0xE0-0x10*i))}, nvml.SUCCESS
		}
		d.GetNumaNodeIdFunc = func() (int, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED }
		d.GetNvLinkStateFunc = func(int) (nvml.EnableState, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED }
		d.GetFieldValuesFunc = func([]nvml.FieldValue) nvml.Return { return nvml.ERROR_NOT_SUPPORTED }
	}
	t.Cleanup(func() {
		if m.running != 0 {
			t.Errorf("the library was started %d times more than it was ended", m.running)
		}
	})
	return m
}

func (m *dgx) device(i int) *server.Device { return m.Devices[i].(*server.Device) }

func (m *dgx) list() (Inventory, error) {
	return reader{
		library: m,
		has:     func(symbol string) bool { return !slices.Contains(m.missing, symbol) },
		c2c:     func(nvml.Device) (bool, nvml.Return) { return true, m.c2c },
	}.list()
}

func busID(s string) (out [32]int8) {
	for i := range s {
		out[i] = int8(s[i])
	}
	return out
}

func TestList(t *testing.T) {
	m := newDGX(t)
	inv, err := m.list()
	if err != nil || inv.State != Ready || inv.Driver == "" || len(inv.GPUs) != 8 {
		t.Fatalf("%+v, %v", inv, err)
	}
	uuid, _ := m.device(7).GetUUID()
	want := GPU{Addr: "0000:70:00.0", UUID: uuid, Name: "NVIDIA H100 80GB HBM3", Minor: 7, Memory: inv.GPUs[0].Memory, NUMA: -1, MIGCapable: true}
	if diff := cmp.Diff(want, inv.GPUs[0]); diff != "" || want.Memory < 80e9 {
		t.Errorf("the first by address, %d bytes (-want +got):\n%s", want.Memory, diff)
	}
}

func TestListMIG(t *testing.T) {
	m := newDGX(t)
	d := m.device(0)
	if _, ret := d.SetMigMode(nvml.DEVICE_MIG_ENABLE); ret != nvml.SUCCESS {
		t.Fatal(ret)
	}
	instance := func(gi int) nvml.Device {
		return &mock.Device{
			GetUUIDFunc:              func() (string, nvml.Return) { return fmt.Sprint("MIG-", gi), nvml.SUCCESS },
			GetNameFunc:              func() (string, nvml.Return) { return "NVIDIA H100 80GB HBM3 MIG 1g.10gb", nvml.SUCCESS },
			GetGpuInstanceIdFunc:     func() (int, nvml.Return) { return gi, nvml.SUCCESS },
			GetComputeInstanceIdFunc: func() (int, nvml.Return) { return 0, nvml.SUCCESS },
			GetMemoryInfoFunc:        func() (nvml.Memory, nvml.Return) { return nvml.Memory{Total: 10 << 30}, nvml.SUCCESS },
		}
	}
	d.GetMaxMigDeviceCountFunc = func() (int, nvml.Return) { return 7, nvml.SUCCESS }
	d.GetMigDeviceHandleByIndexFunc = func(i int) (nvml.Device, nvml.Return) {
		if i%3 != 0 {
			return nil, nvml.ERROR_NOT_FOUND
		}
		return instance(9 - i), nvml.SUCCESS
	}
	inv, err := m.list()
	if err != nil || len(inv.GPUs) != 8 {
		t.Fatalf("%+v, %v", inv, err)
	}
	last := inv.GPUs[7]
	var got []string
	for _, i := range last.Instances {
		got = append(got, fmt.Sprint(i.UUID, " ", i.GPUInstance, " ", i.ComputeInstance, " ", i.Memory, " ", i.Name[len(i.Name)-7:]))
	}
	want := []string{"MIG-3 3 0 10737418240 1g.10gb", "MIG-6 6 0 10737418240 1g.10gb", "MIG-9 9 0 10737418240 1g.10gb"}
	if !last.MIG || !slices.Equal(got, want) || inv.GPUs[0].MIG {
		t.Errorf("instances %v, want %v; MIG %v and %v", got, want, last.MIG, inv.GPUs[0].MIG)
	}
}

func TestListStates(t *testing.T) {
	for name, tt := range map[string]struct {
		init    nvml.Return
		want    State
		wantErr string
	}{
		"no library": {nvml.ERROR_LIBRARY_NOT_FOUND, NoLibrary, ""},
		"no module":  {nvml.ERROR_DRIVER_NOT_LOADED, NoDriver, ""},
		"half upgraded": {nvml.ERROR_LIB_RM_VERSION_MISMATCH, NoDriver, "start NVML: the driver's library was replaced and its kernel module was not; " +
			"load that anew or reboot: ERROR_LIB_RM_VERSION_MISMATCH"},
		"no permission": {nvml.ERROR_NO_PERMISSION, NoDriver, "start NVML: ERROR_NO_PERMISSION"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newDGX(t)
			m.InitFunc = func() nvml.Return { return tt.init }
			inv, err := m.list()
			if inv.State != tt.want || len(inv.GPUs) != 0 || (err == nil) != (tt.wantErr == "") || err != nil && err.Error() != tt.wantErr {
				t.Errorf("%v, %v; want %v, %s", inv, err, tt.want, tt.wantErr)
			}
			if err != nil && !errors.Is(err, tt.init) {
				t.Errorf("%v hides what NVML said", err)
			}
		})
	}
}

// One bad GPU does not hide seven good ones.
func TestListLostGPU(t *testing.T) {
	for call, lose := range map[string]func(*server.Device){
		"nvmlDeviceGetPciInfo": func(d *server.Device) {
			d.GetPciInfoFunc = func() (nvml.PciInfo, nvml.Return) { return nvml.PciInfo{}, nvml.ERROR_GPU_IS_LOST }
		},
		"nvmlDeviceGetMemoryInfo": func(d *server.Device) {
			d.GetMemoryInfoFunc = func() (nvml.Memory, nvml.Return) { return nvml.Memory{}, nvml.ERROR_GPU_IS_LOST }
		},
		"nvmlDeviceGetNumaNodeId": func(d *server.Device) {
			d.GetNumaNodeIdFunc = func() (int, nvml.Return) { return 0, nvml.ERROR_GPU_IS_LOST }
		},
		"nvmlDeviceGetMigMode": func(d *server.Device) {
			d.GetMigModeFunc = func() (int, int, nvml.Return) { return 0, 0, nvml.ERROR_GPU_IS_LOST }
		},
	} {
		t.Run(call, func(t *testing.T) {
			m := newDGX(t)
			lose(m.device(2))
			inv, err := m.list()
			var of *DeviceError
			if !errors.As(err, &of) || of.Index != 2 || of.Call != call || !errors.Is(err, nvml.ERROR_GPU_IS_LOST) {
				t.Errorf("error %v; want one of GPU 2 in %s", err, call)
			}
			if inv.State != Ready || len(inv.GPUs) != 7 || slices.ContainsFunc(inv.GPUs, func(g GPU) bool { return g.Addr == "0000:c0:00.0" }) {
				t.Errorf("%d GPUs: %v", len(inv.GPUs), inv.GPUs)
			}
		})
	}
}

// What a driver knows of Grace, and one that is too old to be asked.
func TestListGrace(t *testing.T) {
	m := newDGX(t)
	m.c2c = nvml.SUCCESS
	for i := range m.Devices {
		m.device(i).GetNumaNodeIdFunc = func() (int, nvml.Return) { return 2 + 8*i, nvml.SUCCESS }
	}
	inv, err := m.list()
	if err != nil || inv.GPUs[7].NUMA != 2 || !inv.GPUs[7].C2C {
		t.Errorf("%+v, %v; want node 2 and C2C", inv.GPUs[7], err)
	}
	m.missing = []string{"nvmlDeviceGetNumaNodeId", "nvmlDeviceGetC2cModeInfoV"}
	inv, err = m.list()
	if err != nil || inv.GPUs[7].NUMA != -1 || inv.GPUs[7].C2C {
		t.Errorf("an old library: %+v, %v; want neither", inv.GPUs[7], err)
	}
}

func TestListWithoutLibrary(t *testing.T) {
	if inv, err := List(t.TempDir()); err != nil || inv.State != NoLibrary || inv.GPUs != nil {
		t.Errorf("an empty root: %+v, %v", inv, err)
	}
	root := t.TempDir()
	file := filepath.Join(root, "usr/lib64", libraryName)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("no library"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := findLibrary(root, libraryName); got != file {
		t.Errorf("found %q, want %s", got, file)
	}
	if inv, err := List(root); err != nil || inv.State != NoLibrary {
		t.Errorf("what is no library: %+v, %v", inv, err)
	}
}

func TestParseBusID(t *testing.T) {
	for in, want := range map[string]rdma.BusAddr{
		"00000000:1B:00.0": "0000:1b:00.0", "0008:01:00.0": "0008:01:00.0", "00010000:E0:02.1": "10000:e0:02.1",
		"": "", "1B:00.0": "", "mlx5_core.sf.4": "", "00000000:1B:00": "", strings.Repeat("0", 99): "",
	} {
		got, err := parseBusID(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %s, %v; want %s", in, got, err, want)
		}
	}
}
