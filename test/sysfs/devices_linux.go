// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// DriverVersion is what the simulated NVIDIA library says.
const DriverVersion = "999.99.99"

// WriteDevices makes, below DIR, what belongs to the machine beside its sysfs: dev/infiniband with the files of RDMA devices, and driver, the root of an NVIDIA driver
// whose library is a copy of the file library (nvml/nvml.c, compiled). The files are null devices by other names. It needs the right to make such.
func (m *Machine) WriteDevices(dir, library string) error {
	nodes := []string{"dev/infiniband/rdma_cm", "driver/dev/nvidiactl", "driver/dev/nvidia-uvm"}
	for _, f := range m.Functions {
		if f.isNIC() && !f.has("nordma") {
			for _, name := range []string{"uverbs", "umad", "issm"} {
				nodes = append(nodes, "dev/infiniband/"+name+strconv.Itoa(f.rdma))
			}
		}
	}
	var list strings.Builder
	for _, g := range m.GPUs().GPUs {
		fmt.Fprintln(&list, g.Addr, g.UUID, g.Minor)
		nodes = append(nodes, "driver/dev/nvidia"+strconv.Itoa(g.Minor))
	}
	for _, name := range nodes {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make %s: %w", path, err)
		}
	}
	code, err := os.ReadFile(library)
	if err != nil {
		return err
	}
	lib := filepath.Join(dir, "driver/usr/lib64")
	return errors.Join(
		os.MkdirAll(lib, 0o755),
		os.WriteFile(filepath.Join(lib, "libnvidia-ml.so.1"), code, 0o755),
		os.WriteFile(filepath.Join(lib, "libcuda.so."+DriverVersion), nil, 0o755),
		os.WriteFile(filepath.Join(dir, "driver/gpus"), []byte(list.String()), 0o644),
	)
}
