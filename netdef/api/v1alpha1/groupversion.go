// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion names the API group and version of this package's kinds.
var GroupVersion = schema.GroupVersion{Group: "railyard.dev", Version: "v1alpha1"}

// AddToScheme registers this package's kinds.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &MacvlanNetwork{}, &MacvlanNetworkList{}, &HostDeviceNetwork{}, &HostDeviceNetworkList{},
		&IPoIBNetwork{}, &IPoIBNetworkList{}, &RailNetwork{}, &RailNetworkList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
