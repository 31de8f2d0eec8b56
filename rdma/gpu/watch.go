//go:build cgo

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package gpu

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Linked says whether the program was built with cgo.
const Linked = true

// waitMillis is how long one question for an event takes at most, which is how long List and the end of ctx may have to wait.
const waitMillis = 300

// Watch calls report for each XID that the driver below root tells, until ctx ends, which is no error. An ErrNotReady says that there is no driver; another
// error that it went away, or that it can't tell of a GPU. Whoever wants to go on calls again. The driver's kernel module can't be unloaded meanwhile.
func Watch(ctx context.Context, root string, report func(Event)) error {
	file := findLibrary(root, libraryName)
	if file == "" {
		return ErrNotReady
	}
	return watch(ctx, nvml.New(nvml.WithLibraryPath(file)), report, nil)
}

// watched is what Watch uses of NVML beside the inventory.
type watched interface {
	library
	EventSetCreate() (nvml.EventSet, nvml.Return)
}

// watch calls registered, if it is not nil, when events are asked for.
func watch(ctx context.Context, lib watched, report func(Event), registered func(error)) (err error) {
	asking.Lock()
	defer asking.Unlock()
	switch ret := lib.Init(); ret {
	case nvml.SUCCESS:
	case nvml.ERROR_LIBRARY_NOT_FOUND, nvml.ERROR_DRIVER_NOT_LOADED:
		return ErrNotReady
	default:
		return fmt.Errorf("start NVML to watch for faults: %w", ret)
	}
	defer func() {
		if ret := lib.Shutdown(); ret != nvml.SUCCESS {
			err = errors.Join(err, fmt.Errorf("end NVML: %w", ret))
		}
	}()
	set, ret := lib.EventSetCreate()
	if ret != nvml.SUCCESS {
		return fmt.Errorf("watch for faults of GPUs: %w", ret)
	}
	defer func() { _ = set.Free() }() // gone with the library at the latest
	silent := register(lib, set)
	if registered != nil {
		registered(silent)
	}
	for ctx.Err() == nil {
		data, ret := set.Wait(waitMillis)
		switch ret {
		case nvml.SUCCESS:
			if data.EventType == nvml.EventTypeXidCriticalError {
				report(eventOf(data))
			}
		case nvml.ERROR_TIMEOUT:
		default:
			return errors.Join(fmt.Errorf("watch for faults of GPUs: %w", ret), silent)
		}
		asking.Unlock() // let List ask
		asking.Lock()
	}
	return silent
}

// register asks for the events of all GPUs, and returns which can't tell of theirs.
func register(lib watched, set nvml.EventSet) error {
	count, ret := lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return fmt.Errorf("count GPUs: %w", ret)
	}
	var errs []error
	for i := range count {
		d, ret := lib.DeviceGetHandleByIndex(i)
		if ret == nvml.SUCCESS {
			ret = d.RegisterEvents(nvml.EventTypeXidCriticalError, set)
		}
		if ret != nvml.SUCCESS && ret != nvml.ERROR_NOT_SUPPORTED {
			errs = append(errs, &DeviceError{Index: i, Call: "nvmlDeviceRegisterEvents", Err: fmt.Errorf("%w", ret)})
		}
	}
	return errors.Join(errs...)
}

func eventOf(data nvml.EventData) Event {
	e := Event{XID: data.EventData, GPUInstance: -1, ComputeInstance: -1}
	if data.GpuInstanceId != math.MaxUint32 {
		e.GPUInstance = int(data.GpuInstanceId)
	}
	if data.ComputeInstanceId != math.MaxUint32 {
		e.ComputeInstance = int(data.ComputeInstanceId)
	}
	if data.Device != nil {
		e.UUID, _ = data.Device.GetUUID() // empty: whose it is can't be known
	}
	return e
}

// Do calls f with the library of the driver below root, while nobody else uses it; f may start and end it. An ErrNotReady says that there is none.
func Do(root string, f func(nvml.Interface) error) error {
	asking.Lock()
	defer asking.Unlock()
	file := findLibrary(root, libraryName)
	if file == "" {
		return ErrNotReady
	}
	return f(nvml.New(nvml.WithLibraryPath(file)))
}

// CanWatch says whether every GPU can tell of its faults: it asks for their events as Watch does, and gives up at once.
func CanWatch(ctx context.Context, root string) error {
	file := findLibrary(root, libraryName)
	if file == "" {
		return ErrNotReady
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return watch(ctx, nvml.New(nvml.WithLibraryPath(file)), func(Event) {}, func(error) { cancel() })
}
