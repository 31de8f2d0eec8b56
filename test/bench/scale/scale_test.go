// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/test/bench/report"
	"github.com/railyard-net/railyard/test/cluster"
	"github.com/railyard-net/railyard/test/sim/check"
)

// TestSmoke runs the whole scenario with ten nodes, in seconds. Its figures mean nothing; what must hold at any speed is judged.
func TestSmoke(t *testing.T) {
	bin := os.Getenv("RAILYARD_BIN")
	if bin == "" {
		root, err := cluster.ModuleRoot()
		if err != nil {
			t.Fatal(err)
		}
		bin = filepath.Join(root, "bin")
	}
	out, docs := t.TempDir(), t.TempDir()
	var said bytes.Buffer
	if err := run(t.Context(), []string{"-short", "-out=" + out, "-docs=" + docs, "-bin=" + bin}, &said, t.Output()); err != nil {
		t.Fatalf("%v\n%s", err, &said)
	}
	text, err := os.ReadFile(filepath.Join(out, "scale.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got report.Scale
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Fleets) != 1 || got.Fleets[0].Nodes != 10 || len(got.Fleets[0].Phases) != 12 {
		t.Fatalf("the JSON has %+v", got.Fleets)
	}
	f := got.Fleets[0]
	if f.Capacity != 10*8 || f.NotHandedOut != 0 || f.OutageAdds == 0 || f.LargestBlock < 1000 || f.LargestPool < 100 || f.IdleHeap <= 0 {
		t.Errorf("figures: %+v", f)
	}
	if w := f.Whole(); w.Requests["POST"].N == 0 || w.Requests["PUT"].N == 0 || w.Requests["WATCH"].Bytes == 0 || w.PoolWrites == 0 {
		t.Errorf("nothing was counted of some kind: %+v", w)
	}
	if left, err := os.ReadDir(docs); err != nil || len(left) > 0 {
		t.Errorf("a smoke test wrote docs: %v, %v", left, err)
	}
	if n := strings.Count(said.String(), "pass "); n < 5 {
		t.Errorf("%d bars are passed:\n%s", n, &said)
	}
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"-nodes=3,40", "-pods", "7"}, io.Discard)
	if err != nil || !slices.Equal(o.nodes, counts{3, 40}) || o.pods != 7 || o.short {
		t.Errorf("parse = %+v, %v", o, err)
	}
	if _, err := parse([]string{"-h"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("parse(-h) = %v, want flag.ErrHelp", err)
	}
	for _, args := range [][]string{{"short"}, {"-nodes=1"}, {"-nodes=x"}, {"-nodes="}, {"-nodes=100000"}, {"-pods=0"}, {"-rate=0"}, {"-none"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("parse(%q) was accepted", args)
		}
	}
}

// TestMeter counts requests as they are, a watch as long as it is open, and nothing that reached nobody.
func TestMeter(t *testing.T) {
	open := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusConflict)
		}
		_, _ = io.WriteString(w, "12345")
		if r.URL.Query().Get("watch") != "" {
			w.(http.Flusher).Flush()
			<-open
		}
	}))
	defer server.Close()
	var m meter
	cfg := &rest.Config{Host: server.URL}
	m.measure(cfg)
	web, err := rest.HTTPClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	do := func(method, path string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := web.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	const blocks = "/apis/ipam.railyard.dev/v1alpha1/ipblocks"
	for _, x := range [][2]string{
		{http.MethodGet, blocks}, {http.MethodGet, blocks + "/a"}, {http.MethodGet, "/api/v1/nodes"}, {http.MethodGet, "/api/v1/nodes/a"},
		{http.MethodPost, blocks}, {http.MethodPut, blocks + "/a"}, {http.MethodPut, blocks + "/a/status"}, {http.MethodDelete, blocks + "/a"}, {http.MethodPatch, blocks + "/a"},
	} {
		resp := do(x[0], x[1])
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	stream := do(http.MethodGet, blocks+"?watch=true")
	if _, err := io.ReadFull(stream.Body, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if n := m.watching.Load(); n != 1 {
		t.Errorf("%d watches are open, want 1", n)
	}
	close(open)
	_, _ = io.Copy(io.Discard, stream.Body)
	_ = stream.Body.Close()
	if n := m.watching.Load(); n != 0 {
		t.Errorf("%d watches are open after the end", n)
	}
	before := m.read()
	server.Close()
	if resp, err := web.Get(server.URL + blocks); err == nil {
		_ = resp.Body.Close()
		t.Fatal("a server that is gone answered")
	}
	if after := m.read(); after != before {
		t.Errorf("a request that reached nobody was counted: %+v", after.plus(before, -1))
	}
	want := demand{wire: before.wire}
	want.requests = [verbs]int64{get: 2, list: 2, watch: 1, create: 1, update: 1, status: 1, remove: 1, other: 1}
	want.failed = [verbs]int64{create: 1}
	for v, n := range want.requests {
		want.bytes[v] = 5 * n
	}
	if before != want || before.wire < 50 {
		t.Errorf("counted %+v\nwant %+v", before, want)
	}
	if n := before.writes(); n != 5 {
		t.Errorf("%d writes, want 5", n)
	}
}

// TestLeaks: an address that the API gives to a node is to be in the node's store.
func TestLeaks(t *testing.T) {
	b := v1alpha1.IPBlock{Spec: v1alpha1.IPBlockSpec{Pool: "p", PoolUID: "u", Slot: "10.0.0.0/30", Shares: []v1alpha1.Share{
		{Node: "a", NodeUID: "a", Session: "1", Ranges: []string{"10.0.0.0-10.0.0.2"}},
		{Node: "b", NodeUID: "b", Session: "2", Ranges: []string{"10.0.0.3"}},
	}}}
	b.Name = "p.10-0-0-0"
	held := func(node, from, to string) check.Node {
		r := check.Range{From: netip.MustParseAddr(from), To: netip.MustParseAddr(to)}
		return check.Node{Name: node, Holdings: []check.Holding{{Block: b.Name, Ranges: []check.Range{r}}}}
	}
	var l lab
	blocks := []v1alpha1.IPBlock{b}
	if err := l.leaks(blocks, []check.Node{held("a", "10.0.0.0", "10.0.0.2"), held("b", "10.0.0.3", "10.0.0.3")}); err != nil {
		t.Error(err)
	}
	err := l.leaks(blocks, []check.Node{held("a", "10.0.0.1", "10.0.0.3")})
	if err == nil || err.n != 2 || !strings.Contains(err.Error(), "10.0.0.0 of block p.10-0-0-0, node a") {
		t.Errorf("leaks: %v", err)
	}
}
