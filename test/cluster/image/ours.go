// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package image

import "path/filepath"

// Names of images, without their tags.
const (
	RailyardName = "ghcr.io/railyard-net/railyard"
	MultusName   = "ghcr.io/k8snetworkplumbingwg/multus-cni"
	PauseName    = "registry.k8s.io/pause"
)

// PodImage is the name of an image for the pods of tests.
const PodImage = "railyard.test/pod:1"

// passwd lets programs find out who they are.
const passwd = "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n"

// Railyard is the image of our programs, from the folder that make build fills. The Dockerfile at the root makes one that is the
// same to its users.
func Railyard(bin, tag string) Image {
	programs := map[string]string{}
	for _, name := range []string{"railyard", "railyard-ipam", "railyard-agent", "railyard-controller", "railyard-device-plugin"} {
		programs["/usr/local/bin/"+name] = filepath.Join(bin, name)
	}
	return Image{
		Name: RailyardName + ":" + tag, Programs: programs, Linked: true,
		Texts: map[string]string{"/etc/passwd": passwd}, User: "65532:65532",
	}
}

// Multus is an image with what that of Multus's makers has at the same places, from the tools folder.
func Multus(tools, tag string) Image {
	const in = "/usr/src/multus-cni/bin/"
	extra := filepath.Join(tools, "multus-image")
	return Image{
		Name: MultusName + ":" + tag,
		Programs: map[string]string{
			in + "multus": filepath.Join(tools, "multus"), in + "passthru": filepath.Join(extra, "passthru"),
			"/install_multus": filepath.Join(extra, "install_multus"), "/thin_entrypoint": filepath.Join(extra, "thin_entrypoint"),
		},
		Texts: map[string]string{"/etc/passwd": passwd}, Entrypoint: []string{"/thin_entrypoint"},
	}
}

// Pod is an image of the program test/cluster/pod, which does for the pods of tests and for all that only waits.
func Pod(program, name string) Image {
	return Image{
		Name: name, Programs: map[string]string{"/pod": program},
		Texts: map[string]string{"/etc/passwd": passwd}, Entrypoint: []string{"/pod"},
	}
}
