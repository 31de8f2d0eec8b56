// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/railyard-net/railyard/test/bench/measure"
	"github.com/railyard-net/railyard/test/bench/report"
)

// demands counts what the API server is asked while attachments come and go, less what it is asked in as much idle time.
func (s *session) demands(ctx context.Context) error {
	if s.node == nil {
		return nil
	}
	adds, batch := 1000, mostPods
	if s.o.short {
		adds, batch = 64, 32
	}
	s.say("API requests of %d ADDs and DELs", adds)
	if err := sleep(ctx, s.node.mirror+time.Second); err != nil { // what went before is mirrored first
		return err
	}
	before, err := s.node.counters(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	plugin := cniPlugin(report.Railyard, s.o.installed("railyard"), s.lab.Pods, dual.railyardConf())
	for done := 0; done < adds; done += batch {
		if _, err := measure.Once(ctx, plugin, min(batch, adds-done), 8, s.nextID); err != nil {
			return err
		}
	}
	if err := sleep(ctx, s.node.mirror+time.Second); err != nil {
		return err
	}
	busy, err := s.node.counters(ctx)
	if err != nil {
		return err
	}
	took := time.Since(began)
	s.say("API requests of %.0f s idle", took.Seconds())
	if err := sleep(ctx, took); err != nil {
		return err
	}
	idle, err := s.node.counters(ctx)
	if err != nil {
		return err
	}
	api := &report.API{Adds: adds, Seconds: took.Seconds(), Lines: difference(before, busy, idle, float64(adds)/1000)}
	s.attach.API = api
	s.attach.Bars = append(s.attach.Bars, api.Bar())
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// request is a kind of request, as the API server tells them apart.
type request struct{ verb, resource string }

// amount is what has been counted of a kind.
type amount struct{ requests, in, out float64 }

// railyardKinds are the resources that the agent watches and no other program here does.
var railyardKinds = []string{"ipblocks", "ippools"}

type counters map[request]amount

// watchEvents is what stands for a verb with the events that watches were sent.
const watchEvents = "WATCH events"

// difference is what each kind had between before and busy more than between busy and idle, per thousands of ADDs.
func difference(before, busy, idle counters, thousands float64) []report.Demand {
	var lines []report.Demand
	more := func(of func(amount) float64, r request) float64 {
		return (2*of(busy[r]) - of(before[r]) - of(idle[r])) / thousands
	}
	requests := func(a amount) float64 { return a.requests }
	for r := range busy {
		if strings.HasPrefix(r.verb, "WATCH") && !slices.Contains(railyardKinds, r.resource) {
			continue // bookmarks and renewals of the API server's own informers
		}
		d := report.Demand{
			Verb: r.verb, Resource: r.resource, Background: background(r), Requests: more(requests, r),
			BytesOut: max(0, more(func(a amount) float64 { return a.out }, r)),
		}
		if d.Requests > 0 || (r.verb == watchEvents && d.BytesOut > 0) {
			lines = append(lines, d)
		}
	}
	for i, d := range lines {
		// Bodies are counted by verb and resource alone: they are shared out among the subresources.
		body, all := bodyOf(d.Verb, d.Resource), 0.0
		for _, other := range lines {
			if bodyOf(other.Verb, other.Resource) == body {
				all += other.Requests
			}
		}
		if in := more(func(a amount) float64 { return a.in }, body); all > 0 {
			lines[i].BytesIn = max(0, in) * d.Requests / all
		}
	}
	slices.SortFunc(lines, func(a, b report.Demand) int {
		return strings.Compare(a.Resource+" "+a.Verb, b.Resource+" "+b.Verb)
	})
	return lines
}

// bodyOf is under what the API server counts the bodies of such requests.
func bodyOf(verb, resource string) request {
	base, _, _ := strings.Cut(resource, "/")
	switch verb {
	case "POST":
		verb = "create"
	case "PUT":
		verb = "update"
	case "PATCH", "APPLY":
		verb = "patch"
	case "DELETE":
		verb = "delete"
	}
	return request{"body of " + verb, base}
}

// background says whether a timer makes such requests, however many ADDs there are: the mirror of leases in the status of
// blocks and its way back through the watch, a watch that has had its time, and what the API server asks itself.
func background(r request) bool {
	own := []string{"leases", "flowschemas", "flowschemas/status", "prioritylevelconfigurations", "prioritylevelconfigurations/status", "configmaps", "namespaces", "services", "endpointslices", "apiservices", "apiservices/status", "customresourcedefinitions", "customresourcedefinitions/status", "clusterroles", "clusterrolebindings", "roles", "rolebindings", "priorityclasses", "storageversions", "subjectaccessreviews", "servicecidrs", "ipaddresses", "validatingadmissionpolicies", "mutatingadmissionpolicies"}
	return r.resource == "ipblocks/status" || strings.HasPrefix(r.verb, "WATCH") || slices.Contains(own, r.resource)
}

// counters reads the API server's metrics.
func (n *node) counters(ctx context.Context) (counters, error) {
	text, err := n.api.Client().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the API server's metrics: %w", err)
	}
	c, err := count(text)
	if err != nil {
		return nil, fmt.Errorf("parse the API server's metrics: %w", err)
	}
	return c, nil
}

func count(text []byte) (counters, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	all, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	counted := counters{}
	for name, family := range all {
		for _, m := range family.GetMetric() {
			label := map[string]string{}
			for _, l := range m.GetLabel() {
				label[l.GetName()] = l.GetValue()
			}
			if label["resource"] == "" {
				continue // /metrics itself, /readyz and the like
			}
			r := request{label["verb"], label["resource"]}
			if sub := label["subresource"]; sub != "" {
				r.resource += "/" + sub
			}
			add := amount{}
			switch name {
			case "apiserver_request_total":
				add.requests = m.GetCounter().GetValue()
			case "apiserver_request_body_size_bytes":
				r.verb, add.in = "body of "+label["verb"], m.GetHistogram().GetSampleSum()
			case "apiserver_response_sizes":
				add.out = m.GetHistogram().GetSampleSum()
			case "apiserver_watch_events_sizes":
				r.verb, add.out = watchEvents, m.GetHistogram().GetSampleSum()
			default:
				continue
			}
			a := counted[r]
			counted[r] = amount{a.requests + add.requests, a.in + add.in, a.out + add.out}
		}
	}
	return counted, nil
}
