// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package cdi writes Container Device Interface specs (tags.cncf.io) for what we hand out: three kinds, each a file of its own that nobody else writes.
//
//	railyard.dev/nic=0000:18:00.0     the files of an RDMA device
//	railyard.dev/gpu=GPU-...          a GPU or MIG instance, as NVIDIA's nvcdi describes it
//	railyard.dev/pair=0000:18:00.0    both
//
// # Files
//
// A spec is written whole, under a temporary name first, and only when it differs. A kind that has no devices has no file. No other file is touched, whatever
// it is called: specs of other plugins are beside ours.
package cdi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/specs-go"

	"github.com/railyard-net/railyard/plugins/device/pool"
	"github.com/railyard-net/railyard/rdma/inventory"
)

// Spec is a CDI spec, Device one of its devices, and Edits what a container gets by it.
type (
	Spec   = specs.Spec
	Device = specs.Device
	Edits  = specs.ContainerEdits
)

// Dir is where runtimes look for specs that do not outlive the boot.
const Dir = "/var/run/cdi"

// FileName is the file of one of our kinds.
func FileName(kind string) string { return strings.ReplaceAll(kind, "/", "-") + ".json" }

// NICs describes the RDMA devices of a machine, whose /dev is below devRoot; empty: at its place.
func NICs(s inventory.Snapshot, devRoot string) *Spec {
	spec := &Spec{Kind: pool.NICKind}
	for _, n := range s.NICs {
		nodes := pool.NICNodes(n, false)
		if n.Files.Verbs == "" {
			continue
		}
		d := specs.Device{Name: string(n.Addr)}
		for _, node := range nodes {
			dn := &specs.DeviceNode{Path: node.Path, Permissions: node.Permissions}
			if devRoot != "" {
				dn.HostPath = devRoot + node.Path
			}
			d.ContainerEdits.DeviceNodes = append(d.ContainerEdits.DeviceNodes, dn)
		}
		spec.Devices = append(spec.Devices, d)
	}
	return spec
}

// Pairs describes the pairs among resources, out of the specs of NICs and of GPUs. It is nil if there is no spec of GPUs. Of a pair that no spec knows both halves
// of there is none.
func Pairs(resources []pool.Resource, nics, gpus *Spec) *Spec {
	if gpus == nil {
		return nil
	}
	spec := &Spec{Kind: pool.PairKind, ContainerEdits: gpus.ContainerEdits}
	for _, r := range resources {
		for _, d := range r.Devices {
			if _, ok := d.Class(); !ok {
				continue
			}
			nic, okNIC := find(nics, string(d.NIC()))
			gpu, okGPU := find(gpus, strings.TrimPrefix(d.GPUName(), pool.GPUKind+"="))
			if !okNIC || !okGPU {
				continue
			}
			edits := gpu.ContainerEdits
			edits.DeviceNodes = slices.Concat(nic.ContainerEdits.DeviceNodes, edits.DeviceNodes)
			spec.Devices = append(spec.Devices, specs.Device{Name: d.ID, ContainerEdits: edits})
		}
	}
	return spec
}

func find(s *Spec, name string) (specs.Device, bool) {
	i := slices.IndexFunc(s.Devices, func(d specs.Device) bool { return d.Name == name })
	if i < 0 {
		return specs.Device{}, false
	}
	return s.Devices[i], true
}

// Write makes the folder's file of a kind say what the spec does. Without devices, or without a spec, the file is removed.
func Write(dir, kind string, spec *Spec) error {
	path := filepath.Join(dir, FileName(kind))
	if spec == nil || len(spec.Devices) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("CDI spec of %s: %w", kind, err)
		}
		return nil
	}
	if err := write(path, kind, *spec); err != nil {
		return fmt.Errorf("CDI spec of %s: %w", kind, err)
	}
	return nil
}

func write(path, kind string, spec Spec) error {
	spec.Kind = kind
	var err error
	if spec.Version, err = specs.MinimumRequiredVersion(&spec); err != nil {
		return err
	}
	b, err := json.MarshalIndent(&spec, "", "  ")
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(path); err == nil && string(old) == string(b) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	// Runtimes read only what ends in json or yaml: the temporary file, which does not, is nothing to them.
	f, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o644), renameio.WithTempDir(filepath.Dir(path)))
	if err != nil {
		return err
	}
	defer func() { _ = f.Cleanup() }() // of what was not replaced
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := valid(b, path); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

// valid has the library that runtimes use judge what we are about to write.
func valid(b []byte, path string) error {
	dir, err := os.MkdirTemp("", "railyard-cdi-")
	if err != nil {
		return err
	}
	file := filepath.Join(dir, filepath.Base(path))
	if err = os.WriteFile(file, b, 0o600); err == nil {
		_, err = cdi.ReadSpec(file, 0)
	}
	return errors.Join(err, os.RemoveAll(dir))
}
