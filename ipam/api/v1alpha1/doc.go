// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 is the API of Railyard's addresses: the IPPool that a person writes and the IPBlocks that the
// nodes make of it. The schema refuses what one object alone can get wrong; what only several objects can
// (pools that overlap) the controller says in the pool's Accepted condition, and nodes lease from accepted pools
// only. IPReservations say who has addresses that outlive a pod.
//
// All kinds are cluster-scoped. Parse and Block turn the objects into the checked values of package ipam, which
// all other code works on.
//
// +kubebuilder:object:generate=true
// +groupName=ipam.railyard.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of the types here.
var GroupVersion = schema.GroupVersion{Group: "ipam.railyard.dev", Version: "v1alpha1"}

// AddToScheme makes s know the types here.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &IPPool{}, &IPPoolList{}, &IPBlock{}, &IPBlockList{}, &IPReservation{}, &IPReservationList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
