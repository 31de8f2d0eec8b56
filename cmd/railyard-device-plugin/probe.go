// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"io"
	"strings"

	"github.com/railyard-net/railyard/cmd/internal/build"
	"github.com/railyard-net/railyard/plugins/device/cdi"
	"github.com/railyard-net/railyard/plugins/device/config"
	"github.com/railyard-net/railyard/plugins/device/pool"
	"github.com/railyard-net/railyard/rdma/gpu"
	"github.com/railyard-net/railyard/rdma/inventory"
	"github.com/railyard-net/railyard/rdma/topology"
)

// report is what --probe prints. Its fields may grow.
type report struct {
	Version   string             `json:"version"`
	NVML      bool               `json:"nvmlLinked"`
	GPUs      gpu.Inventory      `json:"gpus"`
	GPUState  string             `json:"gpuState"`
	NICs      []inventory.NIC    `json:"nics"`
	Matrix    string             `json:"matrix"`
	Degraded  map[string]string  `json:"degraded,omitempty"`
	Resources map[string][]offer `json:"resources,omitempty"`
	CDI       map[string]any     `json:"cdi,omitempty"`
	Checks    []check            `json:"checks"`
	Errors    []string           `json:"errors,omitempty"`
}

// offer is a device of a resource.
type offer struct {
	ID        string `json:"id"`
	NUMA      []int  `json:"numa,omitempty"`
	Class     string `json:"class,omitempty"`
	GPU       string `json:"gpu,omitempty"`
	Unhealthy string `json:"unhealthy,omitempty"`
}

// probe looks at everything once, changes nothing, and says what would be offered.
func probe(ctx context.Context, o options, stdout io.Writer) error {
	r := report{Version: build.Version(), NVML: gpu.Linked, Degraded: map[string]string{}, Resources: map[string][]offer{}, CDI: map[string]any{}}
	failed := func(err error) {
		if err != nil {
			r.Errors = append(r.Errors, err.Error())
		}
	}
	s, err := o.hardware().Read()
	failed(err)
	r.GPUs, r.GPUState, r.NICs = s.GPUs, s.GPUs.State.String(), s.NICs
	var nics []topology.NIC
	for i, n := range s.NICs {
		if n.Kind == inventory.Physical {
			nics = append(nics, n.TopologyNIC(i))
		}
	}
	var matrix strings.Builder
	failed(s.Tree.WriteMatrix(&matrix, s.TopologyGPUs(), nics))
	r.Matrix = matrix.String()
	for _, f := range s.Tree.Functions() {
		if able, bad, err := s.Tree.Degraded(f.Addr); err == nil && bad && (f.IsGPU() || f.IsNIC()) {
			r.Degraded[string(f.Addr)] = "is " + f.Link.String() + ", could be " + able.String()
		}
	}
	sources, err := o.readConfig()
	failed(err)
	c, _, err := config.Parse(sources)
	failed(err)
	if c != nil {
		for _, resource := range pool.Build(pool.Input{Config: c, Snapshot: s}) {
			for _, d := range resource.Devices {
				of := offer{ID: d.ID, NUMA: d.NUMA, GPU: string(d.GPU()), Unhealthy: d.Unhealthy}
				if class, ok := d.Class(); ok {
					of.Class = class.String()
				}
				r.Resources[resource.Name] = append(r.Resources[resource.Name], of)
			}
		}
	}
	r.CDI[pool.NICKind] = cdi.NICs(s, o.devRoot)
	if describe := o.gpuSpec(); describe != nil && s.GPUs.State == gpu.Ready {
		spec, err := describe(s)
		failed(err)
		if err == nil {
			r.CDI[pool.GPUKind] = spec
			r.Checks = append(r.Checks, checkSpec(spec, s.GPUs)...)
		}
	}
	r.Checks = append(r.Checks, checkGPUs(ctx, o, s.GPUs)...)
	e := json.NewEncoder(stdout)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
