// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package ipam

import "strings"

const (
	// holdPrefix begins the Node of a hold; it is no part of any node's name.
	holdPrefix = "held:"
	// HoldUnknown is the NodeUID of a hold whose holder nobody knows: only a person ends it.
	HoldUnknown = "unknown"
	// reservedSession is that of a hold for a reservation.
	reservedSession = "reservation"
	// maxHoldNode is how much of a node's name is kept; the API bounds it.
	maxHoldNode = 253 - len(holdPrefix)
)

// Hold is a share that no node owns: somebody who has addresses of the block from elsewhere, as a pod whose addresses an
// earlier address management gave, keeps them from every node until the holder is gone. The holder is known by its
// UID, and by the node that it runs on, which may be empty.
func Hold(holderUID, node string) Share {
	if len(node) > maxHoldNode {
		node = node[:maxHoldNode]
	}
	return Share{Node: holdPrefix + node, NodeUID: holderUID, Session: "hold"}
}

// Held says that the share is a Hold, and on which node its holder runs. What takes shares back whose node is gone
// must leave these alone.
func (s Share) Held() (node string, ok bool) { return strings.CutPrefix(s.Node, holdPrefix) }

// Reserved is a Hold for a reservation, which outlives pods: the node that may lease its addresses is said there.
func Reserved(id string) Share {
	return Share{Node: holdPrefix, NodeUID: id, Session: reservedSession}
}

// ReservedFor is the reservation's ID if the share is a hold for one.
func (s Share) ReservedFor() (id string, ok bool) {
	return s.NodeUID, s.Node == holdPrefix && s.Session == reservedSession
}
