// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// GPU is what is done with GPUs that are in no pair.
type GPU struct {
	Resource string
	// MIG is none, single or mixed, as NVIDIA's plugin has it. With mixed, instances have resources of their own beside Resource.
	MIG string
	// Strategies are how a container gets its GPU: cdi-cri, cdi-annotations, envvar.
	Strategies []string
	// Replicas is how many pods take turns on a GPU; 1: none do. Resource is renamed to name.shared if Rename.
	Replicas       int
	Rename         bool
	RefuseSeveral  bool // of the replicas, a container may have one
	PackReplicas   bool // on few GPUs, rather than evenly
	IgnoreXIDs     []uint64
	RecoverAfter   time.Duration
	NoHealthChecks bool
}

// Pair is GPUs with the NICs next to them.
type Pair struct {
	// Resource is of pairs as near as GPUDirect wants, NUMAResource of those on one host bridge or node; empty: they are not offered.
	Resource, NUMAResource string
	// GPUs are UUIDs, PCI addresses or indexes; empty: all.
	GPUs []string
	NICs []Selectors
	// Dynamic offers GPUs and NICs of pairs by themselves too, and withdraws what is in use under another name.
	Dynamic    bool
	Strategies []string
	Inject     Inject
	Health     Health
}

// How a container gets its GPU.
const (
	CDICRI         = "cdi-cri"
	CDIAnnotations = "cdi-annotations"
	EnvVar         = "envvar"
)

// The ways to deal with MIG.
const (
	MIGNone   = "none"
	MIGSingle = "single"
	MIGMixed  = "mixed"
)

// railyardFile is our own format, in YAML or JSON.
type railyardFile struct {
	Version string          `json:"version"`
	Shared  json.RawMessage `json:"shared,omitempty"`
	SRIOV   json.RawMessage `json:"sriov,omitempty"`
	GPU     *gpuSection     `json:"gpu,omitempty"`
	Pair    *pairSection    `json:"pair,omitempty"`
}

type gpuSection struct {
	ResourceName       string   `json:"resourceName,omitempty"`
	MIGStrategy        string   `json:"migStrategy,omitempty"`
	DeviceListStrategy []string `json:"deviceListStrategy,omitempty"`
	Sharing            *struct {
		Replicas                   int    `json:"replicas"`
		RenameByDefault            bool   `json:"renameByDefault,omitempty"`
		FailRequestsGreaterThanOne bool   `json:"failRequestsGreaterThanOne,omitempty"`
		Policy                     string `json:"policy,omitempty"`
	} `json:"timeSlicing,omitempty"`
	Health *struct {
		Disabled     bool     `json:"disabled,omitempty"`
		IgnoreXIDs   []uint64 `json:"ignoreXids,omitempty"`
		RecoverAfter string   `json:"recoverAfter,omitempty"`
	} `json:"health,omitempty"`
}

type pairSection struct {
	ResourceName       string          `json:"resourceName,omitempty"`
	NUMAResourceName   *string         `json:"numaResourceName,omitempty"`
	GPUs               []string        `json:"gpus,omitempty"`
	NICs               json.RawMessage `json:"nics,omitempty"`
	Accounting         string          `json:"accounting,omitempty"`
	DeviceListStrategy []string        `json:"deviceListStrategy,omitempty"`
	Inject             Inject          `json:"inject"`
	Health             *Health         `json:"health,omitempty"`
}

const (
	defaultGPU  = "railyard.dev/gpu"
	defaultPair = "railyard.dev/gpu-nic"
	defaultNUMA = "railyard.dev/gpu-nic-numa"
)

// DefaultRecover is how long a GPU must have been quiet after a fault.
const DefaultRecover = 5 * time.Minute

// DefaultIgnored are XIDs that say something of the program and nothing of the GPU: NVIDIA's plugin has the same list.
func DefaultIgnored() []uint64 { return []uint64{13, 31, 43, 45, 68, 109} }

func parseRailyard(data []byte, c *Config) (railyardFile, error) {
	var f railyardFile
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return f, fault("the file", "is neither YAML nor JSON: %v", err)
	}
	d := json.NewDecoder(bytes.NewReader(asJSON))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return railyardFile{}, fault("the file", "%v", err)
	}
	var errs []error
	if f.Version != "v1" {
		errs = append(errs, fault("version", "%.32q is not v1", f.Version))
	}
	if f.GPU != nil {
		c.GPU, err = f.GPU.parse()
		errs = append(errs, err)
	}
	if f.Pair != nil {
		c.Pair, err = f.Pair.parse()
		errs = append(errs, err)
	}
	return f, errors.Join(errs...)
}

func (s *gpuSection) parse() (*GPU, error) {
	g := &GPU{
		Resource: cmp.Or(s.ResourceName, defaultGPU), MIG: cmp.Or(s.MIGStrategy, MIGNone), Replicas: 1,
		IgnoreXIDs: DefaultIgnored(), RecoverAfter: DefaultRecover,
	}
	errs := []error{resource("gpu.resourceName", g.Resource)}
	if !slices.Contains([]string{MIGNone, MIGSingle, MIGMixed}, g.MIG) {
		errs = append(errs, fault("gpu.migStrategy", "%.32q is neither none, single nor mixed", g.MIG))
	}
	var err error
	g.Strategies, err = strategies("gpu.deviceListStrategy", s.DeviceListStrategy)
	errs = append(errs, err)
	if t := s.Sharing; t != nil {
		g.Replicas, g.Rename, g.RefuseSeveral, g.PackReplicas = t.Replicas, t.RenameByDefault, t.FailRequestsGreaterThanOne, t.Policy == "packed"
		if t.Replicas < 2 || t.Replicas > maxSlots {
			errs = append(errs, fault("gpu.timeSlicing.replicas", "%d is not between 2 and %d", t.Replicas, maxSlots))
		}
		if !slices.Contains([]string{"", "packed", "distributed"}, t.Policy) {
			errs = append(errs, fault("gpu.timeSlicing.policy", "%.32q is neither distributed nor packed", t.Policy))
		}
		if g.Rename {
			g.Resource += ".shared"
		}
	}
	if h := s.Health; h != nil {
		g.NoHealthChecks = h.Disabled
		g.IgnoreXIDs = append(g.IgnoreXIDs, h.IgnoreXIDs...)
		if h.RecoverAfter != "" {
			if g.RecoverAfter, err = time.ParseDuration(h.RecoverAfter); err != nil || g.RecoverAfter < 0 {
				errs = append(errs, fault("gpu.health.recoverAfter", "%.32q is no time such as 5m", h.RecoverAfter))
			}
		}
	}
	return g, errors.Join(errs...)
}

func (s *pairSection) parse() (*Pair, error) {
	p := &Pair{Resource: cmp.Or(s.ResourceName, defaultPair), NUMAResource: defaultNUMA, GPUs: s.GPUs, Dynamic: s.Accounting == "dynamic", Inject: s.Inject}
	if s.NUMAResourceName != nil {
		p.NUMAResource = *s.NUMAResourceName
	}
	if p.Health = (Health{Link: true}); s.Health != nil {
		p.Health = *s.Health
	}
	errs := []error{resource("pair.resourceName", p.Resource), p.Inject.check("pair")}
	if p.NUMAResource != "" {
		errs = append(errs, resource("pair.numaResourceName", p.NUMAResource))
	}
	if !slices.Contains([]string{"", "static", "dynamic"}, s.Accounting) {
		errs = append(errs, fault("pair.accounting", "%.32q is neither static nor dynamic", s.Accounting))
	}
	for _, g := range p.GPUs {
		if strings.TrimSpace(g) == "" {
			errs = append(errs, fault("pair.gpus", "has an empty entry: name UUIDs, PCI addresses or indexes"))
		}
	}
	var err error
	p.Strategies, err = strategies("pair.deviceListStrategy", s.DeviceListStrategy)
	errs = append(errs, err)
	p.NICs, err = parseSelectors("pair.nics", s.NICs)
	return p, errors.Join(append(errs, err)...)
}

func strategies(at string, given []string) ([]string, error) {
	if len(given) == 0 {
		return []string{CDICRI}, nil
	}
	for _, s := range given {
		if !slices.Contains([]string{CDICRI, CDIAnnotations, EnvVar}, s) {
			return nil, fault(at, "%.32q is none of %s", s, fmt.Sprint(CDICRI, ", ", CDIAnnotations, ", ", EnvVar))
		}
	}
	return given, nil
}
