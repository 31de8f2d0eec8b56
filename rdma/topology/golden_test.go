// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// TestMachines holds the tree, the classes and the pairs to machines that others have published: each file of testdata says which and
// where. Its matrix was written from there and not from what this package says. Bus numbers of switches, which nobody publishes, are ours.
func TestMachines(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("machines: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var m *machine
			var tree *Tree
			for _, part := range a.Files {
				switch part.Name {
				case "tree":
					m = draw(t, string(part.Data))
					tree = m.read(t)
				case "c2c": // what PCI does not show, from here on
					for i := range m.gpus {
						m.gpus[i].C2C = true
					}
				case "matrix":
					testMatrix(t, m, tree, string(part.Data))
				case "pairs":
					testPairs(t, m, tree, string(part.Data))
				default:
					t.Fatalf("%s has a part %q", file, part.Name)
				}
			}
		})
	}
}

// testMatrix compares the cells that a matrix has. It may have other rows than columns.
func testMatrix(t *testing.T, m *machine, tree *Tree, matrix string) {
	head, rows, _ := strings.Cut(matrix, "\n")
	columns := strings.Fields(head)
	for row := range strings.Lines(rows) {
		cells := strings.Fields(row)
		if len(cells) == 0 {
			continue
		}
		if len(cells) != len(columns)+1 {
			t.Fatalf("row %q has not one cell a column", row)
		}
		for i, want := range cells[1:] {
			if got := m.cell(t, tree, cells[0], columns[i]); got != want {
				t.Errorf("%s to %s is %s, want %s", cells[0], columns[i], got, want)
			}
			if got := m.cell(t, tree, columns[i], cells[0]); got != want {
				t.Errorf("%s to %s is %s, want %s", columns[i], cells[0], got, want)
			}
		}
	}
}

func (m *machine) cell(t *testing.T, tree *Tree, from, to string) string {
	a, b := row{}, row{}
	a.gpu, a.nic = m.named(t, from)
	b.gpu, b.nic = m.named(t, to)
	return tree.cell(a, b)
}

// testPairs compares all pairs. The first line says what they are limited to.
func testPairs(t *testing.T, m *machine, tree *Tree, text string) {
	head, want, _ := strings.Cut(text, "\n")
	var limits Limits
	var worst string
	if _, err := fmt.Sscanf(head, "nics=%d gpus=%d worst=%s", &limits.NICsPerGPU, &limits.GPUsPerNIC, &worst); err != nil {
		t.Fatalf("limits %q: %v", head, err)
	}
	for limits.Worst = PIX; limits.Worst.String() != worst; limits.Worst++ {
	}
	pairs, err := tree.Pair(m.gpus, m.nics, limits)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, p := range pairs {
		fmt.Fprintln(&got, p.GPU.Name, p.NIC.Name, p.Path.Class)
	}
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("pairs with %s (-want +got):\n%s", head, diff)
	}
}
