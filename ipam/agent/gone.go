// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import "github.com/railyard-net/railyard/ipam"

// Gone says that a network namespace does not exist any more, by all that can be seen from this process. Doubt is false.
func (a *Agent) Gone(n ipam.NetNS) bool { return a.cfg.gone(n) }
