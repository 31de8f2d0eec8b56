// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
)

// writePage writes docs/benchmarks-pairing.md.
func writePage(out io.Writer, results []result, sequences int) {
	fmt.Fprintf(out, `# Benchmarks: pairs of a GPU and a NIC

How often a pod gets its GPUs with a NIC of their own beside each (PIX, PXB, or C2C: what GPUDirect RDMA wants). It is a simulation of placement on drawings of real
machines, written by `+"`make bench-pairing`"+`; no traffic was measured. For each machine %d sequences of %d events: pods of 1, 2, 4 or 8 GPUs with as many NICs come (eight of ten; the others ask for GPUs or
NICs alone) and go, the same pods for every way.

![Share of pods with each GPU beside its NIC](benchmarks-pairing.svg)

| machine | two plugins | NUMA-aligned | steering | **pairs** | pods that found no room: two plugins | pairs |
|---|---:|---:|---:|---:|---:|---:|
`, sequences, events)
	for _, r := range results {
		pairs := fmt.Sprintf("**%.1f %%**", r.by[paired].share())
		if r.by[paired].pods == 0 {
			pairs = "none offered"
		}
		fmt.Fprintf(out, "| %s | %.1f %% | %.1f %% | %.1f %% | %s | %.1f %% | %.1f %% |\n",
			r.name, r.by[apart].share(), r.by[numa].share(), r.by[steered].share(), pairs, r.by[apart].waits(), r.by[paired].waits())
	}
	fmt.Fprint(out, `
Pairs are right by construction, since a pod for which there is none waits; the last two columns say what that costs. Where a machine shows no switches (edge, vm-flat), no pair is that near, and
the resource for the weaker class, `+"`railyard.dev/gpu-nic-numa`"+`, is the one to ask for; this table does not count that.

## The machines

| machine | |
|---|---|
`)
	for _, r := range results {
		fmt.Fprintf(out, "| %s | %s |\n", r.name, r.about)
	}
	fmt.Fprint(out, `
## The ways

- **two plugins**: GPUs by the preference of NVIDIA's plugin, the best ways between GPUs and any of equal sets; NICs in the kubelet's order, which is that of a Go map. Where NVLink by switches makes all GPUs equal, any.
- **NUMA-aligned**: the same under the Topology Manager, policy best-effort: the lowest node that has enough of both, otherwise anywhere.
- **steering**: one process answers the requests for a preference of both resources by one plan, and takes what is left if no pairs are. Railyard does not do this yet: it is a model of the best that could come of it.
- **pairs**: `+"`railyard.dev/gpu-nic`"+` with dynamic accounting. GPUs and NICs alone take first what has no company.

Steering comes close here because its plan always reaches the kubelet; in truth a preference is a hint, is asked without the pod's name, and promises nothing to the scheduler, which counts two
resources and finds a node on which they are far apart.

## What it is worth

Measured by others, near against far:

| platform | near | far | ratio | source |
|---|---:|---:|---:|---|
| B200, 1 GPU and 1 RoCE NIC a pod, all-gather of 8 GB | 46.6 GB/s | 29.2 ± 5.6 GB/s | 1.60 | DRANET paper, table II |
| the same, all-reduce of 8 GB | 46.9 GB/s | 29.7 ± 6.7 GB/s | 1.58 | DRANET paper, table III |
| 8 × H100, NIXL writes of 1 GiB | 39.1 GB/s | 27.5 GB/s | 1.42 | dranet, examples/nixl-kv-transfer |
| H100, training of a model (MFU) | 36.1 % | 32.8 % | 1.10 | dranet, examples/distributed_training |
| GB300, all-reduce, 1 GPU and 1 NIC | 56 GB/s | 25 GB/s | 2.2 | dranet, examples for Azure |
| MI300X, all-reduce, 4 GPUs and 4 NICs | 42.5 GB/s | 6.1 GB/s | 7.0 | dranet, examples for Azure |
| 8 GPUs and 4 EFA, 1 and 1 | 11.4 GB/s | 6.0 GB/s | 1.9 | dranet, examples for AWS |
| RoCE at 100 Gb/s, UCX | 85 Gb/s | 65 Gb/s | 1.3 | openucx/ucx#11121 |

None of these was measured with Railyard.
`)
}

var colours = [ways]string{"#9aa5b1", "#6b8fb3", "#7fb77e", "#d9822b"}

// writePlot draws four bars for each machine.
func writePlot(out io.Writer, results []result) {
	const left, top, height, bar, gap = 50, 60, 220, 18, 28
	group := int(ways)*bar + gap
	width := left + len(results)*group + 10
	fmt.Fprintf(out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n", width, top+height+70)
	fmt.Fprintf(out, `<rect width="100%%" height="100%%" fill="white"/><text x="%d" y="18" font-size="14">Pods in which each GPU has a NIC beside it, %% of those placed</text>`+"\n", left)
	for w := range ways {
		x := left + int(w)*130
		fmt.Fprintf(out, `<rect x="%d" y="30" width="12" height="12" fill="%s"/><text x="%d" y="40">%s</text>`+"\n", x, colours[w], x+17, wayNames[w])
	}
	for v := 0; v <= 100; v += 25 {
		y := top + height - v*height/100
		fmt.Fprintf(out, `<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="#ddd"/><text x="%d" y="%d" text-anchor="end">%d</text>`+"\n", left, y, width-10, y, left-6, y+4, v)
	}
	for i, r := range results {
		x := left + gap/2 + i*group
		for w, o := range r.by {
			h := int(o.share() * height / 100)
			fmt.Fprintf(out, `<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>`+"\n", x+w*bar, top+height-h, bar-2, h, colours[w])
		}
		fmt.Fprintf(out, `<text transform="translate(%d,%d) rotate(20)">%s</text>`+"\n", x, top+height+16, r.name)
	}
	fmt.Fprintln(out, "</svg>")
}
