// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package install

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// node makes a node's file system of files; an empty text is a socket, "-> " begins the target of a link.
func node(t *testing.T, files map[string]string) Host {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, link := strings.CutPrefix(text, "-> "); link {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return Host(root)
}

const (
	containerdSocket = "/run/containerd/containerd.sock"
	crioSocket       = "/run/crio/crio.sock"
	k3sSocket        = "/run/k3s/containerd/containerd.sock"
)

func TestFind(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		files map[string]string
		want  string
	}{
		"no runtime":            {nil, "/opt/cni/bin"},
		"containerd's defaults": {map[string]string{containerdSocket: ""}, "/opt/cni/bin"},
		"containerd 1": {map[string]string{containerdSocket: "", "/etc/containerd/config.toml": `
version = 2
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/srv/kubernetes/bin"
  conf_dir = "/etc/cni/net.d"
`}, "/srv/kubernetes/bin"}, // GKE has such a one
		"containerd 2": {map[string]string{containerdSocket: "", "/etc/containerd/config.toml": `
version = 3
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['/usr/lib/cni', '/opt/cni/bin']
`}, "/usr/lib/cni"},
		"containerd, imported": {map[string]string{
			containerdSocket: "", "/etc/containerd/config.toml": "version = 3\nimports = ['conf.d/*.toml']\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dir = '/a'\n",
			"/etc/containerd/conf.d/10.toml": "version = 3\nimports = ['/etc/containerd/config.toml']\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dir = '/b'\n",
			"/etc/containerd/conf.d/20.toml": "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dir = '/c'\n",
		}, "/c"},
		"k3s": {map[string]string{k3sSocket: "", "/var/lib/rancher/k3s/agent/etc/containerd/config.toml": `
version = 3
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['/var/lib/rancher/k3s/data/cni']
`}, "/var/lib/rancher/k3s/data/cni"},
		"k3s beside Docker": {map[string]string{
			k3sSocket: "", containerdSocket: "", "/etc/containerd/config.toml": `disabled_plugins = ["cri"]`,
			"/var/lib/rancher/k3s/agent/etc/containerd/config.toml": "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/var/lib/rancher/k3s/data/current/bin\"\n",
		}, "/var/lib/rancher/k3s/data/current/bin"},
		"RKE2": {map[string]string{
			k3sSocket: "", "/var/lib/rancher/rke2/agent/etc/containerd/config.toml": "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/opt/cni/bin\"\n",
		}, "/opt/cni/bin"},
		"OpenShift": {map[string]string{
			crioSocket: "", "/etc/crio/crio.conf": "[crio.network]\nplugin_dirs = [\"/opt/cni/bin\"]\n",
			"/etc/crio/crio.conf.d/00-default": "[crio.network]\nnetwork_dir = \"/etc/kubernetes/cni/net.d/\"\nplugin_dirs = [\"/var/lib/cni/bin\", \"/usr/libexec/cni\"]\n",
		}, "/var/lib/cni/bin"},
		"CRI-O, old spelling": {map[string]string{crioSocket: "", "/etc/crio/crio.conf": "[crio.network]\nplugin_dir = \"/usr/libexec/cni/\"\n"}, "/usr/libexec/cni"},
		"two that agree":      {map[string]string{crioSocket: "", containerdSocket: ""}, "/opt/cni/bin"},
		"a link's target is the node's": {map[string]string{
			containerdSocket: "", "/etc/containerd/config.toml": "-> /nix/store/config.toml", "/nix/store/config.toml": "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/nix/bin\"\n",
		}, "/nix/bin"},
	} {
		got, err := Find(node(t, tc.files))
		if err != nil || got.Folder != tc.want || got.Because == "" {
			t.Errorf("%s: %+v, %v; want %s", name, got, err, tc.want)
		}
	}
}

func TestFindRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		files map[string]string
		want  []string
		is    error
	}{
		"two that differ": {map[string]string{crioSocket: "", "/etc/crio/crio.conf": "[crio.network]\nplugin_dirs = [\"/a\"]\n", containerdSocket: ""},
			[]string{"/a", "/opt/cni/bin", "--dir", "CRI-O"}, ErrAmbiguous},
		"no TOML":     {map[string]string{containerdSocket: "", "/etc/containerd/config.toml": "<xml>"}, []string{"/etc/containerd/config.toml", "containerd"}, nil},
		"not a path":  {map[string]string{containerdSocket: "", "/etc/containerd/config.toml": "[plugins.cri.cni]\nbin_dir = \"${SNAP_DATA}/opt/cni/bin\"\n"}, []string{"SNAP_DATA", "--dir"}, nil},
		"wrong types": {map[string]string{crioSocket: "", "/etc/crio/crio.conf": "[crio.network]\nplugin_dirs = 7\n"}, []string{"crio.conf"}, nil},
	} {
		_, err := Find(node(t, tc.files))
		if err == nil || tc.is != nil && !errors.Is(err, tc.is) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, want := range tc.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q in it", name, err, want)
			}
		}
	}
}

// FuzzFind: whatever a node's configuration says, there is an absolute folder or an error.
func FuzzFind(f *testing.F) {
	f.Add("version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/srv/kubernetes/bin\"\n", "[crio.network]\nplugin_dirs = [\"/opt/cni/bin\"]\n")
	f.Add("imports = ['*', '[', '../../..']\n", "crio = 1")
	f.Fuzz(func(t *testing.T, containerd, crio string) {
		got, err := Find(node(t, map[string]string{
			containerdSocket: "", crioSocket: "", "/etc/containerd/config.toml": " " + containerd, "/etc/crio/crio.conf": " " + crio,
		}))
		if (err == nil) != filepath.IsAbs(got.Folder) {
			t.Errorf("%+v, %v", got, err)
		}
	})
}
