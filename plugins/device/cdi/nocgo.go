//go:build !cgo

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cdi

import "github.com/railyard-net/railyard/rdma/gpu"

// NVIDIA says where NVIDIA's driver is.
type NVIDIA struct{ Root, HostRoot, DevRoot, Hook string }

// GPUs can't ask the driver in a program that was built without cgo.
func (n NVIDIA) GPUs() (*Spec, error) { return nil, gpu.ErrNotReady }
