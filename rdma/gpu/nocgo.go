//go:build !cgo

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package gpu

import (
	"context"

	"github.com/railyard-net/railyard/rdma"
)

// List can't load a library in a program that was built without cgo.
func List(root string) (Inventory, error) { return Inventory{}, nil }

// Watch has nothing to watch.
func Watch(context.Context, string, func(Event)) error { return ErrNotReady }

// Linked says whether the program was built with cgo.
const Linked = false

// CanWatch has nothing to ask.
func CanWatch(context.Context, string) error { return ErrNotReady }

// ExportDMABuf has no library to ask.
func ExportDMABuf(string, rdma.BusAddr, int) (DMABuf, error) { return DMABuf{}, ErrNotReady }
