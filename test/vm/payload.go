// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/railyard-net/railyard/test/vm/image"
	"github.com/railyard-net/railyard/test/vm/plan"
)

const (
	module     = "github.com/railyard-net/railyard"
	pluginPath = plan.Dir + "/railyard"
)

// payload is what is built anew for every run: init, plugin and test binaries, in a folder of this machine.
type payload struct{ dir string }

// compile builds the programs. As everywhere in the VMs they are static.
func compile(ctx context.Context, dir string, packages []string) (payload, error) {
	build := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
		}
		return nil
	}
	p := payload{dir}
	small := []string{"-trimpath", "-ldflags=-s -w"}
	err := errors.Join(
		build(append(append([]string{"build", "-o", p.file("init")}, small...), "./test/vm/guest")...),
		build(append(append([]string{"build", "-tags=failpoint", "-o", p.file("railyard")}, small...), "./cmd/railyard")...),
	)
	for _, pkg := range packages {
		err = errors.Join(err, build(append(append([]string{"test", "-c", "-tags=vm", "-o", p.file(binary(pkg))}, small...), pkg)...))
	}
	return p, err
}

func (p payload) file(name string) string { return filepath.Join(p.dir, name) }

// remove removes files that a machine has read.
func (p payload) remove(names ...string) {
	for _, name := range names {
		_ = os.Remove(p.file(name))
	}
}

// binary names a package's test binary.
func binary(pkg string) string { return strings.ReplaceAll(path.Clean(pkg), "/", "-") + ".test" }

// plan is what the machine is to do. The guest's tests end themselves, with a trace, before the host ends the machine.
func (m machine) plan(o options) plan.Plan {
	p := plan.Plan{Modules: modules(), Env: m.env(), Shell: o.shell}
	for _, pkg := range m.packages {
		p.Tests = append(p.Tests, plan.Test{
			Package: pkg,
			Binary:  plan.Dir + "/" + binary(pkg),
			Dir:     path.Join(plan.Dir, "src", pkg),
			Args:    append([]string{fmt.Sprint("-test.timeout=", o.limit-30*time.Second), "-test.skip=" + m.skipPattern(pkg, o.skip)}, o.tests...),
		})
	}
	return p
}

// skipPattern is what go test -skip would be told.
func (m machine) skipPattern(pkg, asked string) string {
	var all []string
	for _, l := range m.skips(pkg) {
		all = append(all, "^"+l.test+"$")
	}
	if asked != "" {
		all = append(all, asked)
	}
	return strings.Join(all, "|")
}

// archive writes the part of the initramfs that differs from run to run.
func (p payload) archive(to string, do plan.Plan) (err error) {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	text, err := json.MarshalIndent(do, "", "  ")
	if err != nil {
		return err
	}
	a := image.NewArchive(f)
	a.Copy("init", p.file("init"))
	a.File(plan.File, 0o644, text)
	a.Copy(pluginPath, p.file("railyard"))
	for _, t := range do.Tests {
		a.Copy(t.Binary, p.file(filepath.Base(t.Binary)))
		a.Dir(t.Dir)
		if err := addTestdata(a, t); err != nil {
			return err
		}
	}
	return a.Close()
}

// addTestdata brings what go test would let the package read.
func addTestdata(a *image.Archive, t plan.Test) error {
	top := filepath.Join(t.Package, "testdata")
	err := filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(t.Package, name)
		a.Copy(path.Join(t.Dir, filepath.ToSlash(rel)), name)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
