// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/railyard-net/railyard/rdma"
)

// WriteMatrix writes the classes between all of the given devices, as nvidia-smi topo -m does, but without NVLink: GPUs and NICs
// are numbered in the order given, and the legend below says which is which. A device that the tree lacks has question marks, and
// is told by the error, an [rdma.ErrNotFound].
func (t *Tree) WriteMatrix(out io.Writer, gpus []GPU, nics []NIC) error {
	rows := matrixRows(gpus, nics)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(w, "\t%s", r.label)
	}
	fmt.Fprintf(w, "\tCPU Affinity\tNUMA Affinity\n")
	var errs []error
	for _, r := range rows {
		fmt.Fprint(w, r.label)
		for _, column := range rows {
			fmt.Fprintf(w, "\t%s", t.cell(r, column))
		}
		f, err := t.at(r.addr())
		switch {
		case err != nil:
			errs = append(errs, err)
			fmt.Fprint(w, "\t?\t?\n")
		case f.NUMA < 0:
			fmt.Fprintf(w, "\t%s\tN/A\n", f.CPUs)
		default:
			fmt.Fprintf(w, "\t%s\t%d\n", f.CPUs, f.NUMA)
		}
	}
	fmt.Fprintln(w)
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s", r.label, r.addr())
		if name := r.name(); name != "" {
			fmt.Fprintf(w, "\t%s", name)
		}
		fmt.Fprintln(w)
	}
	return errors.Join(append(errs, w.Flush())...)
}

// row is a device of the matrix: a GPU or a NIC.
type row struct {
	label string
	gpu   *GPU
	nic   *NIC
}

func matrixRows(gpus []GPU, nics []NIC) []row {
	var rows []row
	for i := range gpus {
		rows = append(rows, row{label: fmt.Sprint("GPU", i), gpu: &gpus[i]})
	}
	for i := range nics {
		rows = append(rows, row{label: fmt.Sprint("NIC", i), nic: &nics[i]})
	}
	return rows
}

func (r row) addr() rdma.BusAddr {
	if r.gpu != nil {
		return r.gpu.Addr
	}
	return r.nic.Addr
}

func (r row) name() string {
	if r.gpu != nil {
		return r.gpu.Name
	}
	return r.nic.Name
}

func (t *Tree) cell(a, b row) string {
	var p Path
	var err error
	switch {
	case a.gpu != nil && b.nic != nil:
		p, err = t.GPUPath(*a.gpu, b.nic.Addr)
	case a.nic != nil && b.gpu != nil:
		p, err = t.GPUPath(*b.gpu, a.nic.Addr)
	default:
		p, err = t.Path(a.addr(), b.addr())
	}
	if err != nil {
		return "?"
	}
	return p.Class.String()
}
