// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package rdma finds the RDMA devices of a machine, says what they are made of, and moves them between network
// namespaces. It is a library: the CNI plugin uses it for each pod, a device plugin, a DRA driver or a diagnosis may.
//
// # Two sources
//
// What a device is, sysfs says: its bus address, ports, interfaces, GIDs and character devices. Every function on it
// takes an [fs.FS] rooted at /sys that can read links, such as os.DirFS("/sys"). Where a device is, RDMA netlink says:
// a [Handle] speaks for the namespace that it was opened in. The two meet in a device's name, which is good for that
// one moment:
//
//	sysfs    Discover ─▶ Device{Bus, NodeGUID, Name}      Bus is what configurations and schedulers know
//	                          │ Handle.Identify: the name, checked by the GUID
//	netlink                   ▼
//	                     ID{Index, NodeGUID}              good until the device is unregistered: what journals keep
//
// # Identity
//
// A name is never a key. mlx5_0 and mlx5_1 may have changed places since the last look, udev renames, and a namespace
// may hand a device back under another name. [Device.Bus] says which piece of hardware it is; several devices, or none,
// may be on one piece. [ID] says which registration with the kernel it is: the index is not given twice in one boot. An
// ID says nothing after the next boot, which whoever keeps it must see to; the GUID is compared to notice most mistakes of
// that kind. It does not do alone: a virtual function's may be zero.
//
// # Namespaces
//
// The kernel has two modes for all devices together, [Shared] and [Exclusive]. In shared mode every namespace sees every
// device and nothing can be moved. In exclusive mode a device is in one namespace:
//
//	host ──Move by a Handle of the host──▶ pod ──Move by a Handle of the pod──▶ host
//	                                        └── the namespace dies ──▶ host, done by the kernel
//
// A Handle sees only what is in its namespace, so it takes a Handle opened inside the pod to bring a device back.
// sysfs shows in class/infiniband the devices of the namespace in which it was mounted: a device that was moved away is
// no longer found by [Discover] on the host's, while its character devices still are by [CharDevsOf]. A move resets them: their
// numbers must be read after it.
//
// # Guarantees
//
//  1. Nothing is cached and no call changes anything, but for Move, [SetDefaultRoCEToS] and [SetTrafficClass].
//  2. Order is the same for the same state of the machine.
//  3. An error names the file or the device. What could be read is returned beside the errors of what could not.
//  4. A machine without RDMA has no devices, which is no error; [Open] says [ErrNoRDMA].
//  5. A call that changes something may be repeated. Moving a device to where the Handle is does nothing; one that is
//     no longer there is an [ErrNotFound], and whoever repeats a move looks at the other end then.
package rdma

import "errors"

// The errors that can be asked for with errors.Is. Each comes wrapped in one that says what failed on what.
var (
	// ErrNoRDMA: the kernel has no RDMA subsystem, or its module ib_core is not loaded.
	ErrNoRDMA = errors.New("the kernel has no RDMA")
	// ErrNotFound: no such device, port, function or GID here, or not any more.
	ErrNotFound = errors.New("not found")
	// ErrBusy: the kernel says that the device is in use (EBUSY).
	ErrBusy = errors.New("busy")
	// ErrUnsupported: the kernel, its mode or the driver can't do this. Trying again does not help.
	ErrUnsupported = errors.New("not supported")
	// ErrNotMounted: the file system that has the setting is not mounted. It comes with an ErrUnsupported.
	ErrNotMounted = errors.New("configfs is not mounted")
)
