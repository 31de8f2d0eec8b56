// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

// validate refuses what the schema of a block refuses, as far as a node's agent could ever send it. was is nil for a new
// object. Other kinds are people's, and come from the tests as they should be.
func validate(was, is client.Object) error {
	b, ok := is.(*v1alpha1.IPBlock)
	if !ok {
		return nil
	}
	var errs []*field.Error
	bad := func(path, format string, args ...any) {
		errs = append(errs, field.Invalid(field.NewPath(path), "", fmt.Sprintf(format, args...)))
	}
	if !strings.HasPrefix(b.Name, b.Spec.Pool+".") || b.Spec.Pool == "" {
		bad("metadata.name", "does not begin with %s.", b.Spec.Pool)
	}
	if b.Spec.PoolUID == "" || b.Spec.Slot == "" {
		bad("spec", "needs poolUID and slot")
	}
	if old, ok := was.(*v1alpha1.IPBlock); ok && (old.Spec.Pool != b.Spec.Pool || old.Spec.PoolUID != b.Spec.PoolUID || old.Spec.Slot != b.Spec.Slot) {
		bad("spec", "pool, poolUID and slot never change")
	}
	seen := map[[2]string]bool{}
	for i, s := range b.Spec.Shares {
		who := [2]string{s.Node, s.NodeUID}
		if s.Node == "" || s.NodeUID == "" || s.Session == "" || len(s.Ranges) == 0 {
			bad(fmt.Sprintf("spec.shares[%d]", i), "needs node, nodeUID, session and ranges")
		}
		if seen[who] {
			bad(fmt.Sprintf("spec.shares[%d]", i), "is a second one of the node")
		}
		seen[who] = true
	}
	leased := map[string]bool{}
	for i, l := range b.Status.Leases {
		if leased[l.Address] {
			bad(fmt.Sprintf("status.leases[%d]", i), "is a second one of the address")
		}
		leased[l.Address] = true
	}
	if len(errs) > 0 {
		return invalid(KeyOf(is), errs...)
	}
	return nil
}
