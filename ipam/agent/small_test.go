// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

// The smallest pools give every address that they have, on any node, and no more.
func TestSmallPools(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		v4, v6 string
		want   []string
	}{
		"pairs":  {"10.0.0.0/31", "fd00:3::/127", []string{"10.0.0.0", "10.0.0.1", "fd00:3::", "fd00:3::1"}},
		"single": {"10.0.0.7/32", "fd00:3::7/128", []string{"10.0.0.7", "fd00:3::7"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
				s.IPv4 = &v1alpha1.Subnet{Subnet: tc.v4}
				s.IPv6 = &v1alpha1.Subnet{Subnet: tc.v6}
			})
			n := nodes(t, 2, agentOptions{})
			var got []string
			for i := range len(tc.want) / 2 {
				got = append(got, addrs(mustLease(t, n[i], request(pool, fmt.Sprint(i))))...)
			}
			if slices.Sort(got); !slices.Equal(got, tc.want) {
				t.Errorf("leased %v, want %v", got, tc.want)
			}
			if _, err := n[1].Lease(t.Context(), request(pool, "more")); !errors.Is(err, ipam.ErrPoolFull) {
				t.Errorf("one more: %v", err)
			}
			mustRelease(t, n[0], "0")
			mustLease(t, n[1], request(pool, "moved"))
			shared.check(t, pool, n...)
		})
	}
}
