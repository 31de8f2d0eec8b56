// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"slices"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/rdma"
)

// Version is the version of the format that this package writes. It reads this and all before.
const Version = 1

var (
	// ErrDamaged: the file holds no journal of this attachment.
	ErrDamaged = errors.New("damaged journal")
	// ErrNewer: a newer program wrote the journal, and it must be undone by one.
	ErrNewer = errors.New("journal of a newer version")
)

// ID names an attachment.
type ID struct{ ContainerID, IfName string }

func (id ID) String() string { return id.ContainerID + "@" + id.IfName }

// Sum is the same 128 bits for the same ID, ever. They tell IDs apart and keep no secret, for which package crypto
// would cost a part of the plugin's start.
func (id ID) Sum() (sum [16]byte) {
	h := fnv.New128a()
	_, _ = io.WriteString(h, id.String()) // a hash never fails
	h.Sum(sum[:0])
	return sum
}

// Journal is what was done for one attachment, or was about to be.
type Journal struct {
	Version     int    `json:"version"`
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
	Network     string `json:"network"`
	// NetNS is the pod's namespace, identified so that another one at the same path is not taken for it.
	NetNS ipam.NetNS `json:"netns"`
	// Pod is what CNI_ARGS said at ADD; empty where no Kubernetes called, and in journals of before. It may show that the
	// attachment is alive, and never that it is dead.
	Pod ipam.Pod `json:"pod,omitzero"`
	// Steps in the order of their doing; they are undone backwards.
	Steps []Step `json:"steps"`
	// Result is that of the ADD, at version 1.1.0 of the CNI specification; nil until the ADD was complete.
	Result json.RawMessage `json:"result,omitempty"`
}

// ID is the attachment's.
func (j Journal) ID() ID { return ID{j.ContainerID, j.IfName} }

// HasTag says that the attachment has moved the device with that tag, or was about to.
func (j Journal) HasTag(tag string) bool {
	return slices.ContainsFunc(j.Steps, func(s Step) bool { return s.Link != nil && s.Link.Host != nil && s.Link.Host.Tag == tag })
}

// Has says that an interface of that name is one of the attachment's rails.
func (j Journal) Has(ifName string) bool {
	return slices.ContainsFunc(j.Steps, func(s Step) bool {
		return s.Link != nil && s.Link.Name == ifName || s.Lease != nil && s.Lease.IfName == ifName
	})
}

// Step is one deed. Exactly one of its fields is set; none of them: the step is of a newer version.
type Step struct {
	Lease    *Lease
	Delegate *Delegate
	Link     *Link
	RDMA     *RDMA
	Sysctl   *Sysctl
	Rule     *Rule
	File     *File
	ToS      *ToS
}

// MarshalJSON writes what package json would by itself. But that prepares itself for whatever a type can hold, in every process anew, which
// took longer than all of the kernel's work on a link; so it gets to see the type of the one field that is set.
func (s Step) MarshalJSON() ([]byte, error) {
	switch {
	case s.Lease != nil:
		return member("lease", s.Lease)
	case s.Delegate != nil:
		return member("delegate", s.Delegate)
	case s.Link != nil:
		return member("link", s.Link)
	case s.RDMA != nil:
		return member("rdma", s.RDMA)
	case s.Sysctl != nil:
		return member("sysctl", s.Sysctl)
	case s.Rule != nil:
		return member("rule", s.Rule)
	case s.File != nil:
		return member("file", s.File)
	case s.ToS != nil:
		return member("tos", s.ToS)
	}
	return []byte("{}"), nil
}

func member(key string, value any) ([]byte, error) {
	b, err := json.Marshal(value)
	return slices.Concat([]byte(`{"`+key+`":`), b, []byte("}")), err
}

// UnmarshalJSON reads what MarshalJSON writes. Keys that it does not know it leaves out.
func (s *Step) UnmarshalJSON(data []byte) error {
	var members map[string]json.RawMessage
	err := json.Unmarshal(data, &members)
	for key, value := range members {
		switch key {
		case "lease":
			err = errors.Join(err, json.Unmarshal(value, &s.Lease))
		case "delegate":
			err = errors.Join(err, json.Unmarshal(value, &s.Delegate))
		case "link":
			err = errors.Join(err, json.Unmarshal(value, &s.Link))
		case "rdma":
			err = errors.Join(err, json.Unmarshal(value, &s.RDMA))
		case "sysctl":
			err = errors.Join(err, json.Unmarshal(value, &s.Sysctl))
		case "rule":
			err = errors.Join(err, json.Unmarshal(value, &s.Rule))
		case "file":
			err = errors.Join(err, json.Unmarshal(value, &s.File))
		case "tos":
			err = errors.Join(err, json.Unmarshal(value, &s.ToS))
		}
	}
	return err
}

// Known says that this version can undo the step.
func (s Step) Known() bool {
	return s.Lease != nil || s.Delegate != nil || s.Link != nil || s.RDMA != nil || s.Sysctl != nil || s.Rule != nil || s.File != nil ||
		s.ToS != nil
}

// Rename gives the source of addresses the name of an interface that is not the attachment's first.
func (s *Step) Rename(ifName string) {
	if s.Lease != nil {
		s.Lease.IfName = ifName
	}
	if s.Delegate != nil {
		s.Delegate.IfName = ifName
	}
}

// Lease is a lease of Railyard's own address management, under the attachment's key.
type Lease struct {
	// IfName of the key; empty: the attachment's. Each of several rails has its own.
	IfName      string `json:"ifName,omitempty"`
	Pool        string `json:"pool"`
	StateDir    string `json:"stateDir"`
	AgentSocket string `json:"agentSocket"`
}

// Delegate is the call of another plugin for addresses. Its undoing is that plugin's DEL with the same input.
type Delegate struct {
	// IfName is CNI_IFNAME; empty: the attachment's.
	IfName string `json:"ifName,omitempty"`
	Type   string `json:"type"`
	// Path is CNI_PATH, Args CNI_ARGS, and Config the stdin of the ADD.
	Path   string          `json:"path"`
	Args   string          `json:"args,omitempty"`
	Config json.RawMessage `json:"config"`
}

// Link is an interface in the pod.
type Link struct {
	Kind string `json:"kind"`
	Mode string `json:"mode"`
	Name string `json:"name"`
	// MAC is how a macvlan is known for ours until Index is, and if the pod renames it.
	MAC string `json:"mac"`
	MTU int    `json:"mtu"`
	// Parent is the index of the link on the host that it stands on, Master that link's name.
	Parent int    `json:"parent,omitempty"`
	Master string `json:"master,omitempty"`
	PKey   uint16 `json:"pkey,omitempty"`
	// Host is what the link was on the host that it was moved from; nil if it was made.
	Host *Host `json:"host,omitempty"`
	// Addresses were added to a link of another plugin's, with their prefix lengths.
	Addresses []string `json:"addresses,omitempty"`
	// Index in the pod, the routes added over the link and the GIDs of its addresses: known when the ADD is complete.
	Index  int            `json:"index,omitempty"`
	Routes []*types.Route `json:"routes,omitempty"`
	GIDs   []GID          `json:"gids,omitempty"`
}

// Host is a link as it is to be again when it is back on the host.
type Host struct {
	// Tag is an alternative name that the link gets first and loses last: it is known by it, wherever it is and
	// whatever a pod or the kernel calls it.
	Tag string `json:"tag"`
	// Bus is its place on a bus: its PCI address, the name of its auxiliary device, or what another bus calls it; or empty.
	Bus string `json:"bus,omitempty"`
	// Port tells it from other links at that place; empty in journals of before, and where its driver does not say.
	Port      string   `json:"port,omitempty"`
	Name      string   `json:"name"`
	AltNames  []string `json:"altNames,omitempty"`
	MAC       string   `json:"mac"`
	MTU       int      `json:"mtu"`
	Up        bool     `json:"up"`
	Addresses []string `json:"addresses,omitempty"` // with their prefix lengths
	// Details are the same addresses with all that was said of them. A program of before goes by Addresses alone, and a journal of
	// before has no Details.
	Details []Address `json:"details,omitempty"`
	// Sysctls are its own settings that differ from those of a new link: the kernel forgets them on the way. Their paths have IFNAME for
	// its name.
	Sysctls []Sysctl `json:"sysctls,omitempty"`
	// VF is what the physical function set for it; nil: nothing.
	VF *VF `json:"vf,omitempty"`
}

// MarshalJSON keeps package json from looking into a Host for a link that has none: see Step.
func (h Host) MarshalJSON() ([]byte, error) {
	type plain Host
	return json.Marshal(plain(h))
}

// Address is one of a link's addresses, as rtnetlink(7) has it.
type Address struct {
	Prefix    string `json:"prefix"`
	Peer      string `json:"peer,omitempty"` // with its prefix length
	Broadcast string `json:"broadcast,omitempty"`
	Label     string `json:"label,omitempty"`
	Scope     int    `json:"scope,omitempty"`
	Flags     int    `json:"flags,omitempty"`
}

// VF is what a physical function knows of a virtual one.
type VF struct {
	// PF is the physical function's PCI address, Number the virtual one's place on it.
	PF     string `json:"pf"`
	Number int    `json:"number"`
	// Set is what was set, Old what it was. Nil fields were left alone.
	Set VFState `json:"set"`
	Old VFState `json:"old"`
}

// VFState are a virtual function's settings, as ip-link(8) explains them; rates in Mbit/s.
type VFState struct {
	MAC       string  `json:"mac,omitempty"`
	VLAN      *VLAN   `json:"vlan,omitempty"`
	Rate      *Rate   `json:"rate,omitempty"`
	SpoofChk  *bool   `json:"spoofChk,omitempty"`
	Trust     *bool   `json:"trust,omitempty"`
	LinkState *uint32 `json:"linkState,omitempty"` // IFLA_VF_LINK_STATE_AUTO, _ENABLE, _DISABLE
	// NodeGUID and PortGUID are of a virtual function on InfiniBand; empty: left alone.
	NodeGUID string `json:"nodeGUID,omitempty"`
	PortGUID string `json:"portGUID,omitempty"`
}

// VLAN is what a virtual function's frames are tagged with; ID 0: nothing. Proto is an EtherType.
type VLAN struct {
	ID    int `json:"id"`
	QoS   int `json:"qos,omitempty"`
	Proto int `json:"proto,omitempty"`
}

// Rate bounds what a virtual function sends; 0: unbounded.
type Rate struct {
	Min int `json:"min"`
	Max int `json:"max"`
}

// RDMA is an RDMA device that was moved into the pod's namespace.
type RDMA struct {
	// Name is for people: a pod or a driver may change it. ID is the device.
	Name string  `json:"name"`
	ID   rdma.ID `json:"id"`
	Bus  string  `json:"bus,omitempty"`
}

// GID is where a program finds an address of the pod in the table of an RDMA device that all namespaces share.
type GID struct {
	Address string `json:"address"`
	Device  string `json:"device"`
	Port    int    `json:"port"`
	Index   int    `json:"index"`
	Type    string `json:"type"` // as sysfs writes it, e.g. RoCE v2
}

// MarshalJSON keeps package json from looking into a GID for a link that has none: see Step.
func (g GID) MarshalJSON() ([]byte, error) {
	type plain GID
	return json.Marshal(plain(g))
}

// ToS is the type of service of RoCE on one port of an RDMA device. Several attachments may hold one port, all with one value; then
// Old of each is what was there before the first of them.
type ToS struct {
	// Device is its name for people. ID is the device; Moved says that it went into the pod, and is to be waited for.
	Device string  `json:"device"`
	ID     rdma.ID `json:"id"`
	Bus    string  `json:"bus,omitempty"`
	Moved  bool    `json:"moved,omitempty"`
	Port   int     `json:"port"`
	Value  uint8   `json:"value"`
	Old    uint8   `json:"old"`
	// OldClass is the traffic class that the driver forced before, which becomes Value too; nil where the driver forces none ever.
	OldClass *int `json:"oldClass,omitempty"`
}

// SamePort says that both are of one port.
func (t *ToS) SamePort(o *ToS) bool { return t.ID == o.ID && t.Port == o.Port }

// Rule is all rules of the priority that lead to the table, one for each address of a rail.
type Rule struct {
	Table    int `json:"table"`
	Priority int `json:"priority"`
}

// Sysctl is a kernel setting in the pod's namespace.
type Sysctl struct {
	Path  string `json:"path"` // under /proc/sys
	Value string `json:"value"`
	// Old is what to restore, and nil where the setting goes with the interface.
	Old *string `json:"old,omitempty"`
}

// File is a file written for others.
type File struct {
	Path string `json:"path"`
	// Container is the attachment's, where the file says whose it is: one that says another's by now is left alone.
	Container string `json:"container,omitempty"`
}

// Decode reads the journal of the attachment id. Errors wrap ErrDamaged or ErrNewer.
func Decode(data []byte, id ID) (Journal, error) {
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return Journal{}, fmt.Errorf("%w of %s: %w", ErrDamaged, id, err)
	}
	if head.Version < 1 {
		return Journal{}, fmt.Errorf("%w of %s: no version in it", ErrDamaged, id)
	}
	if head.Version > Version {
		return Journal{}, fmt.Errorf("%w: %s has version %d, this program knows %d", ErrNewer, id, head.Version, Version)
	}
	var j Journal
	if err := json.Unmarshal(data, &j); err != nil {
		return Journal{}, fmt.Errorf("%w of %s: %w", ErrDamaged, id, err)
	}
	if j.ID() != id {
		return Journal{}, fmt.Errorf("%w of %s: it is that of %s", ErrDamaged, id, j.ID())
	}
	for i, s := range j.Steps {
		if s.Link == nil {
			continue
		}
		for _, r := range s.Link.Routes {
			if r == nil || r.Dst.IP == nil || r.Dst.Mask == nil {
				return Journal{}, fmt.Errorf("%w of %s: step %d has a route without a destination", ErrDamaged, id, i)
			}
		}
	}
	return j, nil
}

// Encode gives the bytes that Decode reads.
func Encode(j Journal) ([]byte, error) {
	j.Version = Version
	b, err := json.Marshal(j)
	if err != nil {
		return nil, fmt.Errorf("encode the journal of %s: %w", j.ID(), err)
	}
	return b, nil
}
