// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package conf_test

import (
	"testing"

	"github.com/containernetworking/cni/pkg/utils"

	"github.com/railyard-net/railyard/netdef/conf"
)

var names = []string{
	"", "a", "Z9", "0", "-a", ".a", "_a", "a-b.c_d", "a/b", "a b", "a\n", "\n", "a\x00", "é", "a\u00a0b", "net1", "..", ".", "...", "a:b", "\xff", "a\xff",
	"123456789012345", "1234567890123456", "ééééééé", "éééééééé", "a\u2028b", "a@b", "a[", "a`", "a{",
}

// FuzzNames: the rules are the reference library's.
func FuzzNames(f *testing.F) {
	for _, s := range names {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := conf.IsName(s), utils.ValidateNetworkName(s) == nil; got != want || want != (utils.ValidateContainerID(s) == nil) {
			t.Errorf("IsName(%q) = %v", s, got)
		}
		if got, want := conf.IsInterface(s), utils.ValidateInterfaceName(s) == nil; got != want {
			t.Errorf("IsInterface(%q) = %v", s, got)
		}
	})
}
