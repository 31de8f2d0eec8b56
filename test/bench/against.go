// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/railyard-net/railyard/test/bench/lab"
	"github.com/railyard-net/railyard/test/bench/measure"
	"github.com/railyard-net/railyard/test/bench/report"
)

const (
	newer = "-bin"
	older = "-against"
)

// compare measures the plugin of one build against another's, in turns, with one agent for both. What counts is the processor time:
// on a machine that others use, too, it differs by a few hundredths between runs, and the time on the clock by anything.
func (s *session) compare(ctx context.Context, stdout io.Writer) error {
	if err := s.lab.AddDevices(); err != nil {
		return err
	}
	macvlan := map[string]any{"kind": "macvlan", "master": lab.Master}
	jobs := []struct {
		title string
		conf  func(slot int) []byte
	}{
		{"macvlan, IPv4", func(int) []byte { return v4Only.kindConf(macvlan) }},
		{"macvlan, IPv4 and IPv6", func(int) []byte { return dual.kindConf(macvlan) }},
		{"host-device, IPv4", func(slot int) []byte {
			return v4Only.kindConf(map[string]any{"kind": "host-device", "device": lab.Device(slot)})
		}},
		{"two rails, IPv4", func(int) []byte {
			return v4Only.kindConf(map[string]any{"kind": "macvlan", "rails": []any{map[string]any{"master": lab.Master}, map[string]any{"master": lab.Second}}})
		}},
	}
	loads := []load{{1, 25, 10}, {64, 64, 4}}
	if s.o.short {
		loads = s.loads(false)
	}
	var tables []report.Table
	for _, job := range jobs {
		cs := []measure.Contestant{
			cniPluginAt(newer, s.o.installed("railyard"), s.lab.Pods, job.conf),
			cniPluginAt(older, s.o.installed(filepath.Join("against", "railyard")), s.lab.Pods, job.conf),
		}
		rows, err := s.table(ctx, job.title, loads, cs, "", nil)
		if err != nil {
			return err
		}
		tables = append(tables, report.Table{Title: job.title, Results: rows})
	}
	_, err := fmt.Fprintln(stdout, report.Comparison(tables, newer, older))
	return err
}
