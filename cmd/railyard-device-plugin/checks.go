// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/railyard-net/railyard/plugins/device/cdi"
	"github.com/railyard-net/railyard/rdma/gpu"
)

// check is one question to the hardware and its answer.
type check struct {
	What string `json:"what"`
	Of   string `json:"of,omitempty"`
	OK   bool   `json:"ok"`
	Text string `json:"text,omitempty"`
	Data any    `json:"data,omitempty"`
}

func result(what, of string, data any, err error) check {
	c := check{What: what, Of: of, OK: err == nil, Data: data}
	if err != nil {
		c.Text = err.Error()
	}
	return c
}

// exportSize is what the probe allocates of a GPU for a moment.
const exportSize = 4 << 20

// checkGPUs asks what the plugin relies on, and what GPUDirect needs of a GPU.
func checkGPUs(ctx context.Context, o options, all gpu.Inventory) []check {
	if all.State != gpu.Ready {
		return []check{result("a driver for GPUs", "", nil, fmt.Errorf("%s: %w", all.State, gpu.ErrNotReady))}
	}
	checks := []check{result("events of faults (XID) can be registered", "", nil, gpu.CanWatch(ctx, o.driverRoot))}
	for _, g := range all.GPUs {
		var err error
		if g.Memory == 0 {
			err = errors.New("the driver says none")
		}
		checks = append(checks,
			result("memory", g.UUID, g.Memory, err),
			result("what the GPU needs after a fault is known", g.UUID, g.Recovery.String(), unknown(g.Recovery)))
		if g.MIG {
			continue
		}
		b, err := gpu.ExportDMABuf(o.driverRoot, g.Addr, exportSize)
		if err == nil && (b.Size != exportSize || b.Exporter == "") {
			err = fmt.Errorf("the kernel says %d bytes of %q, asked for were %d", b.Size, b.Exporter, exportSize)
		}
		checks = append(checks, result("memory can be exported as a dma-buf", g.UUID, b, err))
	}
	return checks
}

func unknown(r gpu.Recovery) error {
	if r == gpu.RecoveryUnknown {
		return errors.New("this driver does not say")
	}
	return nil
}

// checkSpec compares a CDI spec with the machine: every file that it names is there, every GPU has a device, and no device node of a GPU is left out.
func checkSpec(spec *cdi.Spec, all gpu.Inventory) []check {
	var missing []error
	named := map[string]bool{}
	look := func(kind, file string) {
		if _, err := os.Stat(file); err != nil {
			missing = append(missing, fmt.Errorf("%s: %w", kind, err))
		}
	}
	edits := []*cdi.Edits{&spec.ContainerEdits}
	for i := range spec.Devices {
		edits = append(edits, &spec.Devices[i].ContainerEdits)
	}
	for _, e := range edits {
		for _, n := range e.DeviceNodes {
			file := n.HostPath
			if file == "" {
				file = n.Path
			}
			named[n.Path] = true
			look("device node", file)
		}
		for _, m := range e.Mounts {
			look("mount", m.HostPath)
		}
	}
	checks := []check{result("everything that the CDI spec of GPUs names is there", "", fmt.Sprintf("%d devices, %d nodes, %d mounts", len(spec.Devices), len(named), len(spec.ContainerEdits.Mounts)), errors.Join(missing...))}
	for _, g := range all.GPUs {
		var err error
		if !g.MIG && !slices.ContainsFunc(spec.Devices, func(d cdi.Device) bool { return d.Name == g.UUID }) {
			err = errors.New("the spec has no device of that name")
		}
		node := fmt.Sprintf("/dev/nvidia%d", g.Minor)
		if err == nil && !named[node] {
			err = fmt.Errorf("no device has %s", node)
		}
		checks = append(checks, result("the CDI spec has the GPU and its node", g.UUID, node, err))
	}
	return append(checks, unnamed(named))
}

// unnamed looks for nodes of the driver that no device brings.
func unnamed(named map[string]bool) check {
	entries, err := os.ReadDir("/dev")
	if err != nil {
		return result("the driver's nodes are in the CDI spec", "", nil, err)
	}
	var left []string
	for _, e := range entries {
		file := path.Join("/dev", e.Name())
		// nvidia-modeset is for displays, and nvidia-caps is a folder for those who manage MIG.
		if strings.HasPrefix(e.Name(), "nvidia") && !e.IsDir() && !named[file] && e.Name() != "nvidia-modeset" {
			left = append(left, file)
		}
	}
	if len(left) > 0 {
		err = fmt.Errorf("not in it: %s", strings.Join(left, ", "))
	}
	return result("the driver's nodes are in the CDI spec", "", left, err)
}
