// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

const root = "../.."

func TestRepository(t *testing.T) {
	tree, err := Load(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range Checks() {
		t.Run(c.Name, func(t *testing.T) {
			for _, p := range c.Run(tree) {
				t.Error(p)
			}
		})
	}
}

// TestLinked judges what the light packages link, through everything they import.
func TestLinked(t *testing.T) {
	for _, pkg := range Light() {
		t.Run(pkg, func(t *testing.T) {
			problems, err := Linked(t.Context(), root, pkg)
			if err != nil {
				t.Fatalf("%v\n(a package that has moved: change Light too)", err)
			}
			for _, p := range problems {
				t.Error(p)
			}
		})
	}
}

// TestChecksFail runs the checks on small trees. Each begins with "check NAME" and the problems that it must find there, and nothing else.
func TestChecksFail(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	proven := map[string]bool{}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			name, want, tree := parse(t, file)
			for _, c := range Checks() {
				var got strings.Builder
				for _, p := range c.Run(tree) {
					if p.Fix == "" {
						t.Errorf("no fix is given for %v", p)
					}
					p.Fix = ""
					fmt.Fprintln(&got, strings.TrimSuffix(p.String(), ". "))
				}
				wantHere := ""
				if c.Name == name {
					wantHere = want
					proven[name] = want != ""
				}
				if diff := cmp.Diff(wantHere, got.String()); diff != "" {
					t.Errorf("problems that %s finds (-want +got):\n%s", c.Name, diff)
				}
			}
		})
	}
	for _, c := range Checks() {
		if !proven[c.Name] {
			t.Errorf("no tree in testdata breaks %s: nobody knows whether it can fail", c.Name)
		}
	}
}

// parse reads a tree. What every tree needs and this one does not bring is put in.
func parse(t *testing.T, file string) (check, want string, tree *Tree) {
	t.Helper()
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	first, want, _ := strings.Cut(string(a.Comment), "\n")
	check, ok := strings.CutPrefix(first, "check ")
	if !ok {
		t.Fatalf("%s does not begin with the name of a check", file)
	}
	fsys := fstest.MapFS{"go.mod": {Data: []byte("module example.test/m\n")}}
	for _, f := range a.Files {
		data := f.Data
		if check != "licence" && strings.HasSuffix(f.Name, ".go") {
			data = append([]byte("// "+fmt.Sprintf(header, "//")+"\n"), data...)
		}
		fsys[f.Name] = &fstest.MapFile{Data: data}
	}
	tree, err = Load(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return check, want, tree
}

// TestLinkedFails gives Linked a module that reaches Kubernetes through somebody else's package, NVIDIA's library, and regexp.
func TestLinkedFails(t *testing.T) {
	a, err := txtar.ParseFile("testdata/linked/modules.txtar")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := txtar.Write(a, dir); err != nil {
		t.Fatal(err)
	}
	for pkg, want := range map[string][]string{
		"ipam":  {"links k8s.io/client (example.test/m/ipam > example.test/other > k8s.io/client)"},
		"words": {"links regexp (example.test/m/words > regexp)"},
		"gpus":  {"links github.com/NVIDIA/go-nvml/pkg/nvml (example.test/m/gpus > github.com/NVIDIA/go-nvml/pkg/nvml)"},
	} {
		problems, err := Linked(t.Context(), filepath.Join(dir, "ours"), pkg)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range problems {
			got = append(got, p.Text)
			if p.Fix == "" {
				t.Errorf("no fix is given for %v", p)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("problems of %s (-want +got):\n%s", pkg, diff)
		}
	}
	if problems, err := Linked(t.Context(), filepath.Join(dir, "ours"), "light"); err != nil || len(problems) > 0 {
		t.Errorf("light links nothing of the kind, got %v, %v", problems, err)
	}
	if _, err := Linked(t.Context(), filepath.Join(dir, "ours"), "gone"); err == nil {
		t.Error("no error for a package that is not there")
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, fsys := range map[string]fstest.MapFS{
		"no go.mod":       {"a.txt": {}},
		"go that is none": {"go.mod": {Data: []byte("module m\n")}, "a.go": {Data: []byte("pakage a")}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Load(fsys); err == nil {
				t.Error("no error")
			}
		})
	}
}

// TestMakefileHelp keeps every target that people may call in the list that make prints.
func TestMakefileHelp(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "make", "-s", "help")
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("make help: %v\n%s", err, out)
	}
	data, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if target, ok := strings.CutPrefix(line, ".PHONY: "); ok {
			if target = strings.TrimSpace(target); !strings.Contains(string(out), "\n  "+target+" ") {
				t.Errorf("make help does not list %s: give it a comment that begins with ##", target)
			}
		}
	}
}
