// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/railyard-net/railyard/test/cluster"
	"github.com/railyard-net/railyard/test/cluster/image"
)

// images are archives, and the name of the one that holds a pod's namespaces.
type images struct {
	archives []string
	sandbox  string
}

// writeImages builds what the manifests name, under the names that they say, and the image of the pods of tests.
func (w *world) writeImages(ctx context.Context) (images, error) {
	all := images{sandbox: image.PodImage}
	dir, err := w.dir("images")
	if err != nil {
		return all, err
	}
	names, err := w.imagesOf(ctx, multusManifests, railyardManifests, "manifests/samples")
	if err != nil {
		return all, err
	}
	build := []image.Image{image.Pod(w.o.pod, image.PodImage)}
	for _, name := range names {
		img, err := w.imageOf(name)
		if err != nil {
			return all, err
		}
		build = append(build, img)
	}
	for i, img := range build {
		file := filepath.Join(dir, fmt.Sprintf("%d.tar", i))
		if err := img.Write(file); err != nil {
			return all, err
		}
		all.archives = append(all.archives, file)
	}
	return all, nil
}

// imageOf says how to build the image of that name.
func (w *world) imageOf(name string) (image.Image, error) {
	repository, tag, _ := strings.Cut(name, ":")
	switch repository {
	case image.RailyardName:
		return image.Railyard(w.o.bin, tag), nil
	case image.MultusName:
		return image.Multus(string(w.api.Tools()), tag), nil
	case image.PauseName:
		return image.Pod(w.o.pod, name), nil
	default:
		return image.Image{}, fmt.Errorf("the manifests name the image %s, which nobody here builds: add it to test/cluster/image", name)
	}
}

var imageField = regexp.MustCompile(`(?m)^\s+(?:- )?image: (\S+)$`)

// imagesOf lists the images in what kustomize makes of the folders, each once.
func (w *world) imagesOf(ctx context.Context, folders ...string) ([]string, error) {
	root, err := cluster.ModuleRoot()
	if err != nil {
		return nil, err
	}
	var names []string
	seen := map[string]bool{}
	for _, folder := range folders {
		out, err := w.api.Kubectl(ctx, "kustomize", filepath.Join(root, folder)).Output()
		if err != nil {
			return nil, fmt.Errorf("kubectl kustomize %s: %w", folder, err)
		}
		for _, m := range imageField.FindAllStringSubmatch(string(out), -1) {
			if name := m[1]; !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	return names, nil
}

var newTag = regexp.MustCompile(`(?m)^    newTag: (\S+)$`)

// writeImage writes the image of our programs under the name that the manifests give it.
func writeImage(o options, file string) error {
	root, err := cluster.ModuleRoot()
	if err != nil {
		return err
	}
	path := filepath.Join(root, railyardManifests, "kustomization.yaml")
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	tag := newTag.FindSubmatch(data)
	if tag == nil {
		return fmt.Errorf("%s has no newTag", path)
	}
	return image.Railyard(o.bin, string(tag[1])).Write(file)
}
