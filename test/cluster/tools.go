// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Tools is the folder of programs that "make tools" builds.
type Tools string

// FindTools returns the tools folder: $RAILYARD_TOOLS, else what "make -s tools-dir" says at the module's root.
func FindTools() (Tools, error) {
	// The one place where this package looks at the environment: a test has no main that could hand it in.
	if dir := os.Getenv("RAILYARD_TOOLS"); dir != "" {
		return Tools(dir), nil
	}
	root, err := ModuleRoot()
	if err != nil {
		return "", err
	}
	cmd := exec.Command("make", "-s", "--no-print-directory", "tools-dir")
	cmd.Dir = root
	// A make above us would pass its flags and job server on.
	cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find the tools folder: make -s tools-dir in %s: %w\n%s", root, err, stderr.String())
	}
	return Tools(strings.TrimSpace(string(out))), nil
}

// ToolsDir is FindTools as a plain string.
func ToolsDir() (string, error) {
	t, err := FindTools()
	return string(t), err
}

// Path returns the program of that name ("kube", "multus", "cni/macvlan"), or an error that says how to get it.
func (t Tools) Path(name string) (string, error) {
	p := filepath.Join(string(t), name)
	if st, err := os.Stat(p); err != nil || st.IsDir() || st.Mode()&0o111 == 0 {
		return "", fmt.Errorf("tool %s is not at %s: run \"make tools\" (or set RAILYARD_TOOLS)", name, p)
	}
	return p, nil
}

// ModuleRoot returns the folder with go.mod, at or above the working directory, where "go test" and the Makefile start programs.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod at or above the working directory")
		}
		dir = up
	}
}
