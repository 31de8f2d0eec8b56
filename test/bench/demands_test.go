// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/test/bench/report"
)

const metrics = `
# TYPE apiserver_request_total counter
apiserver_request_total{code="200",resource="ipblocks",subresource="status",verb="PUT"} 3
apiserver_request_total{code="409",resource="ipblocks",subresource="status",verb="PUT"} 1
apiserver_request_total{code="200",resource="",subresource="/metrics",verb="GET"} 7
# TYPE apiserver_request_body_size_bytes histogram
apiserver_request_body_size_bytes_bucket{group="ipam.railyard.dev",resource="ipblocks",verb="update",le="+Inf"} 4
apiserver_request_body_size_bytes_sum{group="ipam.railyard.dev",resource="ipblocks",verb="update"} 4096
apiserver_request_body_size_bytes_count{group="ipam.railyard.dev",resource="ipblocks",verb="update"} 4
# TYPE apiserver_watch_events_sizes histogram
apiserver_watch_events_sizes_bucket{group="ipam.railyard.dev",resource="ipblocks",version="v1alpha1",le="+Inf"} 4
apiserver_watch_events_sizes_sum{group="ipam.railyard.dev",resource="ipblocks",version="v1alpha1"} 8000
apiserver_watch_events_sizes_count{group="ipam.railyard.dev",resource="ipblocks",version="v1alpha1"} 4
`

func TestCount(t *testing.T) {
	got, err := count([]byte(metrics))
	if err != nil {
		t.Fatal(err)
	}
	want := counters{
		{"PUT", "ipblocks/status"}:     {requests: 4},
		{"body of update", "ipblocks"}: {in: 4096},
		{watchEvents, "ipblocks"}:      {out: 8000},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(request{}, amount{})); diff != "" {
		t.Errorf("count (-want +got):\n%s", diff)
	}
}

func TestDifference(t *testing.T) {
	at := func(puts, leases, creates, bytes float64) counters {
		return counters{
			{"PUT", "ipblocks/status"}: {requests: puts}, {"PUT", "leases"}: {requests: leases, out: leases}, {watchEvents, "namespaces"}: {out: puts},
			{"POST", "ipblocks"}: {requests: creates}, {"body of update", "ipblocks"}: {in: bytes},
		}
	}
	// In the busy time 6 mirrors and 2 renewals of the API server's own, in the idle time 1 and 2.
	got := difference(at(10, 5, 1, 100), at(16, 7, 1, 700), at(17, 9, 1, 800), 2)
	want := []report.Demand{{Verb: "PUT", Resource: "ipblocks/status", Requests: 2.5, BytesIn: 250, Background: true}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("difference (-want +got):\n%s", diff)
	}
	got = difference(at(0, 0, 0, 0), at(0, 0, 3, 0), at(0, 0, 3, 0), 1)
	want = []report.Demand{{Verb: "POST", Resource: "ipblocks", Requests: 3}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("claims on the way (-want +got):\n%s", diff)
	}
}
