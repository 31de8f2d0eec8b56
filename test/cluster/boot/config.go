// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// The files that a machine's programs read.
const (
	containerdConfig = "/etc/containerd/config.toml"
	containerdSocket = "/run/containerd/containerd.sock"
	kubeletConfig    = "/etc/kubernetes/kubelet.yaml"
	resolvConf       = "/etc/kubernetes/resolv.conf"
	cniConfig        = "/etc/cni/net.d/10-default.conflist"
	cniBin           = "/opt/cni/bin"
)

var (
	//go:embed containerd.toml.tmpl
	containerdTemplate string
	//go:embed kubelet.yaml.tmpl
	kubeletTemplate string
	//go:embed cni.conflist.tmpl
	cniTemplate string
)

// configure writes the files. On a second boot it writes the same ones.
func (s Spec) configure(mayRaiseOOM bool) error {
	values := struct {
		Spec
		Socket, ResolvConf, ContainerSpec string
		RestrictOOM                       bool
	}{s, containerdSocket, resolvConf, containerSpec, !mayRaiseOOM}
	for path, text := range map[string]string{
		containerdConfig: containerdTemplate, kubeletConfig: kubeletTemplate, cniConfig: cniTemplate, resolvConf: "",
	} {
		tmpl, err := template.New(filepath.Base(path)).Parse(text)
		if err != nil {
			return err
		}
		var out strings.Builder
		if err := tmpl.Execute(&out, values); err != nil {
			return err
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(out.String()), 0o644)); err != nil {
			return err
		}
	}
	return s.linkCNI()
}

// linkCNI puts the reference plugins where the runtime looks for them.
func (s Spec) linkCNI() error {
	if err := os.MkdirAll(cniBin, 0o755); err != nil {
		return err
	}
	plugins, err := os.ReadDir(s.CNI)
	if err != nil {
		return err
	}
	for _, p := range plugins {
		err := os.Symlink(filepath.Join(s.CNI, p.Name()), filepath.Join(cniBin, p.Name()))
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// capSysResource is the capability's number; without it nobody may make the kernel's killer spare a process more than it is spared.
const capSysResource = 24

// mayRaiseOOM says whether this process may, from the text of /proc/self/status.
func mayRaiseOOM(status string) (bool, error) {
	for line := range strings.Lines(status) {
		hex, ok := strings.CutPrefix(line, "CapEff:")
		if !ok {
			continue
		}
		var caps uint64
		if _, err := fmt.Sscanf(strings.TrimSpace(hex), "%x", &caps); err != nil {
			return false, fmt.Errorf("capabilities %q: %w", hex, err)
		}
		return caps&(1<<capSysResource) != 0, nil
	}
	return false, errors.New("/proc/self/status does not list capabilities")
}
