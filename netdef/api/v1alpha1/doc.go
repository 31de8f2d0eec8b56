// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 holds the network resources of the API group railyard.dev: what a person writes to get a
// NetworkAttachmentDefinition that is correct by construction.
//
// The schema refuses what can be judged on one field or one object (enums, bounds, fields that exclude each other). What needs
// a parser, such as the JSON inside of ipam, is judged by the controller, which says so in the condition Ready.
//
// +kubebuilder:object:generate=true
// +groupName=railyard.dev
package v1alpha1
