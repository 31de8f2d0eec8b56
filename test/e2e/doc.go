// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package e2e holds tests on a whole cluster, which "make cluster" starts (command cluster, beside it): kubelets and containerds on
// machines that fail. They have the build tag e2e and run one after the other, as each may reboot what another one uses.
//
// A test has a namespace of its own, and all share one network and its pool. In the end of each, the leases of its namespace must be
// gone.
package e2e
