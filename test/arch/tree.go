// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// Tree is the repository as the checks see it: text files by their slash-separated path, without what git does not keep and
// without testdata, where anything goes.
type Tree struct {
	Module string // path of the module at the root
	Files  map[string][]byte
	fset   *token.FileSet
	parsed map[string]*ast.File
}

// skipped are folders at the root that hold nothing of ours.
var skipped = []string{".git", "bin", "build"}

// Load reads the tree in fsys. Every Go file must parse.
func Load(fsys fs.FS) (*Tree, error) {
	t := &Tree{Files: map[string][]byte{}, fset: token.NewFileSet(), parsed: map[string]*ast.File{}}
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (slices.Contains(skipped, p) || d.Name() == "testdata"):
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		data, err := fs.ReadFile(fsys, p)
		if err != nil {
			return err
		}
		if bytes.IndexByte(data, 0) < 0 { // a picture is not judged
			t.Files[p] = data
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load the tree: %w", err)
	}
	for p, data := range t.Files {
		if !strings.HasSuffix(p, ".go") {
			continue
		}
		if t.parsed[p], err = parser.ParseFile(t.fset, p, data, parser.ParseComments|parser.SkipObjectResolution); err != nil {
			return nil, fmt.Errorf("load the tree: %w", err)
		}
	}
	for line := range strings.Lines(string(t.Files["go.mod"])) {
		if m, ok := strings.CutPrefix(line, "module "); ok {
			t.Module = strings.TrimSpace(m)
		}
	}
	if t.Module == "" {
		return nil, fmt.Errorf("load the tree: go.mod at its root names no module")
	}
	return t, nil
}

// paths are the files' names in order, with the given ending.
func (t *Tree) paths(ending string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(t.Files)), func(p string) bool { return !strings.HasSuffix(p, ending) })
}

// ours are the Go files of the root module, which the rules on code are about. The modules under test/tools only pin and link
// other people's programs.
func (t *Tree) ours() []string {
	return slices.DeleteFunc(t.paths(".go"), func(p string) bool {
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			if _, nested := t.Files[dir+"/go.mod"]; nested {
				return true
			}
		}
		return false
	})
}

// packages are the folders of ours with their files.
func (t *Tree) packages() map[string][]string {
	all := map[string][]string{}
	for _, p := range t.ours() {
		all[path.Dir(p)] = append(all[path.Dir(p)], p)
	}
	return all
}

func (t *Tree) line(n ast.Node) int { return t.fset.Position(n.Pos()).Line }

// within says that folder is dir or below it.
func within(folder, dir string) bool { return folder == dir || strings.HasPrefix(folder, dir+"/") }
