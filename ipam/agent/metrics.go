// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/store"
)

// requestBuckets are fine where a lease from the store lies, and reach what a claim may take.
func requestBuckets() []float64 {
	return []float64{
		0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075,
		0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10,
	}
}

// metrics are what the agent counts, and, read from the store when they are asked for, what it holds.
type metrics struct {
	requests     *prometheus.HistogramVec
	claims       *prometheus.CounterVec
	claimSeconds prometheus.Histogram
	collected    prometheus.Counter
	returned     *prometheus.CounterVec
	recovered    prometheus.Counter
	mirrored     *prometheus.CounterVec
	asks         *prometheus.CounterVec
	askSeconds   prometheus.Histogram
	received     *prometheus.CounterVec
	ceded        *prometheus.CounterVec
	conflicts    *prometheus.CounterVec

	stock stockCollector
}

func newMetrics(r prometheus.Registerer, a *Agent) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "railyard_ipam_request_seconds", Help: "Time to answer a request of a CNI plugin, by verb and result.",
			Buckets: requestBuckets(),
		}, []string{"verb", "result"}),
		claims: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "railyard_ipam_claims_total", Help: "Claims of a block or of a static address, by pool and result.",
		}, []string{"pool", "result"}),
		claimSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "railyard_ipam_claim_seconds", Help: "Time that a claim took, with all its API requests.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		collected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "railyard_ipam_gc_released_total", Help: "Leases ended because their network namespace was gone.",
		}),
		returned: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "railyard_ipam_blocks_released_total", Help: "Shares of blocks given back, by pool.",
		}, []string{"pool"}),
		recovered: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "railyard_ipam_recovered_addresses_total", Help: "Addresses found in live network namespaces and leased to them again.",
		}),
		mirrored: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "railyard_ipam_mirror_writes_total", Help: "Writes of a block's status, by result.",
		}, []string{"result"}),
		asks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "railyard_ipam_asks_total", Help: "Times that this node had to ask others for addresses, by pool and result.",
		}, []string{"pool", "result"}),
		askSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "railyard_ipam_ask_seconds", Help: "Time that pods waited for addresses of other nodes.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 12),
		}),
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "railyard_ipam_received_addresses_total", Help: "Addresses that other nodes ceded to this one, by pool.",
		}, []string{"pool"}),
		ceded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "railyard_ipam_ceded_addresses_total", Help: "Addresses that this node ceded to others, by pool.",
		}, []string{"pool"}),
		conflicts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "railyard_ipam_conflicts_total", Help: "Addresses that a neighbour answered for who has them not from a pool, by pool.",
		}, []string{"pool"}),
		stock: newStockCollector(a),
	}
	for _, c := range []prometheus.Collector{
		m.requests, m.claims, m.claimSeconds, m.collected, m.returned, m.recovered, m.mirrored, m.asks, m.askSeconds, m.received, m.ceded, m.conflicts, m.stock,
	} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// observe records a request when it is deferred with a pointer to the named error.
func (m *metrics) observe(verb string, began time.Time, err *error) {
	m.requests.WithLabelValues(verb, result(*err)).Observe(time.Since(began).Seconds())
}

// claimed records a claim.
func (m *metrics) claimed(pool string, began time.Time, err error) {
	m.claims.WithLabelValues(pool, result(err)).Inc()
	m.claimSeconds.Observe(time.Since(began).Seconds())
}

// asked records a search for addresses of other nodes.
func (m *metrics) asked(pool string, began time.Time, err error) {
	m.asks.WithLabelValues(pool, result(err)).Inc()
	m.askSeconds.Observe(time.Since(began).Seconds())
}

// result is the label value for err.
func result(err error) string {
	for _, r := range []struct {
		err  error
		name string
	}{
		{nil, "ok"},
		{ipam.ErrInvalid, "invalid"},
		{ipam.ErrPoolUnknown, "pool-unknown"},
		{ipam.ErrPoolClosed, "pool-closed"},
		{ipam.ErrPoolFull, "pool-full"},
		{ipam.ErrTaken, "taken"},
		{ipam.ErrNotFound, "not-found"},
		{ipam.ErrUnavailable, "unavailable"},
	} {
		if errors.Is(err, r.err) {
			return r.name
		}
	}
	return "error"
}

// stockCollector reads the store when metrics are scraped.
type stockCollector struct {
	a *Agent

	leases, free, cooling, blocks, lost, fresh, synced, storeSeconds, up *prometheus.Desc
}

func newStockCollector(a *Agent) stockCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("railyard_ipam_"+name, help, labels, nil)
	}
	return stockCollector{
		a:            a,
		leases:       desc("leases", "Addresses leased on this node.", "pool", "family"),
		free:         desc("free", "Addresses that this node can lease at once.", "pool", "family"),
		cooling:      desc("cooling", "Addresses of this node that were released less than a cooldown ago.", "pool", "family"),
		blocks:       desc("blocks", "Blocks in which this node has a share.", "pool"),
		lost:         desc("lost_addresses", "Addresses leased on this node that the API does not give it: each is a danger of a duplicate."),
		fresh:        desc("store_fresh", "1 while the lease store is new and the node's addresses are being looked for."),
		synced:       desc("api_heard", "1 once the API server has said which pools there are."),
		storeSeconds: desc("store_seconds", "Time that it took to read these figures from the lease store."),
		up:           desc("store_up", "1 if the lease store could be read."),
	}
}

func (c stockCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.leases, c.free, c.cooling, c.blocks, c.lost, c.fresh, c.synced, c.storeSeconds, c.up} {
		out <- d
	}
}

func (c stockCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	began := time.Now()
	stats, err := c.a.store.Stats()
	gauge(c.storeSeconds, time.Since(began).Seconds())
	gauge(c.up, boolFloat(err == nil))
	gauge(c.lost, float64(c.a.lost.Load()))
	gauge(c.fresh, boolFloat(c.a.fresh.Load()))
	gauge(c.synced, boolFloat(closed(c.a.heard)))
	blocks := map[string]int{}
	for _, s := range stats {
		gauge(c.leases, float64(s.Leased), s.Pool, family(s))
		gauge(c.free, float64(s.Free), s.Pool, family(s))
		gauge(c.cooling, float64(s.Cooling), s.Pool, family(s))
		blocks[s.Pool] += s.Blocks
	}
	for pool, n := range blocks {
		gauge(c.blocks, float64(n), pool)
	}
}

func family(s store.PoolStats) string {
	if s.Is4 {
		return "IPv4"
	}
	return "IPv6"
}

func boolFloat(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
