// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func machines(t *testing.T) map[string]*machine {
	t.Helper()
	files, err := filepath.Glob("../../../rdma/topology/testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	all := map[string]*machine{}
	for _, f := range files {
		m, err := load(f)
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		all[m.name] = m
	}
	return all
}

// TestPairs holds the model to what is known of the machines: how many pairs they have, as rdma/topology's own golden files say.
func TestPairs(t *testing.T) {
	got := map[string]int{}
	for name, m := range machines(t) {
		var gpus, nics []int
		for g := range m.path {
			gpus = append(gpus, g)
		}
		for n := range m.nicNUMA {
			nics = append(nics, n)
		}
		got[name] = len(m.match(gpus, nics))
	}
	want := map[string]int{"a100-connectx6dx": 4, "dgx-a100": 8, "dgx-h100": 8, "edge": 0, "gb200": 4, "gb300-data-direct": 2, "hgx-two-nics": 8, "vm-flat": 0}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pairs (-want +got):\n%s", diff)
	}
}

// The same sequences give the same figures, pairs are never far apart, and nobody has what another has.
func TestSimulate(t *testing.T) {
	m := machines(t)["dgx-h100"]
	for w := range ways {
		a, b := simulate(m, w, 50), simulate(m, w, 50)
		if a != b || a.pods == 0 || a.aligned > a.pods {
			t.Errorf("%s: %+v, and again %+v", wayNames[w], a, b)
		}
		if w == paired && a.aligned != a.pods {
			t.Errorf("%d of %d pairs are near", a.aligned, a.pods)
		}
	}
	if two, pairs := simulate(m, apart, 50), simulate(m, paired, 50); two.share() > pairs.share()/2 {
		t.Errorf("two plugins are right in %.0f %%: chance gives one time in eight", two.share())
	}
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	if err := run(t.Context(), []string{"-sequences=2", "-machines=../../../rdma/topology/testdata", "-o=" + dir}, io.Discard); err != nil {
		t.Fatal(err)
	}
	if files, err := filepath.Glob(dir + "/benchmarks-pairing.*"); err != nil || len(files) != 2 {
		t.Errorf("%v, %v", files, err)
	}
	if err := run(t.Context(), []string{"-machines=" + dir}, io.Discard); err == nil || !strings.Contains(err.Error(), "no drawings") {
		t.Errorf("a folder without drawings: %v", err)
	}
}
