// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!"), 0o600); err != nil {
		t.Fatal(err)
	}
	img := Image{
		Name: "example.com/some:1", Programs: map[string]string{"/usr/bin/p": program},
		Texts: map[string]string{"/etc/x": "y"}, Links: map[string]string{"/bin": "usr/bin"}, Entrypoint: []string{"/usr/bin/p"}, User: "1:2",
	}
	var written [2][]byte
	for i := range written {
		file := filepath.Join(dir, "image")
		if err := img.Write(file); err != nil {
			t.Fatal(err)
		}
		var err error
		if written[i], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(written[0], written[1]) {
		t.Error("the same files made two images")
	}
	tag, err := name.NewTag(img.Name)
	if err != nil {
		t.Fatal(err)
	}
	got, err := tarball.ImageFromPath(filepath.Join(dir, "image"), &tag)
	if err != nil {
		t.Fatal(err)
	}
	config, err := got.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.OS != "linux" || config.Config.User != "1:2" || len(config.Config.Entrypoint) != 1 {
		t.Errorf("config %+v", config)
	}
	layers, err := got.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != 1 || len(config.RootFS.DiffIDs) != 1 {
		t.Fatalf("%d layers and %d of their names, want one", len(layers), len(config.RootFS.DiffIDs))
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"bin 777 > usr/bin", "etc 755", "etc/x 644 y", "tmp 1777", "usr 755", "usr/bin 755", "usr/bin/p 755 #!"}
	if diff := cmp.Diff(want, list(t, content)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func list(t *testing.T, r io.Reader) []string {
	t.Helper()
	var files []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%s %o", h.Name, h.Mode)
		if h.Linkname != "" {
			line += " > " + h.Linkname
		}
		if len(text) > 0 {
			line += " " + string(text)
		}
		files = append(files, line)
	}
}

func TestMissingProgram(t *testing.T) {
	err := Railyard(t.TempDir(), "v1").Write(filepath.Join(t.TempDir(), "image"))
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), RailyardName) {
		t.Errorf("%v, want one that names the image and the missing file", err)
	}
}

// TestDockerfile: the two ways to an image of ours agree about what its users see.
func TestDockerfile(t *testing.T) {
	data, err := os.ReadFile("../../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	img := Railyard("bin", "v1")
	for p := range img.Programs {
		if dir := "COPY --from=build /out/bin/ " + path.Dir(p) + "/\n"; !strings.Contains(string(data), dir) {
			t.Errorf("the Dockerfile does not put %s there: it has no %q", p, dir)
		}
	}
	for _, want := range []string{"\nUSER " + img.User + "\n", strings.ReplaceAll(img.Texts["/etc/passwd"], "\n", `\n`)} {
		if !strings.Contains(string(data), want) {
			t.Errorf("the Dockerfile has no %q", want)
		}
	}
}
