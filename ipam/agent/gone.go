// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net/netip"

	"github.com/railyard-net/railyard/ipam"
)

// Namespaces is what an agent sees of its node's network namespaces.
type Namespaces interface {
	// Gone says that a namespace does not exist any more. Doubt is false.
	Gone(ipam.NetNS) bool
	// InUse are the addresses in all namespaces but the agent's own. It fails if it cannot know all of them.
	InUse(context.Context) ([]InUse, error)
}

// InUse is one address inside of a live network namespace.
type InUse struct {
	Addr   netip.Addr
	IfName string
	NetNS  ipam.NetNS
}

func inUseOf(n Namespaces) func(context.Context) ([]found, error) {
	return func(ctx context.Context) (out []found, err error) {
		list, err := n.InUse(ctx)
		for _, x := range list {
			out = append(out, found{x.Addr, x.IfName, x.NetNS})
		}
		return out, err
	}
}

// Gone says that a network namespace does not exist any more, by all that can be seen from this process. Doubt is false.
func (a *Agent) Gone(n ipam.NetNS) bool { return a.cfg.gone(n) }
