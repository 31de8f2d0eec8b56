// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package ipam_test

import (
	"strings"
	"testing"

	"github.com/railyard-net/railyard/ipam"
)

// TestHold: a hold is no node's, whatever a node is called, and says where its holder runs.
func TestHold(t *testing.T) {
	for _, node := range []string{"", "n1", "n1.example", strings.Repeat("n", 253)} {
		s := ipam.Hold("uid", node)
		got, held := s.Held()
		if !held || !strings.HasPrefix(node, got) || len(s.Node) > 253 || node != "" && got == "" {
			t.Errorf("%q: %q, %t", node, got, held)
		}
		if (ipam.Owner{Node: node, NodeUID: "uid", Session: "hold"}).Owns(s) {
			t.Errorf("node %q owns a hold", node)
		}
		if _, held := (ipam.Share{Node: node, NodeUID: "uid", Session: "s"}).Held(); held {
			t.Errorf("the share of node %q is a hold", node)
		}
	}
}
