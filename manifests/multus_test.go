// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"os"
	"regexp"
	"testing"
)

// TestMultusVersion: the Multus that is installed is the one that all tests ran with.
func TestMultusVersion(t *testing.T) {
	t.Parallel()
	version := func(path, pattern string) string {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(pattern).FindSubmatch(data)
		if m == nil {
			t.Fatalf("%s has no %s", path, pattern)
		}
		return string(m[1])
	}
	tested := version("../test/tools/cni/go.mod", `multus-cni\.v4 (v\S+)`)
	if installed := version("install/multus/kustomization.yaml", `newTag: (\S+)`); installed != tested {
		t.Errorf("manifests/install/multus installs %s, the tests run %s: change newTag", installed, tested)
	}
}
