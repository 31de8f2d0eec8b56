// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"fmt"
	"go/ast"
	"path"
	"slices"
	"strings"
)

const header = "Copyright The Railyard Authors\n%s SPDX-License-Identifier: Apache-2.0\n"

// checkLicence judges the first lines of every source file. A script's come after its interpreter, a generated file's after its
// build constraint.
func checkLicence(t *Tree) []Problem {
	var problems []Problem
	for _, p := range t.paths("") {
		comment := "#"
		switch {
		case strings.HasSuffix(p, ".go"):
			comment = "//"
		case strings.HasSuffix(p, ".sh"), path.Base(p) == "Makefile", p == ".ci/run":
		default:
			continue
		}
		text := string(t.Files[p])
		for strings.HasPrefix(text, "#!") || strings.HasPrefix(text, "//go:build ") || strings.HasPrefix(text, "\n") {
			_, text, _ = strings.Cut(text, "\n")
		}
		if want := comment + " " + fmt.Sprintf(header, comment); !strings.HasPrefix(text, want) {
			problems = append(problems, Problem{
				Path: p, Line: 1, Text: "does not begin with the licence",
				Fix: fmt.Sprintf("Whoever takes one file must know what they may do with it: begin with %q", want),
			})
		}
	}
	return problems
}

// checkPackageDoc judges that every package says what it is for, in one place.
func checkPackageDoc(t *Tree) []Problem {
	var problems []Problem
	for dir, files := range t.packages() {
		var name string
		var documented []string
		for _, p := range files {
			f := t.parsed[p]
			name = strings.TrimSuffix(f.Name.Name, "_test")
			if f.Doc == nil {
				continue
			}
			if want := opening(dir, name, f.Doc.Text()); want != "" {
				problems = append(problems, Problem{p, t.line(f.Doc), fmt.Sprintf("the package documentation does not begin with %q", want), "go doc shows its first sentence in lists: begin as Go does"})
			}
			documented = append(documented, p)
		}
		switch len(documented) {
		case 1:
		case 0:
			problems = append(problems, Problem{Path: dir, Text: "no package documentation", Fix: "Say above the package clause of one file what the package is for, and what it promises"})
		default:
			problems = append(problems, Problem{Path: dir, Text: "package documentation in " + strings.Join(documented, " and "), Fix: "go doc strings them together: keep it in one file"})
		}
	}
	return sorted(problems)
}

// opening says how the documentation should begin, or "" if it does. A program's may begin with its name too, as "Gofmt formats".
func opening(dir, name, text string) string {
	words := strings.Fields(text)
	switch {
	case len(words) < 2:
	case name != "main" && words[0] == "Package" && words[1] == name,
		name == "main" && words[0] == "Command" && words[1] == path.Base(dir),
		name == "main" && strings.EqualFold(words[0], path.Base(dir)):
		return ""
	}
	if name == "main" {
		return "Command " + path.Base(dir)
	}
	return "Package " + name
}

// mainMay bounds the lines of main's body: catch signals, call run, turn its error into an exit status.
const mainMay = 16

// ends are the calls that only main may make: they end the process, or read what run is given.
func ends() []string {
	return []string{"os.Exit", "os.Getenv", "os.LookupEnv", "log.Fatal", "log.Fatalf", "log.Fatalln", "flag.Parse"}
}

// checkMain judges that main wires and run works.
func checkMain(t *Tree) []Problem {
	var problems []Problem
	for _, files := range t.packages() {
		for _, p := range files {
			f := t.parsed[p]
			if f.Name.Name != "main" || strings.HasSuffix(p, "_test.go") {
				continue
			}
			for _, decl := range f.Decls {
				fn, ok := decl.(*ast.FuncDecl)
				if !ok || fn.Recv != nil || fn.Body == nil {
					continue
				}
				problems = append(problems, t.judgeFunc(p, fn)...)
			}
		}
	}
	return sorted(problems)
}

const mainFix = "Only what run is handed can be tested: let main call run(ctx, args, getenv, stdin, stdout, stderr) and turn its error into the exit status, nothing else"

func (t *Tree) judgeFunc(p string, fn *ast.FuncDecl) []Problem {
	called := t.calls(fn)
	var problems []Problem
	switch fn.Name.Name {
	case "main":
		lines := t.fset.Position(fn.Body.Rbrace).Line - t.line(fn.Body) - 1
		if lines > mainMay {
			problems = append(problems, Problem{p, t.line(fn), fmt.Sprintf("main is %d lines long", lines), mainFix})
		}
		if _, ok := called["run"]; !ok && len(fn.Body.List) > 0 {
			problems = append(problems, Problem{p, t.line(fn), "main does not call run", mainFix})
		}
	case "init":
		problems = append(problems, Problem{p, t.line(fn), "a program has an init function", mainFix})
	default:
		for _, name := range ends() {
			if line, ok := called[name]; ok {
				problems = append(problems, Problem{p, line, fn.Name.Name + " calls " + name, mainFix})
			}
		}
	}
	return problems
}

// calls gives the functions that fn calls, as they are written, each with the line of its first call.
func (t *Tree) calls(fn *ast.FuncDecl) map[string]int {
	called := map[string]int{}
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		var name string
		switch f := call.Fun.(type) {
		case *ast.Ident:
			name = f.Name
		case *ast.SelectorExpr:
			if x, ok := f.X.(*ast.Ident); ok {
				name = x.Name + "." + f.Sel.Name
			}
		}
		if _, known := called[name]; !known && name != "" {
			called[name] = t.line(call)
		}
		return true
	})
	return called
}

// checkFolders judges the top of the tree.
func checkFolders(t *Tree) []Problem {
	may := []string{"cmd", "plugins", "ipam", "netdef", "rdma", "manifests", "test", "docs"}
	seen := map[string]bool{}
	var problems []Problem
	for _, p := range t.paths("") {
		top, _, below := strings.Cut(p, "/")
		if !below || strings.HasPrefix(top, ".") || slices.Contains(may, top) || seen[top] {
			continue
		}
		seen[top] = true
		problems = append(problems, Problem{Path: top, Text: "is no folder of the design", Fix: "The top has " + strings.Join(may, ", ") + " and no others, so that everybody knows where to look: move it into one of them"})
	}
	return problems
}
