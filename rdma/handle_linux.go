// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Handle asks the kernel about the RDMA devices of one network namespace. It may be used by several goroutines at once, from any
// thread, until it is closed.
type Handle struct {
	nl nldev
}

// nldev is what RDMA netlink does in one namespace (drivers/infiniband/core/nldev.c). Errors are the kernel's.
type nldev interface {
	mode() (Mode, error)
	list() ([]Ref, error)
	// setNetNS moves the device with this index, which must be in the namespace, to the one behind the file descriptor. If
	// that is the same, it does nothing.
	setNetNS(index uint32, target int) error
	close() error
}

// Open opens a Handle for the network namespace of the calling thread: a goroutine in another namespace than its process is
// locked to its thread (runtime.LockOSThread). The caller closes it. It is an ErrNoRDMA if the kernel has no RDMA.
func Open() (*Handle, error) {
	s, err := openSocket()
	if err != nil {
		return nil, fmt.Errorf("open RDMA netlink: %w", err)
	}
	return &Handle{nl: s}, nil
}

// Close frees the Handle.
func (h *Handle) Close() error { return h.nl.close() }

// Mode returns the mode of the machine. A kernel before 5.3 has no modes, which is an ErrUnsupported; it behaves as in Shared.
func (h *Handle) Mode() (Mode, error) {
	m, err := h.nl.mode()
	switch {
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP):
		return 0, fmt.Errorf("get the rdma system netns mode: %w: %w", ErrUnsupported, err)
	case err != nil:
		return 0, fmt.Errorf("get the rdma system netns mode: %w", err)
	}
	return m, nil
}

// List returns the devices that the namespace sees, by index.
func (h *Handle) List() ([]Ref, error) {
	refs, err := h.nl.list()
	if err != nil {
		return nil, fmt.Errorf("list RDMA devices: %w", err)
	}
	return refs, nil
}

// ByID finds a device again, for the name that it has now. It is an ErrNotFound if the namespace does not see it.
func (h *Handle) ByID(id ID) (Ref, error) {
	return h.find(func(r Ref) bool { return r.ID == id }, id.String())
}

// ByName finds a device by the name that it has now. It is an ErrNotFound if the namespace sees none.
func (h *Handle) ByName(name string) (Ref, error) {
	return h.find(func(r Ref) bool { return r.Name == name }, name)
}

// Identify returns the ID of a device that Discover has just found in a sysfs of the same namespace. It is an ErrNotFound if
// that is gone or its name another's since: discover again.
func (h *Handle) Identify(d Device) (ID, error) {
	is := func(r Ref) bool { return r.Name == d.Name && r.ID.NodeGUID == d.NodeGUID }
	r, err := h.find(is, d.Name+", node GUID "+d.NodeGUID.String())
	return r.ID, err
}

func (h *Handle) find(is func(Ref) bool, what string) (Ref, error) {
	refs, err := h.List()
	if err != nil {
		return Ref{}, err
	}
	for _, r := range refs {
		if is(r) {
			return r, nil
		}
	}
	return Ref{}, fmt.Errorf("rdma device (%s): %w in this network namespace", what, ErrNotFound)
}

// Move moves a device from the namespace of the Handle to the one behind the file descriptor. It needs CAP_NET_ADMIN in both
// and CAP_SYS_ADMIN. Once begun it can't be cancelled, and lasts until the kernel's users of the device have let go of it.
//
// Programs that have the device open lose it; most drivers allow that, and it is an ErrUnsupported with those that don't, as it
// is in Shared mode: the message says which. It is an ErrBusy if the kernel says so, and an ErrNotFound if the device is not in
// this namespace, maybe because it was moved already.
//
// The network interfaces of an InfiniBand device are removed and made anew where it arrives: move it before them. So are its
// character devices: call CharDevsOf again.
func (h *Handle) Move(ctx context.Context, id ID, target int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r, err := h.ByID(id)
	if err != nil {
		return err
	}
	if err := h.nl.setNetNS(id.Index, target); err != nil {
		return fmt.Errorf("move rdma device %s (%s) to another network namespace: %w", r.Name, id, h.refusal(id, err))
	}
	return nil
}

// refusal says what the kernel means by an error of a move (nldev_set_doit, ib_device_set_netns_put).
func (h *Handle) refusal(id ID, err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: %w", ErrBusy, err)
	case errors.Is(err, unix.EOPNOTSUPP):
		why := "the driver can't take the device from those who have it open"
		mode, modeErr := h.Mode()
		switch {
		case modeErr != nil:
			return errors.Join(fmt.Errorf("%w: %w", ErrUnsupported, err), modeErr)
		case mode == Shared:
			why = "rdma system netns mode is shared"
		}
		return fmt.Errorf("%w: %s: %w", ErrUnsupported, why, err)
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV):
		// EINVAL: no device of that index. ENODEV: it went while the call waited.
		if _, found := h.ByID(id); errors.Is(found, ErrNotFound) {
			return fmt.Errorf("%w: %w", found, err)
		}
	}
	return err
}
