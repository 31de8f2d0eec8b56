// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package controller keeps one NetworkAttachmentDefinition for each network resource, of whatever kind: the kinds differ in what is
// rendered, and in nothing that happens here. Two networks of one name and different kinds want the same place, and the first has it.
//
// One pass reads what there is (a view), decides on it without side effects (a plan) and does what was decided. Everything read
// comes from caches, and everything written carries the resource version or the UID of what was read, so that a stale view leads
// to a refused write and another pass, never to a wrong one. A pass may be repeated, and may die between any two of its steps.
//
// # Whose NetworkAttachmentDefinition is it
//
// One is a network's own if its annotation [render.OwnerAnnotation] names the network and the namespace in which it lies. All
// others are foreign: they are never written, whatever they are called; a network whose place is taken by one says Ready=False,
// reason Conflict, and proceeds when it is gone. In its own, a network writes spec.config, that annotation, those that it was rendered
// with (which [render.AlsoAnnotation] names, so that they go when they are rendered no more) and one label, and leaves everything else
// as it is.
//
// There is no ownerReference. The garbage collector would follow one on "kubectl delete --cascade=foreground" and remove a
// definition that pods still use; the finalizer on the network does the same work and waits.
//
// # What waits for pods
//
// A pod uses a definition if its annotations select it and it has not finished. While one does, a network that is being deleted
// keeps its definition, and a network that moved to another namespace keeps the one in the former. The condition InUse names some of
// these pods. A changed spec is rendered at once and holds for new pods; an event names the pods that run with the former one.
//
// # What is kept when things go wrong
//
// A spec that cannot be rendered leaves the definition of the last good one in place. A pool that is missing or not accepted is
// said in the condition; the definition is rendered all the same, as the pod's ADD will give the better answer at its time.
package controller
