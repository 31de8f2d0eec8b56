//go:build cgo

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/nvidia-container-toolkit/pkg/nvcdi"

	"github.com/railyard-net/railyard/plugins/device/pool"
	"github.com/railyard-net/railyard/rdma/gpu"
)

// NVIDIA says where NVIDIA's driver is.
type NVIDIA struct {
	// Root is where the driver's files are for this process, and HostRoot where they are for the container runtime; empty: the same.
	Root, HostRoot string
	// DevRoot is where the host's /dev is for this process; empty: where Root is.
	DevRoot string
	// Hook is nvidia-cdi-hook on the host, which has the loader of a container find the driver's libraries. Empty: it is looked for where NVIDIA's toolkit
	// installs it; if it is not there the spec has no hooks, and LD_LIBRARY_PATH says where the libraries are.
	Hook string
}

// GPUs describes the GPUs and MIG instances by NVIDIA's own library.
func (n NVIDIA) GPUs() (spec *Spec, err error) {
	err = gpu.Do(n.Root, func(lib nvml.Interface) error {
		spec, err = n.describe(lib)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("describe GPUs for CDI: %w", err)
	}
	return spec, nil
}

func (n NVIDIA) describe(lib nvml.Interface) (*Spec, error) {
	namer, err := nvcdi.NewDeviceNamer(nvcdi.DeviceNameStrategyUUID)
	if err != nil {
		return nil, err
	}
	hook := n.hook()
	options := []nvcdi.Option{
		nvcdi.WithNvmlLib(lib), nvcdi.WithDriverRoot(n.Root), nvcdi.WithMode(nvcdi.ModeNvml),
		nvcdi.WithVendor("railyard.dev"), nvcdi.WithClass("gpu"), nvcdi.WithDeviceNamers(namer),
		nvcdi.WithFeatureFlags(nvcdi.FeatureDisableNvsandboxUtils), nvcdi.WithLogger(silent{}),
	}
	if n.DevRoot != "" {
		options = append(options, nvcdi.WithDevRoot(n.DevRoot))
	}
	if hook == "" {
		options = append(options, nvcdi.WithDisabledHooks(nvcdi.AllHooks))
	} else {
		options = append(options, nvcdi.WithNVIDIACDIHookPath(hook))
	}
	l, err := nvcdi.New(options...)
	if err != nil {
		return nil, err
	}
	made, err := l.GetSpec("all")
	if err != nil {
		return nil, err
	}
	spec := made.Raw()
	if len(spec.Devices) == 0 {
		return nil, errors.New("NVIDIA's library describes no device")
	}
	spec.Kind = pool.GPUKind
	translate(spec, n.Root, n.HostRoot)
	if hook == "" {
		libraryPath(spec)
	}
	return spec, nil
}

// hook is a path on the host.
func (n NVIDIA) hook() string {
	if n.Hook != "" {
		return n.Hook
	}
	for _, path := range []string{"/usr/bin/nvidia-cdi-hook", "/usr/local/nvidia/toolkit/nvidia-cdi-hook"} {
		if info, err := os.Stat(filepath.Join(n.Root, path)); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	return ""
}

// silent is a log for a library that tells of every optional file that is not there. What it returns says what matters.
type silent struct{}

func (silent) Debugf(string, ...any)   {}
func (silent) Errorf(string, ...any)   {}
func (silent) Infof(string, ...any)    {}
func (silent) Tracef(string, ...any)   {}
func (silent) Warningf(string, ...any) {}
