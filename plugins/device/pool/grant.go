// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
)

// The kinds of our CDI devices. A GPU's name is its UUID, a NIC's and a pair's the PCI address or auxiliary name of the NIC.
const (
	NICKind  = "railyard.dev/nic"
	GPUKind  = "railyard.dev/gpu"
	PairKind = "railyard.dev/pair"
)

// Grant is what a container gets for one device.
type Grant struct {
	Nodes []Node
	Lists []List
	// Info are variables whose value is a JSON object by device.
	Info map[string]map[string]Info
	// CDI are qualified names of CDI devices; Annotated are those for runtimes that read annotations.
	CDI, Annotated []string
}

// Node is a character device, at the same path in the container as on the host.
type Node struct{ Path, Permissions string }

// List is an entry of a variable that has several with commas between.
type List struct{ Name, Entry string }

// Info is a device's description, by topic.
type Info map[string]map[string]string

// with adds another grant. Neither is changed.
func (g Grant) with(o Grant) Grant {
	out := Grant{
		Nodes: slices.Clone(g.Nodes), Lists: slices.Concat(g.Lists, o.Lists), Info: map[string]map[string]Info{},
		CDI: slices.Clone(g.CDI), Annotated: slices.Clone(g.Annotated),
	}
	for _, n := range o.Nodes { // all share rdma_cm
		if !slices.Contains(out.Nodes, n) {
			out.Nodes = append(out.Nodes, n)
		}
	}
	for _, of := range []map[string]map[string]Info{g.Info, o.Info} {
		for name, devices := range of {
			if out.Info[name] == nil {
				out.Info[name] = map[string]Info{}
			}
			maps.Copy(out.Info[name], devices)
		}
	}
	for _, name := range o.CDI { // replicas of one GPU
		if !slices.Contains(out.CDI, name) {
			out.CDI = append(out.CDI, name)
		}
	}
	for _, name := range o.Annotated {
		if !slices.Contains(out.Annotated, name) {
			out.Annotated = append(out.Annotated, name)
		}
	}
	return out
}

// Answer is what a container gets for all its devices of a resource.
type Answer struct {
	Nodes       []Node
	Env         map[string]string
	Annotations map[string]string
	CDI         []string
}

// NewAnswer puts the grants of devices together.
func NewAnswer(resource string, devices []Device) (Answer, error) {
	var g Grant
	for _, d := range devices {
		g = g.with(d.Grant)
	}
	a := Answer{Nodes: g.Nodes, CDI: g.CDI, Env: map[string]string{}, Annotations: map[string]string{}}
	entries := map[string][]string{}
	for _, l := range g.Lists {
		if !slices.Contains(entries[l.Name], l.Entry) {
			entries[l.Name] = append(entries[l.Name], l.Entry)
		}
	}
	for name, list := range entries {
		a.Env[name] = strings.Join(list, ",")
		if name == "NCCL_IB_HCA" {
			a.Env[name] = "=" + a.Env[name] // exactly these, not all that begin so
		}
	}
	for name, devices := range g.Info {
		text, err := json.Marshal(devices)
		if err != nil {
			return Answer{}, fmt.Errorf("%s: %w", name, err)
		}
		a.Env[name] = string(text)
	}
	if len(g.Annotated) > 0 {
		h := fnv.New64a()
		fmt.Fprint(h, resource, g.Annotated)
		a.Annotations[fmt.Sprintf("cdi.k8s.io/railyard_%x", h.Sum64())] = strings.Join(g.Annotated, ",")
	}
	return a, nil
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
