// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package image builds container images from programs that are there already, without a registry, a container engine or a network.
//
// An [Image] is one layer of files over nothing. The same files make the same image, whenever and wherever.
package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Image says what an image holds.
type Image struct {
	// Name is the whole name that pods use, with a tag.
	Name string
	// Programs are the paths on this machine of executable files, by their path in the image.
	Programs map[string]string
	// Linked brings the libraries of this machine that the programs are linked with.
	Linked bool
	// Texts are the contents of other files, by path, and Links the targets of symbolic links.
	Texts, Links map[string]string

	Entrypoint []string
	User       string // "" is root
}

// Write writes the image as an archive that "docker load" and "ctr images import" read.
func (i Image) Write(file string) error {
	if err := i.write(file); err != nil {
		return fmt.Errorf("make image %s: %w", i.Name, err)
	}
	return nil
}

func (i Image) write(file string) error {
	tag, err := name.NewTag(i.Name, name.StrictValidation)
	if err != nil {
		return err
	}
	layer, err := i.layer()
	if err != nil {
		return err
	}
	// Not compressed: who reads it is on this machine.
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer(layer, types.DockerUncompressedLayer))
	if err != nil {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config = v1.Config{
		Entrypoint: i.Entrypoint, User: i.User, WorkingDir: "/", Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return err
	}
	return tarball.WriteToFile(file, tag, img)
}

// layer is the image's files as a tar, in an order that does not change, folders first.
func (i Image) layer() ([]byte, error) {
	entries := map[string]tar.Header{"/tmp": {Typeflag: tar.TypeDir, Mode: 0o1777}}
	contents := map[string][]byte{}
	programs := maps.Clone(i.Programs)
	if i.Linked {
		if err := addLibraries(programs); err != nil {
			return nil, err
		}
	}
	for p, source := range programs {
		data, err := os.ReadFile(source)
		if err != nil {
			return nil, err
		}
		entries[p], contents[p] = tar.Header{Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(data))}, data
	}
	for p, text := range i.Texts {
		entries[p], contents[p] = tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}, []byte(text)
	}
	for p, target := range i.Links {
		entries[p] = tar.Header{Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: target}
	}
	for _, p := range slices.Collect(maps.Keys(entries)) {
		for dir := path.Dir(p); dir != "/"; dir = path.Dir(dir) {
			if _, there := entries[dir]; !there {
				entries[dir] = tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}
			}
		}
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, p := range slices.Sorted(maps.Keys(entries)) {
		header := entries[p]
		header.Name, header.ModTime = strings.TrimPrefix(p, "/"), time.Unix(0, 0)
		if err := w.WriteHeader(&header); err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		if _, err := w.Write(contents[p]); err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
