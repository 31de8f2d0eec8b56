// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"path"
	"slices"
	"strings"

	"tags.cncf.io/container-device-interface/specs-go"
)

// under takes a path of this process to one of the host.
func under(p, root, host string) string {
	if root == host || root == "" || root == "/" && host == "" {
		return p
	}
	if rest, ok := strings.CutPrefix(p, strings.TrimSuffix(root, "/")+"/"); ok {
		return path.Join("/", host, rest)
	}
	return p
}

// translate names files as the container runtime sees them, which may have the driver's root elsewhere than this process.
func translate(spec *Spec, root, host string) {
	if host == "" || host == root {
		return
	}
	edits := []*specs.ContainerEdits{&spec.ContainerEdits}
	for i := range spec.Devices {
		edits = append(edits, &spec.Devices[i].ContainerEdits)
	}
	for _, e := range edits {
		for _, m := range e.Mounts {
			m.HostPath = under(m.HostPath, root, host)
		}
		for _, d := range e.DeviceNodes {
			from := d.HostPath
			if from == "" {
				from = d.Path
			}
			if to := under(from, root, host); to != d.Path {
				d.HostPath = to
			} else {
				d.HostPath = ""
			}
		}
	}
}

// libraryPath says in a container where the driver's libraries are mounted.
func libraryPath(spec *Spec) {
	var dirs []string
	for _, m := range spec.ContainerEdits.Mounts {
		dir := path.Dir(m.ContainerPath)
		if strings.Contains(path.Base(m.ContainerPath), ".so.") && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	if len(dirs) > 0 {
		spec.ContainerEdits.Env = append(spec.ContainerEdits.Env, "LD_LIBRARY_PATH="+strings.Join(dirs, ":"))
	}
}
