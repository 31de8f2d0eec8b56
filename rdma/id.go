// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import "strconv"

// ID says which registration of a device with the kernel is meant, whatever its name and its namespace. It is good until the
// driver is unloaded, after which nothing is found by it, or the machine boots. It can be kept as JSON.
type ID struct {
	// Index is the kernel's, 0 among others. The kernel counts on to 2^31 before it gives one again.
	Index uint32 `json:"index"`
	// NodeGUID is compared too.
	NodeGUID GUID `json:"nodeGUID"`
}

func (i ID) String() string {
	return "index " + strconv.FormatUint(uint64(i.Index), 10) + ", node GUID " + i.NodeGUID.String()
}

// Ref is a device as a namespace shows it: an ID and its name at the time.
type Ref struct {
	ID   ID
	Name string
}

// Mode says how RDMA devices and network namespaces go together, for all devices of the machine.
type Mode int

// The modes. The zero Mode is none.
const (
	// Shared: every namespace sees every device; none can be moved. It is the kernel's default.
	Shared Mode = iota + 1
	// Exclusive: a device is seen in one namespace, and can be moved.
	Exclusive
)

func (m Mode) String() string {
	switch m {
	case Shared:
		return "shared"
	case Exclusive:
		return "exclusive"
	}
	return "unknown"
}
