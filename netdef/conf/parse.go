// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

const (
	// MaxName is the longest name of a network: the longest that Kubernetes gives an object.
	MaxName = 253
	// minMTU is the kernel's least for an Ethernet link (ETH_MIN_MTU).
	minMTU, maxMTU = 68, 65535
	// maxSocket is the longest path of a socket, unix(7).
	maxSocket = 107
)

// Spec is a config that was checked.
type Spec struct {
	Known
	Kind string
	Mode string           // empty for the kinds without modes, and for an IPoIB link as its master is
	MAC  net.HardwareAddr // nil: derive one, or keep the device's
	// RuntimeMAC says that MAC came by runtimeConfig.
	RuntimeMAC bool
	// BCQueueLen 0: the kernel's default.
	BCQueueLen uint32
	// DeviceID is any string; DevicePCI is the same if it is a PCI address, and empty otherwise.
	DeviceID, DevicePCI string
	// HWAddr is the hardware address of the link to move, or nil.
	HWAddr net.HardwareAddr
	VF     VF
	// GUID is that of the virtual function to move and of its port, 8 bytes, or nil: they stay as they are.
	GUID net.HardwareAddr
	PKey uint16 // 0: the master's
	RDMA string // RDMAAuto, RDMARequired or RDMAOff
	// Attachment is the interface that the pod asked for, in a rail's copy of the Spec, where the rail makes another one.
	Attachment string
	// Rails has at least one. They are of one kind and have different names.
	Rails          []RailSpec
	Sysctls        []Sysctl // by key
	Static         []netip.Addr
	DNS            types.DNS
	DeviceInfoFile string // empty: none asked for
	// PrevResult is the result of the plugins before this one, or nil.
	PrevResult json.RawMessage
}

// Multi says that the config lists rails: then each has a routing table of its own.
func (s Spec) Multi() bool { return s.Rails[0].Table != 0 }

// RailSpec is one rail, with all that it inherits.
type RailSpec struct {
	// IfName is empty for the name of the call, or begins with - for what follows it.
	IfName string
	Master string // empty: see Config.Master
	Device string // empty: see Config.Device
	// Label and Auto are instead of Master and Device: see Rail.
	Label string
	Auto  bool
	MTU   int    // 0: the master's or the device's
	ToS   *uint8 // of RoCE; nil: the RDMA device's
	Pool  string // empty where the config's address management is not Railyard's
	Table int    // 0 if the config lists no rails
	// AutoTable says that Table is a proposal: the config names none, and another one that is free in the pod will do.
	AutoTable bool
}

// Name is the rail's interface for a call that names the first one ifName.
func (r RailSpec) Name(ifName string) string {
	if r.IfName == "" || r.IfName[0] == '-' {
		return ifName + r.IfName
	}
	return r.IfName
}

// VF is what a physical function is to set for a virtual one. Nil and empty fields stay as they are.
type VF struct {
	VLAN, QoS        *int
	Proto            string
	MinRate, MaxRate *int
	SpoofChk, Trust  *bool
	LinkState        string
}

// Known is what a config says in any call, a stripped DEL included.
type Known struct {
	CNIVersion, Name string
	// IPAMType is empty where the config has no address management, or where it was stripped.
	IPAMType string
	// Pool is set for IPAMType only.
	Pool string
	Paths
}

// Paths are where the node's state is found.
type Paths struct{ StateDir, AgentSocket string }

// Store is the file of the node's leases.
func (p Paths) Store() string { return filepath.Join(p.StateDir, StoreName) }

// Sysctl is one kernel setting in the pod's namespace.
type Sysctl struct {
	// Key is the path under /proc/sys, e.g. net/ipv4/conf/IFNAME/arp_ignore.
	Key   string
	Value string
}

// Path is the setting's path under /proc/sys for the interface of that name.
func (s Sysctl) Path(ifName string) string {
	parts := strings.Split(s.Key, "/")
	for i := range parts {
		if parts[i] == IfNamePlaceholder {
			parts[i] = ifName
		}
	}
	return strings.Join(parts, "/")
}

// OfInterface says that the setting belongs to the attachment's interface, and ends with it.
func (s Sysctl) OfInterface() bool {
	return slices.Contains(strings.Split(s.Key, "/"), IfNamePlaceholder)
}

// Attachment is one entry of GC's list of what is still in use.
type Attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// Parse reads and checks the whole config. The defaultDir is for configs that name no stateDir; empty means
// DefaultStateDir.
func Parse(data []byte, defaultDir string) (Spec, error) {
	var c Config
	if err := decode(data, "", &c); err != nil {
		return Spec{}, err
	}
	s := Spec{Kind: c.Kind, Mode: c.Mode, BCQueueLen: c.BCQueueLen, DeviceID: cmp.Or(c.DeviceID, c.PCIBusID), RDMA: c.RDMA}
	if null(c.PrevResult) {
		c.PrevResult = nil
	}
	s.PrevResult = c.PrevResult
	if c.DNS != nil {
		s.DNS = *c.DNS
	}
	var known, link, mac, ips, ctl, rails, guid error
	s.Known, known = c.known(defaultDir)
	link = s.checkLink(c)
	s.MAC, mac = c.mac()
	s.Static, ips = c.static()
	s.Sysctls, ctl = parseSysctls(c.Sysctl)
	s.Rails, rails = c.rails(s.Known)
	s.GUID, guid = c.guid(s.Kind)
	errs := []error{known, link, mac, ips, ctl, rails, guid}
	if len(c.Rails) > 0 {
		errs = append(errs, noNullRails(data))
	}
	if rc := c.RuntimeConfig; rc != nil {
		s.RuntimeMAC = rc.MAC != ""
		if rc.DeviceID != "" {
			s.DeviceID = rc.DeviceID
		}
		if s.DeviceInfoFile = rc.DeviceInfoFile; s.DeviceInfoFile != "" {
			errs = append(errs, checkPath("runtimeConfig."+CapabilityDeviceInfoFile, s.DeviceInfoFile))
		}
	}
	if IsPCI(s.DeviceID) {
		s.DevicePCI = s.DeviceID
	}
	if s.PrevResult != nil && s.PrevResult[0] != '{' {
		errs = append(errs, fieldErrorf("prevResult", "is no object: pass the result of the plugin before unchanged"))
	}
	return s, bounded(errs...)
}

// ParseKnown reads what a DEL may count on; whatever else the config holds is not looked at, right or wrong.
func ParseKnown(data []byte, defaultDir string) (Known, error) {
	var c struct {
		CNIVersion  json.RawMessage `json:"cniVersion"`
		Name        string          `json:"name"`
		IPAM        json.RawMessage `json:"ipam"`
		StateDir    json.RawMessage `json:"stateDir"`
		AgentSocket json.RawMessage `json:"agentSocket"`
	}
	if err := decode(data, "", &c); err != nil {
		return Known{}, err
	}
	k := Known{CNIVersion: text(c.CNIVersion), Name: c.Name}
	var section struct {
		Type        json.RawMessage `json:"type"`
		StateDir    json.RawMessage `json:"stateDir"`
		AgentSocket json.RawMessage `json:"agentSocket"`
	}
	if json.Unmarshal(c.IPAM, &section) == nil {
		k.IPAMType = text(section.Type)
	}
	var err error
	if k.Paths, err = paths(text(c.StateDir), text(c.AgentSocket), defaultDir); err != nil {
		return Known{}, err
	}
	if k.IPAMType == IPAMType {
		k.Paths = k.Paths.override(text(section.StateDir), text(section.AgentSocket))
	}
	return k, checkName(k.Name)
}

// IPAM is a config as the IPAM plugin behind another main plugin sees it.
type IPAM struct {
	Known
	Static []netip.Addr
}

// ParseIPAM reads and checks a config of any main plugin whose ipam section is a PoolIPAM.
func ParseIPAM(data []byte, defaultDir string) (IPAM, error) {
	var all struct {
		CNIVersion    string          `json:"cniVersion"`
		Name          string          `json:"name"`
		IPAM          json.RawMessage `json:"ipam"`
		RuntimeConfig *RuntimeConfig  `json:"runtimeConfig"`
		Args          *Args           `json:"args"`
	}
	if err := decode(data, "", &all); err != nil {
		return IPAM{}, err
	}
	c := Config{
		CNIVersion: all.CNIVersion, Name: all.Name, IPAM: all.IPAM, RuntimeConfig: all.RuntimeConfig, Args: all.Args,
	}
	known, err := c.known(defaultDir)
	if err == nil && known.IPAMType != IPAMType {
		err = fieldErrorf("ipam.type", "is %q: write %q", known.IPAMType, IPAMType)
	}
	static, bad := c.static()
	return IPAM{Known: known, Static: static}, bounded(err, bad)
}

// ParseValidAttachments gives the attachments that a GC shall keep. A config without the list is refused: not
// knowing what is in use means that everything may be.
func ParseValidAttachments(data []byte) ([]Attachment, error) {
	const key = "cni.dev/valid-attachments"
	var c struct {
		List json.RawMessage `json:"cni.dev/valid-attachments"`
	}
	if err := decode(data, "", &c); err != nil {
		return nil, err
	}
	if c.List == nil {
		return nil, fieldErrorf(key, "is missing: give the list of attachments in use, [] if there are none")
	}
	var out []Attachment
	if err := decode(c.List, key, &out); err != nil {
		return nil, err
	}
	for _, a := range out {
		if a.ContainerID == "" || a.IfName == "" {
			return nil, fieldErrorf(key, "has an entry without containerID or ifname: give both")
		}
	}
	return out, nil
}

func (c Config) known(defaultDir string) (Known, error) {
	k := Known{CNIVersion: c.CNIVersion, Name: c.Name}
	var bad error
	k.Paths, bad = paths(c.StateDir, c.AgentSocket, defaultDir)
	errs := []error{checkName(c.Name), bad}
	if len(c.IPAM) == 0 || null(c.IPAM) {
		return k, errors.Join(errs...)
	}
	var kind struct {
		Type string `json:"type"`
	}
	if err := decode(c.IPAM, "ipam", &kind); err != nil {
		return k, errors.Join(append(errs, err)...)
	}
	if kind.Type == "" && !emptyObject(c.IPAM) {
		errs = append(errs, fieldErrorf("ipam.type", "is missing: name the IPAM plugin, %s for Railyard's own addresses", IPAMType))
	}
	if k.IPAMType = kind.Type; kind.Type == IPAMType {
		var p PoolIPAM
		if err := decode(c.IPAM, "ipam", &p); err != nil {
			return k, errors.Join(append(errs, err)...)
		}
		if k.Pool = p.Pool; p.Pool == "" {
			errs = append(errs, fieldErrorf("ipam.pool", "is empty: write the name of an IPPool"))
		}
		_, bad := paths(p.StateDir, p.AgentSocket, defaultDir)
		errs, k.Paths = append(errs, bad), k.Paths.override(p.StateDir, p.AgentSocket)
		if n := len(k.AgentSocket); n > maxSocket {
			errs = append(errs, fieldErrorf("agentSocket", "has %d bytes: a socket's path has at most %d, so shorten it or stateDir", n, maxSocket))
		}
	} else if strings.ContainsAny(kind.Type, "/\x00") || kind.Type == ".." {
		errs = append(errs, fieldErrorf("ipam.type", "%.80q is no name of a plugin: write its file name alone", kind.Type))
	}
	return k, errors.Join(errs...)
}

func paths(stateDir, socket, defaultDir string) (Paths, error) {
	if defaultDir == "" {
		defaultDir = DefaultStateDir
	}
	p := Paths{StateDir: defaultDir}.override(stateDir, socket)
	return p, errors.Join(checkPath("stateDir", p.StateDir), checkPath("agentSocket", p.AgentSocket))
}

func (p Paths) override(stateDir, socket string) Paths {
	if stateDir != "" {
		p.StateDir, p.AgentSocket = filepath.Clean(stateDir), ""
	}
	if socket != "" {
		p.AgentSocket = socket
	}
	if p.AgentSocket == "" {
		p.AgentSocket = filepath.Join(p.StateDir, SocketName)
	}
	return p
}

// text is the string in raw, or "" if it holds none.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// emptyObject says that raw is {}, as NVIDIA's operator renders no address management.
func emptyObject(raw json.RawMessage) bool {
	var o map[string]json.RawMessage
	return json.Unmarshal(raw, &o) == nil && len(o) == 0
}

func null(raw json.RawMessage) bool { return bytes.Equal(bytes.TrimSpace(raw), []byte("null")) }
