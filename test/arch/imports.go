// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path"
	"strconv"
	"strings"
)

// layer says what the packages of a folder may not import.
type layer struct {
	folder string
	never  []string
	but    []string
	why    string
}

const apart = "ipam, netdef and rdma are libraries that can be used one without the other: let plugins/cni or a main bring them together, or move what both need into ipam/iprange"

// layers are the import rules of docs/design/0001-architecture.md.
func layers() []layer {
	return []layer{
		{"ipam", []string{"netdef", "rdma"}, nil, apart},
		{"netdef", []string{"ipam", "rdma"}, []string{"ipam/iprange"}, apart},
		{"rdma", []string{"ipam", "netdef"}, []string{"ipam/iprange"}, apart},
		{"ipam", []string{"plugins", "cmd"}, nil, "A library does not know the programs that use it: turn the dependency round"},
		{"netdef", []string{"plugins", "cmd"}, nil, "A library does not know the programs that use it: turn the dependency round"},
		{"rdma", []string{"plugins", "cmd"}, nil, "A library does not know the programs that use it: turn the dependency round"},
		{"plugins", []string{"cmd"}, nil, "Only main packages are in cmd: move what is shared into plugins"},
		{"ipam/iprange", []string{"ipam", "netdef", "rdma", "plugins"}, []string{"ipam/iprange"}, "iprange is arithmetic that everybody may use, so it uses nobody"},
	}
}

// checkLayers judges the imports between our own packages.
func checkLayers(t *Tree) []Problem {
	var problems []Problem
	for _, p := range t.ours() {
		folder := path.Dir(p)
		for _, spec := range t.parsed[p].Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				continue // the compiler says it better
			}
			imported, ours := strings.CutPrefix(imported, t.Module+"/")
			if !ours {
				continue
			}
			bad := func(why string) {
				problems = append(problems, Problem{p, t.line(spec), fmt.Sprintf("%s imports %s", folder, imported), why})
			}
			for _, l := range layers() {
				if within(folder, l.folder) && withinAny(imported, l.never) && !withinAny(imported, l.but) {
					bad(l.why)
				}
			}
			if within(imported, "test") && !within(folder, "test") && !strings.HasSuffix(p, "_test.go") {
				bad("What is under test/ must not get into a program: import it from _test.go files only")
			}
		}
	}
	return problems
}

func withinAny(folder string, dirs []string) bool {
	for _, d := range dirs {
		if within(folder, d) {
			return true
		}
	}
	return false
}

// Light are the packages whose programs start for every pod, and the public libraries under them. The Kubernetes client alone would make
// such a program ten times as large and several times as slow to start, and it would need a token.
func Light() []string {
	return []string{
		"cmd/railyard", "cmd/railyard-ipam",
		"plugins/cni", "plugins/ipam", "plugins/dispatch",
		"ipam", "ipam/compat", "ipam/iprange", "ipam/store", "ipam/wire", "ipam/client",
		"netdef/conf",
		"rdma", "rdma/topology",
	}
}

// Linked returns a problem for each package of Kubernetes, for the binding of NVIDIA's library and for regexp, that the given package (a folder
// in the module at root) links, directly or through whatever it imports, with the path that leads there.
func Linked(ctx context.Context, root, pkg string) ([]Problem, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-deps", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./"+pkg)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list what %s links: %w\n%s", pkg, err, &stderr)
	}
	var problems []Problem
	by := map[string]string{} // the first importer of a package
	var order []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		order = append(order, f[0])
		for _, imported := range f[1:] {
			if by[imported] == "" {
				by[imported] = f[0]
			}
		}
	}
	for _, dep := range order {
		fix := heavy(dep)
		if fix == "" || heavy(by[dep]) == fix { // only the one that opens the door
			continue
		}
		chain := dep
		for at := by[dep]; at != ""; at = by[at] {
			chain = at + " > " + chain
		}
		problems = append(problems, Problem{
			Path: pkg, Text: "links " + dep + " (" + chain + ")", Fix: fix,
		})
	}
	return problems, nil
}

// heavy says why a package is too much for a light one, and what to do; it is empty for the others.
func heavy(imported string) string {
	switch {
	case strings.HasPrefix(imported, "k8s.io/"), strings.HasPrefix(imported, "sigs.k8s.io/"):
		return "It runs for every pod and must stay small, quick and without a token: keep Kubernetes in ipam/claim, ipam/agent, ipam/controller and netdef/controller"
	case within(imported, "github.com/NVIDIA/go-nvml"):
		return "It runs for every pod, as a static program on nodes without a GPU too, and this needs cgo: keep GPUs in rdma/gpu, for programs that serve a node"
	case imported == "regexp":
		return "A plugin's process lives for milliseconds, and regexp with the tables of unicode takes a tenth of one before main: compare by hand, as netdef/conf does"
	}
	return ""
}
