//go:build cgo

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package gpu

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/rdma"
)

// events is an event set that tells what is in it, to whom registered.
type events struct {
	*mock.EventSet
	waiting    []nvml.EventData
	registered map[string]bool
	freed      bool
	broken     nvml.Return
}

func (m *dgx) events() *events {
	e := &events{EventSet: &mock.EventSet{}, registered: map[string]bool{}, broken: nvml.ERROR_TIMEOUT}
	e.WaitFunc = func(uint32) (nvml.EventData, nvml.Return) {
		for len(e.waiting) > 0 {
			data := e.waiting[0]
			e.waiting = e.waiting[1:]
			if uuid, _ := data.Device.GetUUID(); e.registered[uuid] {
				return data, nvml.SUCCESS
			}
		}
		return nvml.EventData{}, e.broken
	}
	e.FreeFunc = func() nvml.Return { e.freed = true; return nvml.SUCCESS }
	m.EventSetCreateFunc = func() (nvml.EventSet, nvml.Return) { return e.EventSet, nvml.SUCCESS }
	for i := range m.Devices {
		d := m.device(i)
		d.RegisterEventsFunc = func(kinds uint64, _ nvml.EventSet) nvml.Return {
			if kinds == nvml.EventTypeXidCriticalError {
				uuid, _ := d.GetUUID()
				e.registered[uuid] = true
			}
			return nvml.SUCCESS
		}
	}
	return e
}

func TestWatch(t *testing.T) {
	m := newDGX(t)
	e := m.events()
	uuid, _ := m.device(3).GetUUID()
	e.waiting = []nvml.EventData{
		{Device: m.device(3), EventType: nvml.EventTypeXidCriticalError, EventData: 79, GpuInstanceId: math.MaxUint32, ComputeInstanceId: math.MaxUint32},
		{Device: m.device(3), EventType: nvml.EventTypeDoubleBitEccError, EventData: 1},
		{Device: m.device(3), EventType: nvml.EventTypeXidCriticalError, EventData: 94, GpuInstanceId: 2, ComputeInstanceId: 0},
	}
	ctx, cancel := context.WithCancel(t.Context())
	var got []Event
	err := watch(ctx, m, func(ev Event) {
		if got = append(got, ev); len(got) == 2 {
			cancel()
		}
	}, nil)
	if diff := cmp.Diff([]Event{{uuid, -1, -1, 79}, {uuid, 2, 0, 94}}, got); diff != "" || err != nil || !e.freed || len(e.registered) != 8 {
		t.Errorf("%v, freed %v, registered %d (-want +got):\n%s", err, e.freed, len(e.registered), diff)
	}
}

func TestWatchEnds(t *testing.T) {
	m := newDGX(t)
	m.events().broken = nvml.ERROR_GPU_IS_LOST
	m.device(2).RegisterEventsFunc = func(uint64, nvml.EventSet) nvml.Return { return nvml.ERROR_UNKNOWN }
	err := watch(t.Context(), m, func(Event) {}, nil)
	var of *DeviceError
	if !errors.Is(err, nvml.ERROR_GPU_IS_LOST) || !errors.As(err, &of) || of.Index != 2 {
		t.Errorf("%v; want the loss, and which GPU can't tell of itself", err)
	}
	m.InitFunc = func() nvml.Return { return nvml.ERROR_DRIVER_NOT_LOADED }
	m.running = 0
	if err := watch(t.Context(), m, func(Event) {}, nil); !errors.Is(err, ErrNotReady) {
		t.Errorf("without a driver: %v", err)
	}
	if err := Watch(t.Context(), t.TempDir(), func(Event) {}); !errors.Is(err, ErrNotReady) {
		t.Errorf("without a library: %v", err)
	}
}

func TestListLinks(t *testing.T) {
	m := newDGX(t)
	for i := range m.Devices {
		m.device(i).GetNvLinkStateFunc = func(link int) (nvml.EnableState, nvml.Return) {
			if link >= 4 {
				return 0, nvml.ERROR_INVALID_ARGUMENT
			}
			return nvml.EnableState(min(link, 1)), nvml.SUCCESS // the first is down
		}
		m.device(i).GetNvLinkRemoteDeviceTypeFunc = func(link int) (nvml.IntNvLinkDeviceType, nvml.Return) {
			if link == 3 {
				return nvml.NVLINK_DEVICE_TYPE_SWITCH, nvml.SUCCESS
			}
			return nvml.NVLINK_DEVICE_TYPE_GPU, nvml.SUCCESS
		}
		m.device(i).GetNvLinkRemotePciInfoFunc = func(int) (nvml.PciInfo, nvml.Return) {
			return nvml.PciInfo{BusId: busID("00000000:70:00.0")}, nvml.SUCCESS
		}
		m.device(i).GetFieldValuesFunc = func(v []nvml.FieldValue) nvml.Return {
			v[0].NvmlReturn, v[0].Value[0] = uint32(nvml.SUCCESS), byte(i%2)
			return nvml.SUCCESS
		}
	}
	inv, err := m.list()
	if err != nil {
		t.Fatal(err)
	}
	g := inv.GPUs[1]
	if diff := cmp.Diff(map[rdma.BusAddr]int{"0000:70:00.0": 2}, g.NVLinks); diff != "" || g.NVSwitch != 1 || g.LinksTo(inv.GPUs[0]) != 3 {
		t.Errorf("%d to switches, %d to the first (-want +got):\n%s", g.NVSwitch, g.LinksTo(inv.GPUs[0]), diff)
	}
	if inv.GPUs[7].Recovery != RecoveryNone || inv.GPUs[6].Recovery != RecoveryNeeded {
		t.Errorf("recovery of the first two is %v and %v", inv.GPUs[7].Recovery, inv.GPUs[6].Recovery)
	}
}
