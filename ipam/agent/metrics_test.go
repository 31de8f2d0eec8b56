// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

func TestMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv6 = &v1alpha1.Subnet{Subnet: "fd00:3::/120", BlockSize: 4}
		hour := int32(3600)
		s.CooldownSeconds = &hour
	})
	a := start(t, "metrics", agentOptions{config: func(c *Config) { c.Registerer = reg }})
	mustLease(t, a, request(pool, "a"))
	mustLease(t, a, request(pool, "b"))
	mustRelease(t, a, "b")
	a.stop() // nothing moves any more, but for claims ahead that were made
	got, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range got {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			switch {
			case m.GetGauge() != nil:
				values[name] = m.GetGauge().GetValue()
			case m.GetCounter() != nil:
				values[name] = m.GetCounter().GetValue()
			case m.GetHistogram() != nil:
				values[name] = float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	for name, want := range map[string]float64{
		"railyard_ipam_request_seconds ok lease":   2,
		"railyard_ipam_request_seconds ok release": 1,
		"railyard_ipam_lost_addresses":             0,
		"railyard_ipam_store_up":                   0, // it is closed
	} {
		if got, ok := values[name]; !ok || got != want {
			t.Errorf("%s = %v, %v; want %v", name, got, ok, want)
		}
	}
	if values["railyard_ipam_claims_total "+pool+" ok"] < 2 {
		t.Errorf("claims: %v, want 2 or more", values)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestMetricsOfTheStore(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4.Subnet = "10.0.0.0/29" // too small for claims ahead
		hour := int32(3600)
		s.CooldownSeconds = &hour
	})
	a := start(t, "metrics-store", agentOptions{config: func(c *Config) { c.Registerer = reg }})
	mustLease(t, a, request(pool, "a"))
	mustLease(t, a, request(pool, "b"))
	mustRelease(t, a, "b")
	names := []string{"railyard_ipam_leases", "railyard_ipam_free", "railyard_ipam_cooling", "railyard_ipam_blocks", "railyard_ipam_store_up"}
	text := strings.NewReplacer("POOL", pool).Replace(`# HELP railyard_ipam_blocks Blocks in which this node has a share.
# TYPE railyard_ipam_blocks gauge
railyard_ipam_blocks{pool="POOL"} 1
# HELP railyard_ipam_cooling Addresses of this node that were released less than a cooldown ago.
# TYPE railyard_ipam_cooling gauge
railyard_ipam_cooling{family="IPv4",pool="POOL"} 1
# HELP railyard_ipam_free Addresses that this node can lease at once.
# TYPE railyard_ipam_free gauge
railyard_ipam_free{family="IPv4",pool="POOL"} 1
# HELP railyard_ipam_leases Addresses leased on this node.
# TYPE railyard_ipam_leases gauge
railyard_ipam_leases{family="IPv4",pool="POOL"} 1
# HELP railyard_ipam_store_up 1 if the lease store could be read.
# TYPE railyard_ipam_store_up gauge
railyard_ipam_store_up 1
`)
	only := prometheus.NewPedanticRegistry()
	if err := only.Register(poolOnly{a.metrics.stock, pool}); err != nil {
		t.Fatal(err)
	}
	if err := testutil.GatherAndCompare(only, strings.NewReader(text), names...); err != nil {
		t.Error(err)
	}
}

// poolOnly leaves out what other tests' pools say.
type poolOnly struct {
	stockCollector
	pool string
}

func (c poolOnly) Collect(out chan<- prometheus.Metric) {
	all := make(chan prometheus.Metric)
	go func() { c.stockCollector.Collect(all); close(all) }()
	for m := range all {
		var pb dto.Metric
		if err := m.Write(&pb); err != nil {
			panic(err)
		}
		other := slices.ContainsFunc(pb.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == "pool" && l.GetValue() != c.pool })
		if !other {
			out <- m
		}
	}
}
