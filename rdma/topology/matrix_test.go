// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"errors"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/rdma"
)

func TestWriteMatrix(t *testing.T) {
	m := draw(t, server)
	tree := m.read(t)
	gpus := append(m.gpus, GPU{Addr: "0000:99:00.0", Name: "lost"})
	nics := append(m.nics[:1:1], NIC{Addr: "10000:e0:00.0", Name: "far"})
	var got strings.Builder
	if err := tree.WriteMatrix(&got, gpus, nics); !errors.Is(err, rdma.ErrNotFound) || !strings.Contains(err.Error(), "0000:99:00.0") {
		t.Errorf("error %v; want one that names the GPU that is not there", err)
	}
	const want = `
      GPU0  GPU1  NIC0  NIC1  CPU Affinity  NUMA Affinity
GPU0  X     ?     PIX   SYS   16-31         1
GPU1  ?     ?     ?     ?     ?             ?
NIC0  PIX   ?     X     SYS   16-31         1
NIC1  SYS   ?     SYS   X                   N/A

GPU0  0000:3e:00.0   GPU0
GPU1  0000:99:00.0   lost
NIC0  0000:3d:00.0   NIC0
NIC1  10000:e0:00.0  far
`
	if diff := gocmp.Diff(want[1:], got.String()); diff != "" {
		t.Errorf("matrix (-want +got):\n%s", diff)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

var errFull = errors.New("full")

func TestWriteMatrixFails(t *testing.T) {
	m := draw(t, server)
	if err := m.read(t).WriteMatrix(full{}, m.gpus, m.nics); !errors.Is(err, errFull) {
		t.Errorf("error %v; want that of the writer", err)
	}
}
