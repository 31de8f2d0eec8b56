// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package module holds the sources of the kernel module ryfab, which makes RDMA devices that belong to hardware: InfiniBand adapters with
// virtual functions, RoCE devices of NICs, subfunctions. Nothing travels on them. ryfab/ryfab.h says how tests get each; the image of
// the virtual machines has it built for each kernel. It is under the kernel's licence.
package module

import "embed"

// Dir is the folder in [Sources].
const Dir = Name

// Name is the module's.
const Name = "ryfab"

// Sources are what kbuild makes the module of.
//
//go:embed ryfab
var Sources embed.FS
