// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package suite pins what the peers' suites import. Their files come from the module cache at run time, so that without
// this nothing here would need it, and "go mod tidy" would drop it.
package suite

import (
	_ "github.com/containernetworking/cni/pkg/skel"
	_ "github.com/containernetworking/plugins/pkg/netlinksafe"
	_ "github.com/containernetworking/plugins/pkg/testutils"
	_ "github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"
	_ "github.com/onsi/ginkgo/v2"
	_ "github.com/onsi/gomega"
	_ "github.com/vishvananda/netlink"
)
