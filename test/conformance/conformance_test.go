// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const (
	root  = "../.."
	table = root + "/docs/dev/conformance.md"
)

// TestTableIsOfTheList fails when the list changed and the table was not written anew.
func TestTableIsOfTheList(t *testing.T) {
	text, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range Problems(string(text)) {
		t.Errorf("docs/dev/conformance.md: %s: write it anew from the events of a test run, as the package's documentation says", p)
	}
}

func TestIDs(t *testing.T) {
	for _, s := range Sections() {
		for i, c := range s.Cases {
			if want := fmt.Sprintf("%s%02d", s.Letter, i+1); c.ID != want {
				t.Errorf("case %s stands where %s should", c.ID, want)
			}
			if c.Text == "" || strings.ContainsAny(c.Text, "|\n") {
				t.Errorf("case %s: the text %q cannot stand in a table", c.ID, c.Text)
			}
		}
	}
}

// TestNamedTestsExist looks for them in the sources, so that one that was renamed is noticed before the next whole run.
func TestNamedTestsExist(t *testing.T) {
	known := map[string]*source{}
	for _, s := range Sections() {
		for _, c := range s.Cases {
			for _, test := range c.Tests {
				pkg, name := split(test)
				if known[pkg] == nil {
					known[pkg] = readSource(t, pkg)
				}
				if !known[pkg].has(name) {
					t.Errorf("case %s names %q, which %s does not have: it was renamed or removed, so change the list", c.ID, name, pkg)
				}
			}
		}
	}
}

// source is what a package's test files hold.
type source struct {
	funcs    map[string]bool
	literals map[string]bool // as t.Run would name a subtest
}

func readSource(t *testing.T, pkg string) *source {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	s := &source{funcs: map[string]bool{}, literals: map[string]bool{}}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				s.funcs[n.Name.Name] = true
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
					s.literals[strings.ReplaceAll(text, " ", "_")] = true
				}
			}
			return true
		})
	}
	return s
}

// has takes a subtest's name as known if it is a string in the sources, or begins with one that ends in an underscore, to which they
// add something. What comes after a * is not looked for.
func (s *source) has(name string) bool {
	name, rest, star := strings.Cut(name, "*")
	if star {
		name = strings.TrimRight(name, "/")
	}
	fn, sub, has := strings.Cut(name, "/")
	if !s.funcs[fn] {
		return false
	}
	if !has || star || rest != "" {
		return true
	}
	if s.literals[sub] {
		return true
	}
	for l := range s.literals {
		if len(l) > 1 && strings.HasSuffix(l, "_") && strings.HasPrefix(sub, l) {
			return true
		}
	}
	return false
}
