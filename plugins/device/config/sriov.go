// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/railyard-net/railyard/rdma"
)

// NetPool is NICs that one pod has at a time: virtual, physical or sub-functions.
type NetPool struct {
	Resource string
	// Aux are sub-functions; otherwise functions on PCI.
	Aux bool
	// Selectors are tried in order; a NIC that one of them chooses is in.
	Selectors []Selectors
	// NoTopology hides the NUMA node from the kubelet.
	NoTopology bool
	// AdditionalInfo is copied into the environment, by PCI address, or * for all.
	AdditionalInfo map[string]map[string]string
	Inject         Inject
	Health         Health
}

type sriovFile struct {
	ResourceList []json.RawMessage `json:"resourceList"`
}

type sriovEntry struct {
	ResourceName    string                       `json:"resourceName"`
	ResourcePrefix  string                       `json:"resourcePrefix"`
	DeviceType      string                       `json:"deviceType"`
	ExcludeTopology bool                         `json:"excludeTopology"`
	Selectors       json.RawMessage              `json:"selectors"`
	AdditionalInfo  map[string]map[string]string `json:"additionalInfo"`
	Inject          Inject                       `json:"inject"`
	Health          Health                       `json:"health"`
}

// sriovSelectors adds what we read in order to refuse it.
type sriovSelectors struct {
	Selectors
	DDPProfiles []string `json:"ddpProfiles"`
	VDPAType    string   `json:"vdpaType"`
}

func parseSRIOV(data []byte, prefix string) (pools []NetPool, warnings []string, err error) {
	var f sriovFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, nil, fault("the file", "is no JSON as sriov-network-device-plugin reads: %v", err)
	}
	warnings = unknownKeys("", data, "resourceList")
	if len(f.ResourceList) == 0 {
		return nil, warnings, fault("resourceList", "is empty: give at least one resource")
	}
	var errs []error
	for i, raw := range f.ResourceList {
		p, w, err := parseSRIOVEntry(fmt.Sprintf("resourceList[%d]", i), raw, prefix)
		pools, warnings, errs = append(pools, p), append(warnings, w...), append(errs, err)
	}
	return pools, warnings, errors.Join(errs...)
}

func parseSRIOVEntry(at string, raw json.RawMessage, prefix string) (NetPool, []string, error) {
	var e sriovEntry
	if err := json.Unmarshal(raw, &e); err != nil {
		return NetPool{}, nil, fault(at, "%v", err)
	}
	warnings := unknownKeys(at+".", raw, "resourceName", "resourcePrefix", "deviceType", "excludeTopology", "selectors", "additionalInfo", "inject", "health")
	p := NetPool{
		Resource: cmp.Or(e.ResourcePrefix, prefix) + "/" + e.ResourceName, NoTopology: e.ExcludeTopology,
		AdditionalInfo: e.AdditionalInfo, Inject: e.Inject, Health: e.Health,
	}
	errs := []error{e.Inject.check(at)}
	if !sharedName.MatchString(e.ResourceName) {
		errs = append(errs, fault(at+".resourceName", "%.64q is not made of letters, digits and _", e.ResourceName))
	} else {
		errs = append(errs, resource(at+".resourceName", p.Resource))
	}
	switch e.DeviceType {
	case "", "netDevice":
	case "auxNetDevice":
		p.Aux = true
	default:
		errs = append(errs, fault(at+".deviceType", "%.64q is neither netDevice nor auxNetDevice; accelerators are not served", e.DeviceType))
	}
	var err error
	p.Selectors, err = parseSelectors(at+".selectors", e.Selectors)
	return p, warnings, errors.Join(append(errs, err)...)
}

// parseSelectors takes one object or a list of them. None selects everything, as with that plugin.
func parseSelectors(at string, raw json.RawMessage) ([]Selectors, error) {
	var list []sriovSelectors
	switch raw = bytes.TrimSpace(raw); {
	case len(raw) == 0 || string(raw) == "null":
		list = make([]sriovSelectors, 1)
	case raw[0] == '[':
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, fault(at, "%v", err)
		}
	default:
		list = make([]sriovSelectors, 1)
		if err := json.Unmarshal(raw, &list[0]); err != nil {
			return nil, fault(at, "%v", err)
		}
	}
	if len(list) == 0 {
		return nil, fault(at, "is an empty list: it selects nothing")
	}
	var all []Selectors
	var errs []error
	for i, s := range list {
		at := fmt.Sprintf("%s[%d]", at, i)
		if len(s.DDPProfiles) > 0 {
			errs = append(errs, fault(at+".ddpProfiles", "is not served: take it out, or leave this resource to its plugin"))
		}
		if s.VDPAType != "" {
			errs = append(errs, fault(at+".vdpaType", "is not served: take it out, or leave this resource to its plugin"))
		}
		if s.VhostNet {
			errs = append(errs, fault(at+".needVhostNet", "is not served: take it out, or leave this resource to its plugin"))
		}
		errs = append(errs, s.Selectors.check(at))
		all = append(all, s.Selectors)
	}
	return all, errors.Join(errs...)
}

func (s *Selectors) check(at string) error {
	var errs []error
	for i, a := range s.PCIAddresses {
		addr, err := rdma.ParseBusAddr(a)
		if err != nil {
			errs = append(errs, fault(at+".pciAddresses", "%v", err))
			continue
		}
		s.PCIAddresses[i] = string(addr)
	}
	for _, list := range [][]string{s.PFNames, s.RootDevices} {
		for _, entry := range list {
			if _, _, err := SplitRange(entry); err != nil {
				errs = append(errs, fault(at+".pfNames or .rootDevices", "%v", err))
			}
		}
	}
	if len(s.PKeys) > 0 && len(s.LinkTypes) != 1 {
		errs = append(errs, fault(at+".pKeys", "goes with \"linkTypes\": [\"infiniband\"] alone"))
	}
	return errors.Join(errs...)
}

var ranges = regexp.MustCompile(`^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$`)

// SplitRange takes name#0,2-7 apart. Without a # every index is in.
func SplitRange(s string) (name string, in func(index int) bool, err error) {
	name, text, ok := strings.Cut(s, "#")
	if !ok {
		return name, func(int) bool { return true }, nil
	}
	if name == "" || !ranges.MatchString(text) {
		return "", nil, fmt.Errorf("%.64q is not name#0,2-7", s)
	}
	var spans [][2]int
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		low, err := strconv.Atoi(from)
		high := low
		if err == nil && isRange {
			high, err = strconv.Atoi(to)
		}
		if err != nil || high < low {
			return "", nil, fmt.Errorf("%.64q: %s is no range of numbers", s, part)
		}
		spans = append(spans, [2]int{low, high})
	}
	return name, func(index int) bool {
		for _, s := range spans {
			if s[0] <= index && index <= s[1] {
				return true
			}
		}
		return false
	}, nil
}
