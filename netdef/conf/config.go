// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"encoding/json"

	"github.com/containernetworking/cni/pkg/types"
)

const (
	// Type is the name of the plugin's binary.
	Type = "railyard"
	// IPAMType is the name of the IPAM binary. The railyard plugin serves it in process, without an exec.
	IPAMType = "railyard-ipam"
	// DefaultStateDir holds the node's state; it is on tmpfs, as the namespaces are that it describes.
	DefaultStateDir = "/run/railyard"
	// SocketName is the agent's socket in the state folder, StoreName the leases.
	SocketName = "agent.sock"
	StoreName  = "ipam.db"
	// IfNamePlaceholder stands for the attachment's interface in the keys of sysctl.
	IfNamePlaceholder = "IFNAME"
)

// The kinds of link.
const (
	// KindMacvlan, KindIPvlan and KindIPoIB make a link on a master, which stays on the host.
	KindMacvlan = "macvlan"
	KindIPvlan  = "ipvlan"
	KindIPoIB   = "ipoib"
	// KindHostDevice moves a link of the host into the pod: a physical function, a virtual one or a subfunction.
	KindHostDevice = "host-device"
	// KindSRIOV is KindHostDevice for a virtual function, which its physical function configures first.
	KindSRIOV = "sriov"
	// KindChained makes no link: it completes the interface that the plugin before made.
	KindChained = "chained"
)

// The modes of a macvlan, as ip-link(8) explains them.
const (
	ModeBridge   = "bridge"
	ModePrivate  = "private"
	ModeVEPA     = "vepa"
	ModePassthru = "passthru"
)

// The modes of an ipvlan.
const (
	ModeL2  = "l2"
	ModeL3  = "l3"
	ModeL3S = "l3s"
)

// The modes of an IPoIB link.
const (
	ModeDatagram  = "datagram"
	ModeConnected = "connected"
)

// What becomes of the RDMA device that belongs to the link.
const (
	// RDMAAuto: if there is one, the pod gets it.
	RDMAAuto = "auto"
	// RDMARequired: there must be one.
	RDMARequired = "required"
	// RDMAOff: nobody looks.
	RDMAOff = "off"
)

// The capabilities that the plugin understands: keys of Config.Capabilities, and of runtimeConfig.
const (
	CapabilityIPs            = "ips"
	CapabilityMAC            = "mac"
	CapabilityDeviceID       = "deviceID"
	CapabilityInfinibandGUID = "infinibandGUID"
	CapabilityDeviceInfoFile = "CNIDeviceInfoFile"
)

// Config is the config of one plugin as it is written. Zero fields are left out when it is rendered.
type Config struct {
	CNIVersion string `json:"cniVersion,omitempty"`
	// Name is the network's: with container ID and interface name it is the key of an attachment's lease.
	Name string `json:"name,omitempty"`
	Type string `json:"type"`

	// Kind is the kind of link; empty means macvlan.
	Kind string `json:"kind,omitempty"`
	// Master is the parent link on the host: its name, an alternative name, or the PCI address of the NIC. Empty
	// means the NIC of deviceID if that is a PCI address, or else the link of the default route.
	Master string `json:"master,omitempty"`
	// Mode is that of a macvlan, ipvlan or IPoIB link; empty means bridge, l2, or the master's.
	Mode string `json:"mode,omitempty"`
	// MTU in bytes, at most the master's; 0 means the master's, or the one that the moved device has.
	MTU int `json:"mtu,omitempty"`
	// MAC is the interface's address; empty: one derived from the attachment. runtimeConfig.mac and args.cni.mac
	// come first.
	MAC string `json:"mac,omitempty"`
	// BCQueueLen is the macvlan's queue of broadcasts, in packets; 0 means the kernel's default.
	BCQueueLen uint32 `json:"bcqueuelen,omitempty"`
	// DeviceID is the device that the kubelet gave the pod: a PCI address, or the name of an auxiliary device such as
	// mlx5_core.sf.4. Multus sets it, and PCIBusID to the same.
	DeviceID string `json:"deviceID,omitempty"`
	PCIBusID string `json:"pciBusID,omitempty"`
	// Device is what a host-device or sriov moves where no DeviceID says it: a link's name, an alternative name, a PCI
	// address or the name of an auxiliary device. HWAddr is the hardware address of such a link instead.
	Device string `json:"device,omitempty"`
	HWAddr string `json:"hwaddr,omitempty"`

	// What the physical function sets for an sriov's virtual one. Absent: it stays as it is. VLAN 0 is none; VLANQoS
	// is 0 to 7; VLANProto is 802.1Q or 802.1ad; the rates are in Mbit/s, 0 unlimited; SpoofChk and Trust are on or off;
	// LinkState is auto, enable or disable.
	VLAN      *int   `json:"vlan,omitempty"`
	VLANQoS   *int   `json:"vlanQoS,omitempty"`
	VLANProto string `json:"vlanProto,omitempty"`
	MinTxRate *int   `json:"min_tx_rate,omitempty"`
	MaxTxRate *int   `json:"max_tx_rate,omitempty"`
	SpoofChk  string `json:"spoofchk,omitempty"`
	Trust     string `json:"trust,omitempty"`
	LinkState string `json:"link_state,omitempty"`

	// PKey is the partition of an IPoIB link, e.g. 0x8001; empty: the master's.
	PKey string `json:"pkey,omitempty"`

	// RDMA is RDMAAuto (also if empty), RDMARequired or RDMAOff.
	RDMA string `json:"rdma,omitempty"`
	// RoCEToS is the type of service, 0 to 255, of what is sent over RoCE; absent: as the RDMA device has it.
	RoCEToS *int `json:"roceToS,omitempty"`

	// Rails make several interfaces in one call, one each. What a rail leaves out is as above.
	Rails []Rail `json:"rails,omitempty"`
	// LinkInContainer, of the reference plugins, says that Master is a link in the pod. It is refused where it is true.
	LinkInContainer bool `json:"linkInContainer,omitempty"`
	// Sysctl are kernel settings under net. in the pod's namespace, e.g. net.ipv4.conf.IFNAME.arp_ignore.
	Sysctl map[string]string `json:"sysctl,omitempty"`

	// IPAM is the address management's section: PoolIPAM for Railyard's own, any other plugin's as it wants it.
	// Without it the interface gets no address.
	IPAM json.RawMessage `json:"ipam,omitempty"`
	DNS  *types.DNS      `json:"dns,omitempty"`

	// StateDir holds the node's journals and leases; empty: DefaultStateDir. AgentSocket is the agent's; empty:
	// SocketName in StateDir.
	StateDir    string `json:"stateDir,omitempty"`
	AgentSocket string `json:"agentSocket,omitempty"`

	Capabilities  map[string]bool `json:"capabilities,omitempty"`
	RuntimeConfig *RuntimeConfig  `json:"runtimeConfig,omitempty"`
	Args          *Args           `json:"args,omitempty"`

	PrevResult       json.RawMessage `json:"prevResult,omitempty"`
	ValidAttachments json.RawMessage `json:"cni.dev/valid-attachments,omitempty"`
}

// Rail is one of several.
type Rail struct {
	// Interface is its name in the pod; empty: that of the call for the first rail, and that with -2, -3 and so on
	// for the others.
	Interface string `json:"interface,omitempty"`
	// Master and Device as in Config, whichever the kind takes.
	Master string `json:"master,omitempty"`
	Device string `json:"device,omitempty"`
	// Label stands for the NIC to which the node's list of labels gives it, and Auto for the first NIC of the node that is fit and no
	// other rail's. Both are instead of Master and Device.
	Label string `json:"label,omitempty"`
	Auto  bool   `json:"auto,omitempty"`
	MTU   int    `json:"mtu,omitempty"`
	// RoCEToS as in Config.
	RoCEToS *int `json:"roceToS,omitempty"`
	// Pool is the IPPool to lease from; empty: that of ipam.
	Pool string `json:"pool,omitempty"`
	// Table is the routing table of what leaves with the rail's addresses; 0: one from 1000 on
	// that is free in the pod.
	Table int `json:"table,omitempty"`
}

// RuntimeConfig is what the runtime or Multus adds for one attachment, as far as Capabilities asked for it.
type RuntimeConfig struct {
	// IPs are static addresses, with or without a prefix length.
	IPs      []string `json:"ips,omitempty"`
	MAC      string   `json:"mac,omitempty"`
	DeviceID string   `json:"deviceID,omitempty"`
	// InfinibandGUID is the GUID that a virtual function and its port get, e.g. 02:11:22:33:44:55:66:77.
	InfinibandGUID string `json:"infinibandGUID,omitempty"`
	// DeviceInfoFile is where to write the device information of the Network Plumbing Working Group's
	// device-info-spec 1.1.0.
	DeviceInfoFile string `json:"CNIDeviceInfoFile,omitempty"`
}

// Args is what a pod's annotation gives under cni-args.
type Args struct {
	CNI struct {
		IPs []string `json:"ips,omitempty"`
		MAC string   `json:"mac,omitempty"`
	} `json:"cni"`
}

// List is a config list: several plugins that run one after the other on one interface.
type List struct {
	CNIVersion string            `json:"cniVersion"`
	Name       string            `json:"name"`
	Plugins    []json.RawMessage `json:"plugins"`
}

// PoolIPAM is the ipam section of Railyard's own address management.
type PoolIPAM struct {
	Type string `json:"type"` // IPAMType
	// Pool is the IPPool to lease from.
	Pool string `json:"pool"`
	// StateDir and AgentSocket as in Config, for use behind another main plugin; empty: those of Config.
	StateDir    string `json:"stateDir,omitempty"`
	AgentSocket string `json:"agentSocket,omitempty"`
}

// FromPool is the ipam section that leases from the pool of that name.
func FromPool(pool string) json.RawMessage {
	b, err := json.Marshal(PoolIPAM{Type: IPAMType, Pool: pool})
	if err != nil {
		panic(err) // strings always marshal
	}
	return b
}

// The parts that most configs lack are written by methods: package json prepares itself, in every process anew, for all that a type can
// hold, also if it only reads, but not for what a method writes. A plugin's process is so short that this shows.

// MarshalJSON writes what package json would by itself.
func (r Rail) MarshalJSON() ([]byte, error) {
	type plain Rail
	return json.Marshal(plain(r))
}

// MarshalJSON writes what package json would by itself.
func (c RuntimeConfig) MarshalJSON() ([]byte, error) {
	type plain RuntimeConfig
	return json.Marshal(plain(c))
}

// MarshalJSON writes what package json would by itself.
func (a Args) MarshalJSON() ([]byte, error) {
	type plain Args
	return json.Marshal(plain(a))
}
