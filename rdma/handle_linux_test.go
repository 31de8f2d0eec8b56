// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// kernel is a machine's RDMA as namespaces see it. It refuses what the real one does (ib_device_set_netns_put).
type kernel struct {
	modeErr, listErr error
	shared           bool
	devices          []*fakeDevice
}

type fakeDevice struct {
	ref           Ref
	ns            int
	busy          bool
	disassociates bool // the driver can take it from its users
	leaves        bool // it is unregistered as soon as one wants to move it
}

// namespace is one namespace of it, known by its file descriptor.
type namespace struct {
	*kernel
	fd int
}

func (n namespace) mode() (Mode, error) {
	if n.shared {
		return Shared, n.modeErr
	}
	return Exclusive, n.modeErr
}

func (n namespace) list() ([]Ref, error) {
	var refs []Ref
	for _, d := range n.devices {
		if n.shared || d.ns == n.fd {
			refs = append(refs, d.ref)
		}
	}
	return refs, n.listErr
}

func (n namespace) setNetNS(index uint32, target int) error {
	if target == n.fd {
		return nil
	}
	for i, d := range n.devices {
		switch {
		case d.ref.ID.Index != index || !n.shared && d.ns != n.fd:
			continue
		case !d.disassociates || n.shared:
			return unix.EOPNOTSUPP
		case d.leaves:
			n.devices = append(n.devices[:i:i], n.devices[i+1:]...)
			return unix.ENODEV
		case d.busy:
			return unix.EBUSY
		}
		d.ns = target
		return nil
	}
	return unix.EINVAL
}

func (namespace) close() error { return nil }

const homeFD, podFD = 10, 11

func fakeWorld(k *kernel) world {
	k.devices = append(k.devices, &fakeDevice{ref: Ref{ID{1, 7}, "mlx5_1"}, ns: homeFD})
	return world{
		home: &Handle{namespace{k, homeFD}}, pod: &Handle{namespace{k, podFD}}, homeNS: homeFD, podNS: podFD,
		id: k.devices[0].ref.ID,
	}
}

func one(d fakeDevice) *kernel {
	d.ref, d.ns = Ref{ID{0, 0x506b4b0300a1b2c3}, "mlx5_0"}, homeFD
	return &kernel{devices: []*fakeDevice{&d}}
}

func TestContract(t *testing.T) {
	shared := one(fakeDevice{disassociates: true})
	shared.shared = true
	for name, test := range map[string]struct {
		kernel *kernel
		moved  bool
	}{
		"exclusive":            {one(fakeDevice{disassociates: true}), true},
		"exclusive, rxe":       {one(fakeDevice{}), false},
		"shared":               {shared, false},
		"zero GUID of a VF":    {&kernel{devices: []*fakeDevice{{ref: Ref{ID{5, 0}, "mlx5_5"}, ns: homeFD, disassociates: true}}}, true},
		"index of another one": {&kernel{devices: []*fakeDevice{{ref: Ref{ID{2, 7}, "mlx5_9"}, ns: homeFD, disassociates: true}}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if moved := contract(t, fakeWorld(test.kernel)); moved != test.moved {
				t.Errorf("moved: %v, want %v", moved, test.moved)
			}
		})
	}
}

func TestMoveRefused(t *testing.T) {
	broken := errors.New("broken")
	modeless := one(fakeDevice{})
	modeless.modeErr = broken
	for name, test := range map[string]struct {
		kernel *kernel
		want   []error
		text   string
	}{
		"busy":        {one(fakeDevice{disassociates: true, busy: true}), []error{ErrBusy, unix.EBUSY}, "mlx5_0 (index 0, node GUID 506b:4b03:00a1:b2c3)"},
		"driver":      {one(fakeDevice{}), []error{ErrUnsupported, unix.EOPNOTSUPP}, "driver"},
		"no mode":     {modeless, []error{ErrUnsupported, broken}, "mode"},
		"unregisters": {one(fakeDevice{disassociates: true, leaves: true}), []error{ErrNotFound, unix.ENODEV}, "mlx5_0"},
	} {
		t.Run(name, func(t *testing.T) {
			w := fakeWorld(test.kernel)
			err := w.home.Move(t.Context(), w.id, w.podNS)
			for _, want := range test.want {
				if !errors.Is(err, want) {
					t.Errorf("got %v, which is no %v", err, want)
				}
			}
			if err != nil && !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v, want a word about %s", err, test.text)
			}
		})
	}
}

func TestKernelErrors(t *testing.T) {
	k := one(fakeDevice{})
	w := fakeWorld(k)
	k.modeErr, k.listErr = unix.EINVAL, unix.ENOBUFS
	if _, err := w.home.Mode(); !errors.Is(err, ErrUnsupported) {
		t.Errorf("got %v from a kernel without modes, want ErrUnsupported", err)
	}
	if _, err := w.home.ByID(w.id); !errors.Is(err, unix.ENOBUFS) || errors.Is(err, ErrNotFound) {
		t.Errorf("got %v: not to know is not to have found nothing", err)
	}
	if err := w.home.Move(t.Context(), w.id, w.podNS); !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("got %v", err)
	}
}
