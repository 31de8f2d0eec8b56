// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package config reads what the device plugin is to hand out: Railyard's own file, and, as they are, the JSON of the k8s-rdma-shared-dev-plugin and
// of the sriov-network-device-plugin.
//
// [Parse] checks everything, so that nobody checks again. An error names the place, such as configList[1].rdmaHcaMax, and what to do. The two foreign
// formats ignore keys that they do not know, as their own programs do; those are told as warnings. In our own file they are errors.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Config is everything that one plugin hands out.
type Config struct {
	Shared []SharedPool
	Net    []NetPool
	GPU    *GPU
	Pair   *Pair
	// Rescan is how often the hardware is looked at without a reason; 0: only when something happens.
	Rescan time.Duration
}

// DefaultRescan is that of the shared plugin.
const DefaultRescan = 60 * time.Second

// Inject is what a container gets beside the devices. All of it is opt-in.
type Inject struct {
	// Env are variables that name the RDMA devices: NCCL_IB_HCA, UCX_NET_DEVICES, NVSHMEM_HCA_LIST.
	Env []string `json:"env,omitempty"`
	// UMAD hands out the devices for management datagrams too, which give power over the network.
	UMAD bool `json:"umad,omitempty"`
	// CDI names the devices by CDI instead of listing their files.
	CDI bool `json:"cdi,omitempty"`
}

// EnvNames are the variables that may be asked for.
func EnvNames() []string { return []string{"NCCL_IB_HCA", "UCX_NET_DEVICES", "NVSHMEM_HCA_LIST"} }

func (i Inject) check(at string) error {
	for _, name := range i.Env {
		ok := false
		for _, known := range EnvNames() {
			ok = ok || name == known
		}
		if !ok {
			return fault(at+".inject.env", "%.64q is none of %s", name, strings.Join(EnvNames(), ", "))
		}
	}
	return nil
}

// Error is one fault of a config.
type Error struct {
	Source string // which file
	At     string // the place in it
	Text   string
}

func (e *Error) Error() string {
	return strings.TrimPrefix(cmp.Or(e.Source, "")+": ", ": ") + e.At + ": " + e.Text
}

func fault(at, format string, args ...any) error {
	return &Error{At: at, Text: fmt.Sprintf(format, args...)}
}

// Sources are the contents of the files; nil: there is none.
type Sources struct {
	Railyard, Shared, SRIOV []byte
	// Prefix is the domain of resources of SRIOV that name none.
	Prefix string
}

// DefaultPrefix is the sriov-network-device-plugin's own.
const DefaultPrefix = "intel.com"

// Parse reads and checks the sources. Warnings are for people. Without an error, the config is not nil.
func Parse(s Sources) (c *Config, warnings []string, err error) {
	c = &Config{Rescan: DefaultRescan}
	var own railyardFile
	var errs []error
	add := func(source string, w []string, err error) {
		for _, text := range w {
			warnings = append(warnings, source+": "+text)
		}
		errs = append(errs, inSource(source, err))
	}
	if s.Railyard != nil {
		own, err = parseRailyard(s.Railyard, c)
		add("railyard", nil, err)
	}
	for _, shared := range [][]byte{s.Shared, own.Shared} {
		if shared != nil {
			pools, rescan, w, err := parseShared(shared)
			c.Shared = append(c.Shared, pools...)
			if rescan != nil {
				c.Rescan = *rescan
			}
			add("shared", w, err)
		}
	}
	for _, sriov := range [][]byte{s.SRIOV, own.SRIOV} {
		if sriov != nil {
			pools, w, err := parseSRIOV(sriov, cmp.Or(s.Prefix, DefaultPrefix))
			c.Net = append(c.Net, pools...)
			add("sriov", w, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, warnings, err
	}
	if err := c.unique(); err != nil {
		return nil, warnings, err
	}
	return c, warnings, nil
}

func inSource(source string, err error) error {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		var errs []error
		for _, e := range joined.Unwrap() {
			errs = append(errs, inSource(source, e))
		}
		return errors.Join(errs...)
	}
	var e *Error
	if errors.As(err, &e) && e.Source == "" {
		e.Source = source
	}
	return err
}

// Names are the resources that the config names. With MIG mixed, instances have others beside; see [Config.Owns].
func (c *Config) Names() []string {
	var names []string
	for _, p := range c.Shared {
		names = append(names, p.Resource)
	}
	for _, p := range c.Net {
		names = append(names, p.Resource)
	}
	if c.GPU != nil {
		names = append(names, c.GPU.Resource)
	}
	if c.Pair != nil {
		names = append(names, c.Pair.Resource)
		if c.Pair.NUMAResource != "" {
			names = append(names, c.Pair.NUMAResource)
		}
	}
	return names
}

// Owns says that a resource is one that the config makes.
func (c *Config) Owns(resource string) bool {
	if c.GPU != nil && c.GPU.MIG == MIGMixed {
		if domain, _, _ := strings.Cut(c.GPU.Resource, "/"); strings.HasPrefix(resource, domain+"/mig-") {
			return true
		}
	}
	return slices.Contains(c.Names(), resource)
}

// unique refuses two resources of one name.
func (c *Config) unique() error {
	seen := map[string]bool{}
	for _, n := range c.Names() {
		if seen[n] {
			return fault("resources", "%s is there twice: give one of them another name", n)
		}
		seen[n] = true
	}
	return nil
}

var (
	domain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	name   = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)
)

// resource checks what a kubelet takes for the name of an extended resource.
func resource(at, s string) error {
	prefix, rest, ok := strings.Cut(s, "/")
	switch {
	case !ok || !domain.MatchString(prefix) || len(prefix) > 253:
		return fault(at, "%.128q has no domain before a slash: write example.com/name", s)
	case !name.MatchString(rest) || len(rest) > 63:
		return fault(at, "%.128q: after the slash are letters, digits, -, _ and ., at most 63, and letters or digits at the ends", s)
	case strings.HasSuffix(prefix, "kubernetes.io"):
		return fault(at, "%.128q: kubernetes.io is not for extended resources: take another domain", s)
	}
	return nil
}
