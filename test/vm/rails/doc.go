// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package rails tests, on real kernels in virtual machines, what rails stand on and what no plain machine has: RDMA devices in network
// namespaces, and NICs with virtual functions. Its tests have the build tag vm and are run by make test-vm alone.
package rails
