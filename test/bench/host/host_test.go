// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestField(t *testing.T) {
	path := filepath.Join(t.TempDir(), "status")
	if err := os.WriteFile(path, []byte("VmHWM:\t   20 kB\nVmRSS:\t   1024 kB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := []string{Field(path, "VmRSS", ":"), Field(path, "Pss", ":"), Field(path+".none", "a", ":")}
	if diff := cmp.Diff([]string{"1024 kB", "unknown", "unknown"}, got); diff != "" {
		t.Errorf("Field (-want +got):\n%s", diff)
	}
}
