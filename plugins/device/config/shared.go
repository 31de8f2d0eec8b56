// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"
)

// SharedPool is RDMA devices that many pods use at once.
type SharedPool struct {
	Resource  string
	Selectors Selectors
	// Slots is how many devices there are for each HCA; with Compat, for all together.
	Slots int
	// Compat gives every container the files of all HCAs, as the k8s-rdma-shared-dev-plugin does, management datagrams among them.
	Compat bool
	Inject Inject
	Health Health
}

// Health says what makes a NIC unhealthy beside its absence.
type Health struct {
	// Link: no link at the physical function's port.
	Link bool `json:"link,omitempty"`
}

// Selectors choose NICs: one of each list that is not empty.
type Selectors struct {
	Vendors      []string `json:"vendors,omitempty"`
	Devices      []string `json:"devices,omitempty"`
	Drivers      []string `json:"drivers,omitempty"`
	PCIAddresses []string `json:"pciAddresses,omitempty"`
	ACPIIndexes  []string `json:"acpiIndexes,omitempty"`
	IfNames      []string `json:"ifNames,omitempty"`
	// PFNames and RootDevices may end in #0,2-7: those virtual or sub-functions.
	PFNames     []string `json:"pfNames,omitempty"`
	RootDevices []string `json:"rootDevices,omitempty"`
	LinkTypes   []string `json:"linkTypes,omitempty"`
	PKeys       []string `json:"pKeys,omitempty"`
	AuxTypes    []string `json:"auxTypes,omitempty"`
	IsRDMA      bool     `json:"isRdma,omitempty"`
	VhostNet    bool     `json:"needVhostNet,omitempty"`
}

// sharedFile is the JSON of k8s-rdma-shared-dev-plugin with what is ours beside it.
type sharedFile struct {
	PeriodicUpdateInterval *int              `json:"periodicUpdateInterval"`
	ConfigList             []json.RawMessage `json:"configList"`
	Compat                 string            `json:"compat"`
}

type sharedEntry struct {
	ResourceName   string           `json:"resourceName"`
	ResourcePrefix string           `json:"resourcePrefix"`
	RDMAHCAMax     *int             `json:"rdmaHcaMax"`
	Devices        []string         `json:"devices"`
	Selectors      *sharedSelectors `json:"selectors"`

	SlotsPerHCA *int   `json:"slotsPerHca"`
	Inject      Inject `json:"inject"`
	Health      Health `json:"health"`
}

// sharedSelectors has the words of that plugin.
type sharedSelectors struct {
	Vendors   []string `json:"vendors"`
	DeviceIDs []string `json:"deviceIDs"`
	Drivers   []string `json:"drivers"`
	IfNames   []string `json:"ifNames"`
	LinkTypes []string `json:"linkTypes"`
}

var sharedName = regexp.MustCompile(`^[A-Za-z0-9_]+$`)

// maxSlots is more than any HCA bears, and less than what a kubelet's list can hold.
const maxSlots = 10_000

func parseShared(data []byte) (pools []SharedPool, rescan *time.Duration, warnings []string, err error) {
	var f sharedFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, nil, nil, fault("the file", "is no JSON as k8s-rdma-shared-dev-plugin reads: %v", err)
	}
	warnings = unknownKeys("", data, "periodicUpdateInterval", "configList", "compat")
	var errs []error
	if n := f.PeriodicUpdateInterval; n != nil {
		if *n < 0 || *n > 86400 {
			errs = append(errs, fault("periodicUpdateInterval", "%d is no number of seconds up to a day; 0 is off", *n))
		}
		d := time.Duration(*n) * time.Second
		rescan = &d
	}
	if f.Compat != "" && f.Compat != "upstream" {
		errs = append(errs, fault("compat", "%.64q is neither upstream nor left out", f.Compat))
	}
	if len(f.ConfigList) == 0 {
		errs = append(errs, fault("configList", "is empty: give at least one resource"))
	}
	for i, raw := range f.ConfigList {
		at := fmt.Sprintf("configList[%d]", i)
		p, w, err := parseSharedEntry(at, raw, f.Compat == "upstream")
		errs, warnings = append(errs, err), append(warnings, w...)
		pools = append(pools, p)
	}
	return pools, rescan, warnings, errors.Join(errs...)
}

func parseSharedEntry(at string, raw json.RawMessage, compat bool) (SharedPool, []string, error) {
	var e sharedEntry
	if err := json.Unmarshal(raw, &e); err != nil {
		return SharedPool{}, nil, fault(at, "%v", err)
	}
	warnings := unknownKeys(at+".", raw, "resourceName", "resourcePrefix", "rdmaHcaMax", "devices", "selectors", "slotsPerHca", "inject", "health")
	p := SharedPool{Resource: cmp.Or(e.ResourcePrefix, "rdma") + "/" + e.ResourceName, Compat: compat, Inject: e.Inject, Health: e.Health}
	var errs []error
	if !sharedName.MatchString(e.ResourceName) {
		errs = append(errs, fault(at+".resourceName", "%.64q is not made of letters, digits and _", e.ResourceName))
	} else {
		errs = append(errs, resource(at+".resourceName", p.Resource))
	}
	slots := cmp.Or(e.SlotsPerHCA, e.RDMAHCAMax)
	switch {
	case slots == nil:
		errs = append(errs, fault(at+".rdmaHcaMax", "is missing: say how many pods may share an HCA"))
	case *slots < 0 || *slots > maxSlots:
		errs = append(errs, fault(at+".rdmaHcaMax", "%d is not between 0 and %d", *slots, maxSlots))
	case compat && e.SlotsPerHCA != nil:
		errs = append(errs, fault(at+".slotsPerHca", "has no meaning with compat: upstream, where slots are not an HCA's: use rdmaHcaMax"))
	default:
		p.Slots = *slots
	}
	switch {
	case e.Selectors != nil && e.Devices != nil:
		errs = append(errs, fault(at+".devices", "goes not with selectors: put the names in selectors.ifNames"))
	case e.Selectors != nil:
		s := e.Selectors
		p.Selectors = Selectors{Vendors: s.Vendors, Devices: s.DeviceIDs, Drivers: s.Drivers, IfNames: s.IfNames, LinkTypes: s.LinkTypes}
	case len(e.Devices) > 0:
		p.Selectors = Selectors{IfNames: e.Devices}
	default:
		errs = append(errs, fault(at+".selectors", "is missing: say which NICs, such as {\"vendors\": [\"15b3\"]}"))
	}
	return p, warnings, errors.Join(append(errs, e.Inject.check(at))...)
}

// unknownKeys tells of the keys of an object that nobody reads.
func unknownKeys(at string, raw []byte, known ...string) (warnings []string) {
	var all map[string]json.RawMessage
	if json.Unmarshal(raw, &all) != nil {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if !slices.Contains(known, key) {
			warnings = append(warnings, fmt.Sprintf("%s%.64s is not known and has no effect", at, key))
		}
	}
	return warnings
}
