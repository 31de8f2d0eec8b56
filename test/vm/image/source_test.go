// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUntar(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{
		"linux/Makefile", "linux/drivers/a/a.c", "linux/drivers/a/Makefile", "linux/drivers/a/sub/b.c", "linux/drivers/ab/a.c", "linux/../drivers/a/up.c",
		"linux/net/c.c",
	} {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(name)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	whole := bytes.Clone(b.Bytes())
	dir := t.TempDir()
	modules := []sourceModule{{name: "a", folder: "drivers/a"}, {name: "c", folder: "net"}}
	if err := untar(&b, dir, modules); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	tree := os.DirFS(dir)
	err := fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(tree, path)
		got[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"drivers/a/a.c": "linux/drivers/a/a.c", "drivers/a/Makefile": "linux/drivers/a/Makefile", "net/c.c": "linux/net/c.c"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("unpacked (-want +got):\n%s", diff)
	}
	if err := untar(bytes.NewReader(whole[:1300]), t.TempDir(), modules); err == nil {
		t.Error("an archive that ends early is no error")
	}
}
