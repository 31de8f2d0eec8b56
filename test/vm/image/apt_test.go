// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDependencies(t *testing.T) {
	tests := map[string]struct {
		show    string
		pattern *regexp.Regexp
		want    []string
	}{
		"a kernel in parts": {
			"Depends: linux-base-7.3.4+deb13-amd64 (= 7.3.4-1), linux-modules-7.3.4+deb13-amd64 (= 7.3.4-1), kmod, initramfs-tools (>= 0.120)\n",
			kernelPackage, []string{"linux-base-7.3.4+deb13-amd64=7.3.4-1", "linux-modules-7.3.4+deb13-amd64=7.3.4-1"},
		},
		"headers, with a kernel beside them": {
			"Depends: linux-base (>= 4.12~), linux-headers-6.12.95+deb12-common (= 6.12.95-1), linux-image-6.12.95+deb12-amd64 (= 6.12.95-1) | " +
				"linux-image-6.12.95+deb12-amd64-unsigned (= 6.12.95-1), linux-kbuild-6.12.95+deb12, gcc-12\n",
			headerPackage, []string{"linux-headers-6.12.95+deb12-common=6.12.95-1", "linux-kbuild-6.12.95+deb12"},
		},
		"only what it depends on": {"Recommends: linux-headers-6.12.95+deb12-common (= 6.12.95-1)\nDepends: gcc-12\n", headerPackage, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, dependencies(tt.show, tt.pattern)); diff != "" {
				t.Errorf("dependencies (-want +got):\n%s", diff)
			}
		})
	}
}
