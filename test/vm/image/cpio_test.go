// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// member is an entry as a reader finds it.
type member struct {
	Name string
	Mode int64
	Data string
}

// members reads an archive as Documentation/driver-api/early-userspace/buffer-format.rst says.
func members(t *testing.T, b []byte) []member {
	t.Helper()
	var out []member
	for len(b) > 0 {
		if len(b) < 110 || string(b[:6]) != "070701" {
			t.Fatalf("no header at %q", b[:min(len(b), 20)])
		}
		field := func(n int) int64 {
			v, err := strconv.ParseInt(string(b[6+8*n:14+8*n]), 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		size, named := field(6), field(11)
		begin := (110 + named + 3) &^ 3
		out = append(out, member{string(b[110 : 110+named-1]), field(1), string(b[begin : begin+size])})
		b = b[(begin+size+3)&^3:]
	}
	return out
}

func TestArchive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("of the machine"), 0o755); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	a := NewArchive(&b)
	a.File("/vm/deep/plan", 0o644, []byte("12345"))
	a.Dir("vm/deep")
	a.Copy("vm/run", file)
	a.Link("bin/sh", "dash")
	if !a.Has("/vm/run") || a.Has("vm/walk") {
		t.Error("Has does not know what was written")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	want := []member{
		{"vm", 0o040755, ""},
		{"vm/deep", 0o040755, ""},
		{"vm/deep/plan", 0o100644, "12345"},
		{"vm/run", 0o100755, "of the machine"},
		{"bin", 0o040755, ""},
		{"bin/sh", 0o120777, "dash"},
		{"TRAILER!!!", 0, ""},
	}
	if diff := cmp.Diff(want, members(t, b.Bytes())); diff != "" {
		t.Errorf("the archive (-want +got):\n%s", diff)
	}
}

func TestArchiveFails(t *testing.T) {
	a := NewArchive(&bytes.Buffer{})
	a.Copy("x", filepath.Join(t.TempDir(), "missing"))
	a.File("y", 0o644, nil)
	if err := a.Close(); !os.IsNotExist(err) {
		t.Errorf("Close gives %v, want the first error", err)
	}
}
