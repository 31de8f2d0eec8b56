// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package install

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	securejoin "github.com/cyphar/filepath-securejoin"
)

// DefaultFolder is where runtimes look whose configuration says nothing.
const DefaultFolder = "/opt/cni/bin"

// ErrAmbiguous: several runtimes run on the node, and take plugins from different folders.
var ErrAmbiguous = errors.New("several container runtimes run here, and take CNI plugins from different folders")

// Host is a node's file system, mounted at a folder. Symbolic links in it are followed as on the node.
type Host string

// Path is where a path of the node is here.
func (h Host) Path(p string) (string, error) { return securejoin.SecureJoin(string(h), p) }

func (h Host) read(p string) ([]byte, error) {
	here, err := h.Path(p)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(here)
}

func (h Host) exists(p string) bool {
	here, err := h.Path(p)
	if err != nil {
		return false
	}
	_, err = os.Stat(here)
	return err == nil
}

// runtime is a container runtime that a node may have: it runs if its socket is there.
type runtime struct {
	name, socket string
	configs      []string // later ones win
	folder       func(h Host, configs []string) (string, error)
}

// runtimes are those that are told apart. A distribution's own comes with a socket and a configuration of its own.
func runtimes() []runtime {
	return []runtime{
		{"containerd of k3s or RKE2", "/run/k3s/containerd/containerd.sock", []string{
			"/var/lib/rancher/k3s/agent/etc/containerd/config.toml", "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
		}, containerdFolder},
		{"containerd of k0s", "/run/k0s/containerd.sock", []string{"/etc/k0s/containerd.toml"}, containerdFolder},
		{"CRI-O", "/run/crio/crio.sock", []string{"/etc/crio/crio.conf"}, crioFolder},
		{"containerd", "/run/containerd/containerd.sock", []string{"/etc/containerd/config.toml"}, containerdFolder},
	}
}

// Found is a folder for plugins, as the node calls it, and why it is this one.
type Found struct{ Folder, Because string }

// Find says from which folder the runtime that runs on the node takes CNI plugins. A node on which none is known to run has the
// DefaultFolder.
func Find(h Host) (Found, error) {
	var found []Found
	for _, r := range runtimes() {
		if !h.exists(r.socket) {
			continue
		}
		folder, err := r.folder(h, r.configs)
		if err != nil {
			return Found{}, fmt.Errorf("read the configuration of %s: %w", r.name, err)
		}
		if folder == "" { // not used by Kubernetes
			continue
		}
		if !path.IsAbs(folder) {
			return Found{}, fmt.Errorf("the configuration of %s names %.100q as the folder of CNI plugins, which is no absolute path: say which it is with --dir", r.name, folder)
		}
		found = append(found, Found{path.Clean(folder), "the configuration of " + r.name + " says so"})
	}
	for _, f := range found {
		if f.Folder != found[0].Folder {
			return Found{}, fmt.Errorf("%w: %s (%s) and %s (%s); say which one it is with --dir",
				ErrAmbiguous, found[0].Folder, found[0].Because, f.Folder, f.Because)
		}
	}
	if len(found) > 0 {
		return found[0], nil
	}
	return Found{DefaultFolder, "no container runtime that is known runs here, and this is what most use"}, nil
}

// cniSection is what containerd's configuration says of plugins. Both spellings are in use; the list came with version 2.1.
type cniSection struct {
	BinDir  string   `toml:"bin_dir"`
	BinDirs []string `toml:"bin_dirs"`
}

// containerdConfig is the part of containerd's configuration that matters here, of its versions 1 to 3.
type containerdConfig struct {
	Disabled []string `toml:"disabled_plugins"`
	Imports  []string `toml:"imports"`
	Plugins  map[string]struct {
		CNI cniSection `toml:"cni"`
	} `toml:"plugins"`
}

// criPlugins are the names of the plugin that serves Kubernetes, by version of the configuration.
func criPlugins() []string {
	return []string{"cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"}
}

// containerdFolder is "" where containerd does not serve Kubernetes.
func containerdFolder(h Host, configs []string) (string, error) {
	folder := DefaultFolder
	read := map[string]bool{}
	for queue := slices.Clone(configs); len(queue) > 0; {
		file := queue[0]
		queue = queue[1:]
		if read[file] {
			continue
		}
		read[file] = true
		data, err := h.read(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the defaults count
		}
		if err != nil {
			return "", err
		}
		var c containerdConfig
		if err := toml.Unmarshal(data, &c); err != nil {
			return "", fmt.Errorf("%s: %w", file, err)
		}
		for _, name := range criPlugins() {
			if slices.Contains(c.Disabled, name) {
				return "", nil
			}
			switch s := c.Plugins[name].CNI; {
			case len(s.BinDirs) > 0:
				folder = s.BinDirs[0]
			case s.BinDir != "":
				folder = s.BinDir
			}
		}
		imported, err := h.glob(path.Dir(file), c.Imports)
		if err != nil {
			return "", err
		}
		queue = append(queue, imported...) // and wins
	}
	return folder, nil
}

// crioFolder reads CRI-O's file and those in the folder beside it, in their order.
func crioFolder(h Host, configs []string) (string, error) {
	folder := DefaultFolder
	for _, main := range configs {
		more, err := h.glob("/", []string{main + ".d/*"})
		if err != nil {
			return "", err
		}
		for _, file := range append([]string{main}, more...) {
			data, err := h.read(file)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return "", err
			}
			var c struct {
				CRIO struct {
					Network struct {
						PluginDirs []string `toml:"plugin_dirs"`
						PluginDir  string   `toml:"plugin_dir"`
					} `toml:"network"`
				} `toml:"crio"`
			}
			if err := toml.Unmarshal(data, &c); err != nil {
				return "", fmt.Errorf("%s: %w", file, err)
			}
			switch n := c.CRIO.Network; {
			case len(n.PluginDirs) > 0:
				folder = n.PluginDirs[0]
			case n.PluginDir != "":
				folder = n.PluginDir
			}
		}
	}
	return folder, nil
}

// glob gives the node's files that match patterns, which are relative to dir, in order.
func (h Host) glob(dir string, patterns []string) ([]string, error) {
	var files []string
	for _, p := range patterns {
		if !path.IsAbs(p) {
			p = path.Join(dir, p)
		}
		parent, base := path.Split(p)
		here, err := h.Path(parent)
		if err != nil {
			return nil, err
		}
		matches, err := filepath.Glob(filepath.Join(escape(here), base))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		for _, m := range matches {
			files = append(files, path.Join(parent, filepath.Base(m)))
		}
	}
	return files, nil
}

// escape has Glob take a path as it is.
func escape(p string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(p)
}
