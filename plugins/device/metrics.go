// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/railyard-net/railyard/plugins/device/pool"
)

// metrics are what an operator looks at; docs/user/devices.md explains them.
type metrics struct {
	devices       *prometheus.GaugeVec
	pairs         *prometheus.GaugeVec
	allocations   *prometheus.HistogramVec
	refused       *prometheus.CounterVec
	registrations *prometheus.CounterVec
	xids          *prometheus.CounterVec
	config        prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, p *Plugin) *metrics {
	m := &metrics{
		devices: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "railyard_devices", Help: "Devices offered to the kubelet, by state: healthy or unhealthy.",
		}, []string{"resource", "state"}),
		pairs: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "railyard_device_pair_info", Help: "1 for each pair of a GPU and a NIC, with the path class between them.",
		}, []string{"resource", "gpu", "nic", "class"}),
		allocations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "railyard_device_allocate_seconds", Help: "Time to answer an Allocate of the kubelet.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 8),
		}, []string{"resource"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "railyard_device_refused_total", Help: "Allocations that were refused.",
		}, []string{"resource"}),
		registrations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "railyard_device_registrations_total", Help: "Registrations with the kubelet.",
		}, []string{"resource"}),
		xids: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "railyard_device_gpu_faults_total", Help: "Faults that GPUs reported.",
		}, []string{"xid"}),
		config: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "railyard_device_config_ok", Help: "1 if the config in the files is in use, 0 if it is bad and an older one is.",
		}),
	}
	used := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "railyard_devices_in_use", Help: "Devices that were given to pods, as the ledger has it.",
	}, func() float64 { return float64(len(p.ledger.Used())) })
	if reg != nil {
		reg.MustRegister(m.devices, m.pairs, m.allocations, m.refused, m.registrations, m.xids, m.config, used)
	}
	return m
}

func (m *metrics) offered(resources []pool.Resource) {
	m.devices.Reset()
	m.pairs.Reset()
	for _, r := range resources {
		healthy := 0
		for _, d := range r.Devices {
			if d.Unhealthy == "" {
				healthy++
			}
			if class, ok := d.Class(); ok {
				m.pairs.WithLabelValues(r.Name, string(d.GPU()), string(d.NIC()), class.String()).Set(1)
			}
		}
		m.devices.WithLabelValues(r.Name, "healthy").Set(float64(healthy))
		m.devices.WithLabelValues(r.Name, "unhealthy").Set(float64(len(r.Devices) - healthy))
	}
}

func (m *metrics) allocated(resource string, took time.Duration, err error) {
	m.allocations.WithLabelValues(resource).Observe(took.Seconds())
	if err != nil {
		m.refused.WithLabelValues(resource).Inc()
	}
}

func (m *metrics) registered(resource string) { m.registrations.WithLabelValues(resource).Inc() }

func (m *metrics) xid(n uint64) { m.xids.WithLabelValues(strconv.FormatUint(n, 10)).Inc() }

func (m *metrics) configIs(ok bool) {
	if m.config.Set(0); ok {
		m.config.Set(1)
	}
}
