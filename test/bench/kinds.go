// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/railyard-net/railyard/test/bench/lab"
	"github.com/railyard-net/railyard/test/bench/measure"
	"github.com/railyard-net/railyard/test/bench/report"
)

// kinds measures the other kinds of link that this kernel has, and several rails in one call, beside the reference plugin
// where there is one. Virtual functions and ipvlan need other kernels and NICs than benchmarks run on as a rule.
func (s *session) kinds(ctx context.Context) error {
	if err := s.lab.AddDevices(); err != nil {
		return err
	}
	var cs []measure.Contestant
	pods, railyard := s.lab.Pods, s.o.installed("railyard")
	if s.node != nil {
		cs = append(cs, cniPlugin(report.Railyard, railyard, pods, v4Only.railyardConf()))
		if lab.HasIPvlan() {
			cs = append(cs, cniPlugin("railyard, ipvlan", railyard, pods, v4Only.kindConf(map[string]any{"kind": "ipvlan", "master": lab.Master})))
		}
		cs = append(cs,
			cniPluginAt("railyard, host-device", railyard, pods, func(slot int) []byte {
				return v4Only.kindConf(map[string]any{"kind": "host-device", "device": lab.Device(slot)})
			}),
			cniPlugin("railyard, 2 rails", railyard, pods, v4Only.kindConf(map[string]any{
				"kind": "macvlan", "rails": []any{map[string]any{"master": lab.Master}, map[string]any{"master": lab.Second}},
			})),
		)
	}
	cs = append(cs, cniPluginAt("host-device+host-local", s.o.installed("host-device"), pods, func(slot int) []byte {
		conf := v4Only.upstream()
		conf["type"], conf["device"] = "host-device", lab.Device(slot)
		delete(conf, "master")
		delete(conf, "mode")
		return encode(conf)
	}))
	const title = "kinds of link and several rails, IPv4 only"
	rows, err := s.table(ctx, title, s.loads(false), cs, "", func(_ measure.Contestant, verb measure.Verb, job measure.Job) error {
		if verb == measure.Add {
			return pods[job.Slot].Addressed(ifName)
		}
		return pods[job.Slot].Lacks(ifName)
	})
	if err != nil {
		return err
	}
	s.attach.Variants = append(s.attach.Variants, report.Table{Name: "kinds", Title: title, Results: rows})
	return nil
}

// kindConf is railyardConf with other keys for the link.
func (f families) kindConf(link map[string]any) []byte {
	conf := map[string]any{
		"cniVersion": "1.0.0", "name": f.name, "type": "railyard",
		"ipam": map[string]any{"type": "railyard-ipam", "pool": f.name},
	}
	for k, v := range link {
		conf[k] = v
	}
	return encode(conf)
}
