//go:build cgo

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package gpu

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/railyard-net/railyard/rdma"
)

// library is what we use of NVML.
type library interface {
	Init() nvml.Return
	Shutdown() nvml.Return
	SystemGetDriverVersion() (string, nvml.Return)
	DeviceGetCount() (int, nvml.Return)
	DeviceGetHandleByIndex(int) (nvml.Device, nvml.Return)
}

const libraryName = "libnvidia-ml.so.1"

// asking is held while NVML is in use: go-nvml keeps what it found in the library in variables of the process.
var asking sync.Mutex

// List asks the library of a driver whose files are below a root: "/", /run/nvidia/driver, /usr/local/nvidia. It may be called at any
// time; of concurrent calls one waits for the other.
func List(root string) (Inventory, error) {
	asking.Lock()
	defer asking.Unlock()
	file := findLibrary(root, libraryName)
	if file == "" {
		return Inventory{}, nil
	}
	lib := nvml.New(nvml.WithLibraryPath(file))
	return reader{
		library: lib,
		// To call what an older library lacks would end the process.
		has: func(symbol string) bool { return lib.Extensions().LookupSymbol(symbol) == nil },
		c2c: func(d nvml.Device) (bool, nvml.Return) {
			mode, ret := d.GetC2cModeInfoV().V1()
			return mode.IsC2cEnabled != 0, ret
		},
	}.list()
}

// findLibrary looks where the driver's packages and containers have it.
func findLibrary(root, name string) string {
	for _, dir := range []string{"usr/lib64", "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib", "lib64", "lib"} {
		file := filepath.Join(root, dir, name)
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return ""
}

// reader reads an inventory. What go-nvml's own fakes can't be asked is a field.
type reader struct {
	library
	has func(symbol string) bool
	c2c func(nvml.Device) (bool, nvml.Return)
}

func (r reader) list() (inv Inventory, err error) {
	switch ret := r.Init(); ret {
	case nvml.SUCCESS:
	case nvml.ERROR_LIBRARY_NOT_FOUND:
		return Inventory{State: NoLibrary}, nil
	case nvml.ERROR_DRIVER_NOT_LOADED:
		return Inventory{State: NoDriver}, nil
	case nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		return Inventory{State: NoDriver}, fmt.Errorf("start NVML: the driver's library was replaced and its kernel module was not; load that anew or reboot: %w", ret)
	default:
		return Inventory{State: NoDriver}, fmt.Errorf("start NVML: %w", ret)
	}
	defer func() {
		if ret := r.Shutdown(); ret != nvml.SUCCESS {
			err = errors.Join(err, fmt.Errorf("end NVML: %w", ret))
		}
	}()
	inv.State = Ready
	var errs []error
	version, ret := r.SystemGetDriverVersion()
	if ret != nvml.SUCCESS {
		errs = append(errs, fmt.Errorf("ask for the driver's version: %w", ret))
	}
	inv.Driver = version
	count, ret := r.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return inv, errors.Join(append(errs, fmt.Errorf("count GPUs: %w", ret))...)
	}
	for i := range count {
		g, err := r.device(i)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		inv.GPUs = append(inv.GPUs, g)
	}
	slices.SortFunc(inv.GPUs, func(a, b GPU) int {
		return cmp.Or(cmp.Compare(len(a.Addr), len(b.Addr)), cmp.Compare(a.Addr, b.Addr))
	})
	return inv, errors.Join(errs...)
}

// question is one call whose answer is essential.
type question struct {
	call string
	ask  func() nvml.Return
}

func firstFailure(questions []question) (call string, ret nvml.Return) {
	for _, q := range questions {
		if ret := q.ask(); ret != nvml.SUCCESS {
			return q.call, ret
		}
	}
	return "", nvml.SUCCESS
}

func (r reader) device(index int) (GPU, error) {
	g := GPU{NUMA: -1}
	// The text is made now: later the library that has it may be closed.
	failed := func(call string, err error) (GPU, error) {
		return GPU{}, &DeviceError{index, g.Addr, call, fmt.Errorf("%w", err)}
	}
	d, ret := r.DeviceGetHandleByIndex(index)
	if ret != nvml.SUCCESS {
		return failed("nvmlDeviceGetHandleByIndex", ret)
	}
	pci, ret := d.GetPciInfo()
	if ret != nvml.SUCCESS {
		return failed("nvmlDeviceGetPciInfo", ret)
	}
	var err error
	if g.Addr, err = parseBusID(text(pci.BusId[:])); err != nil {
		return failed("nvmlDeviceGetPciInfo", err)
	}
	var memory nvml.Memory
	if call, ret := firstFailure([]question{
		{"nvmlDeviceGetUUID", func() (ret nvml.Return) { g.UUID, ret = d.GetUUID(); return ret }},
		{"nvmlDeviceGetName", func() (ret nvml.Return) { g.Name, ret = d.GetName(); return ret }},
		{"nvmlDeviceGetMinorNumber", func() (ret nvml.Return) { g.Minor, ret = d.GetMinorNumber(); return ret }},
		{"nvmlDeviceGetMemoryInfo", func() (ret nvml.Return) { memory, ret = d.GetMemoryInfo(); return optional(ret) }},
		{"nvmlDeviceGetNumaNodeId", func() nvml.Return { return r.numa(d, &g) }},
		{"nvmlDeviceGetC2cModeInfoV", func() nvml.Return { return r.hasC2C(d, &g) }},
	}); ret != nvml.SUCCESS {
		return failed(call, ret)
	}
	g.Memory = memory.Total
	if call, ret := readMIG(d, &g); ret != nvml.SUCCESS {
		return failed(call, ret)
	}
	r.links(d, &g)
	r.recovery(d, &g)
	return g, nil
}

// links counts NVLinks. A link that can't be asked is none: which GPUs go well together is no reason to lose one.
func (r reader) links(d nvml.Device, g *GPU) {
	if !r.has("nvmlDeviceGetNvLinkState") || !r.has("nvmlDeviceGetNvLinkRemoteDeviceType") {
		return
	}
	for link := range nvml.NVLINK_MAX_LINKS {
		state, ret := d.GetNvLinkState(link)
		if ret != nvml.SUCCESS {
			return // there are no more
		}
		if state != nvml.FEATURE_ENABLED {
			continue
		}
		if kind, ret := d.GetNvLinkRemoteDeviceType(link); ret == nvml.SUCCESS && kind == nvml.NVLINK_DEVICE_TYPE_SWITCH {
			g.NVSwitch++
			continue
		}
		pci, ret := d.GetNvLinkRemotePciInfo(link)
		if peer, err := parseBusID(text(pci.BusId[:])); ret == nvml.SUCCESS && err == nil {
			if g.NVLinks == nil {
				g.NVLinks = map[rdma.BusAddr]int{}
			}
			g.NVLinks[peer]++
		}
	}
}

func (r reader) recovery(d nvml.Device, g *GPU) {
	if !r.has("nvmlDeviceGetFieldValues") {
		return
	}
	values := []nvml.FieldValue{{FieldId: nvml.FI_DEV_GET_GPU_RECOVERY_ACTION}}
	if ret := d.GetFieldValues(values); ret != nvml.SUCCESS || nvml.Return(values[0].NvmlReturn) != nvml.SUCCESS {
		return
	}
	g.Recovery = RecoveryNone
	if binary.LittleEndian.Uint32(values[0].Value[:4]) != uint32(nvml.GPU_RECOVERY_ACTION_NONE) {
		g.Recovery = RecoveryNeeded
	}
}

// optional makes of "this GPU has no such thing" a success. GPUs whose memory is that of the machine have none to tell of.
func optional(ret nvml.Return) nvml.Return {
	if ret == nvml.ERROR_NOT_SUPPORTED {
		return nvml.SUCCESS
	}
	return ret
}

func (r reader) numa(d nvml.Device, g *GPU) nvml.Return {
	if !r.has("nvmlDeviceGetNumaNodeId") {
		return nvml.SUCCESS
	}
	node, ret := d.GetNumaNodeId()
	if ret == nvml.SUCCESS {
		g.NUMA = node
	}
	return optional(ret)
}

func (r reader) hasC2C(d nvml.Device, g *GPU) nvml.Return {
	if !r.has("nvmlDeviceGetC2cModeInfoV") {
		return nvml.SUCCESS
	}
	enabled, ret := r.c2c(d)
	g.C2C = enabled && ret == nvml.SUCCESS
	return optional(ret)
}

func readMIG(d nvml.Device, g *GPU) (call string, ret nvml.Return) {
	mode, _, ret := d.GetMigMode()
	if ret != nvml.SUCCESS {
		return "nvmlDeviceGetMigMode", optional(ret)
	}
	g.MIGCapable = true
	if g.MIG = mode == nvml.DEVICE_MIG_ENABLE; !g.MIG {
		return "", nvml.SUCCESS
	}
	most, ret := d.GetMaxMigDeviceCount()
	if ret != nvml.SUCCESS {
		return "nvmlDeviceGetMaxMigDeviceCount", ret
	}
	for i := range most {
		m, ret := d.GetMigDeviceHandleByIndex(i)
		if ret == nvml.ERROR_NOT_FOUND {
			continue // the numbers have gaps
		}
		if ret != nvml.SUCCESS {
			return "nvmlDeviceGetMigDeviceHandleByIndex", ret
		}
		instance, call, ret := readInstance(m)
		if ret != nvml.SUCCESS {
			return call, ret
		}
		g.Instances = append(g.Instances, instance)
	}
	slices.SortFunc(g.Instances, func(a, b Instance) int {
		return cmp.Or(cmp.Compare(a.GPUInstance, b.GPUInstance), cmp.Compare(a.ComputeInstance, b.ComputeInstance))
	})
	return "", nvml.SUCCESS
}

func readInstance(m nvml.Device) (i Instance, call string, ret nvml.Return) {
	var memory nvml.Memory
	call, ret = firstFailure([]question{
		{"nvmlDeviceGetUUID", func() (ret nvml.Return) { i.UUID, ret = m.GetUUID(); return ret }},
		{"nvmlDeviceGetName", func() (ret nvml.Return) { i.Name, ret = m.GetName(); return ret }},
		{"nvmlDeviceGetGpuInstanceId", func() (ret nvml.Return) { i.GPUInstance, ret = m.GetGpuInstanceId(); return ret }},
		{"nvmlDeviceGetComputeInstanceId", func() (ret nvml.Return) { i.ComputeInstance, ret = m.GetComputeInstanceId(); return ret }},
		{"nvmlDeviceGetMemoryInfo", func() (ret nvml.Return) { memory, ret = m.GetMemoryInfo(); return optional(ret) }},
	})
	i.Memory = memory.Total
	return i, call, ret
}

// text is a string of C.
func text(chars []int8) string {
	var b []byte
	for _, c := range chars {
		if c == 0 {
			break
		}
		b = append(b, byte(c))
	}
	return string(b)
}
