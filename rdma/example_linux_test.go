// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/railyard-net/railyard/rdma"
)

// give moves the device on a piece of hardware to a pod. What it returns is for the journal, which must have it before the move.
func give(ctx context.Context, bus rdma.BusAddr, pod *os.File, journal func(rdma.ID) error) error {
	h, err := rdma.Open()
	if err != nil {
		return err
	}
	defer h.Close()
	devices, err := rdma.DiscoverAt(os.DirFS("/sys"), bus)
	if len(devices) != 1 {
		return errors.Join(fmt.Errorf("%s has %d RDMA devices", bus, len(devices)), err)
	}
	id, err := h.Identify(devices[0])
	if err != nil {
		return err
	}
	if err := journal(id); err != nil {
		return err
	}
	return h.Move(ctx, id, int(pod.Fd()))
}

func ExampleHandle_Move() {
	// give (above) moves a device and has its ID in the journal first. To bring it back, Open a Handle inside the pod's namespace and
	// Move the ID from the journal to that of the host.
	err := give(context.Background(), "ffff:ff:1f.7", os.Stdin, func(rdma.ID) error { return nil })
	fmt.Println(err != nil)
	// Output: true
}
