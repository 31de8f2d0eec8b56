// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
	"github.com/railyard-net/railyard/rdma"
)

const tempFile = ".railyard.tmp"

// deviceInfo is the device information of the Network Plumbing Working Group's device-info-spec 1.1.0, section 4.
type deviceInfo struct {
	Type    string  `json:"type"`
	Version string  `json:"version"`
	PCI     pciInfo `json:"pci"`
}

type pciInfo struct {
	Address string `json:"pci-address"`
	PF      string `json:"pf-pci-address,omitempty"`
	// RDMA are the names that its RDMA devices have now, with commas between.
	RDMA string `json:"rdma-device,omitempty"`
}

// planDeviceInfo decides whether to write the file: if it is asked for and a device is known. A file of the same device
// that is there already is the device plugin's, by way of Multus: it knows more, and is left as it is.
func planDeviceInfo(sys fs.FS, r *rail) (*journal.File, pciInfo) {
	file, info := r.spec.DeviceInfoFile, pciInfo{Address: cmp.Or(r.spec.DevicePCI, r.master.pci)}
	if file == "" || info.Address == "" {
		return nil, pciInfo{}
	}
	if b, err := os.ReadFile(file); err == nil {
		var there deviceInfo
		if json.Unmarshal(b, &there) == nil && there.PCI.Address == info.Address {
			return nil, pciInfo{}
		}
	}
	if pf, _, virtual, err := rdma.PhysFn(sys, rdma.BusAddr(info.Address)); err == nil && virtual {
		info.PF = string(pf)
	}
	info.RDMA = strings.Join(r.rdma.names(), ",")
	return &journal.File{Path: file}, info
}

func writeDeviceInfo(f *journal.File, info pciInfo) error {
	b, err := json.Marshal(deviceInfo{Type: "pci", Version: "1.1.0", PCI: info})
	if err != nil {
		return err
	}
	// The temporary file has a fixed name, as the attachment is locked, so that DEL finds what a dead ADD left.
	err = os.MkdirAll(filepath.Dir(f.Path), 0o755)
	if err == nil {
		err = os.WriteFile(f.Path+tempFile, b, 0o644)
	}
	if err == nil {
		err = os.Rename(f.Path+tempFile, f.Path)
	}
	if err != nil {
		return dispatch.Errorf(dispatch.CodeIO, "write the device information: %w", err)
	}
	return nil
}

func removeFile(f *journal.File) error {
	for _, name := range []string{f.Path, f.Path + tempFile} {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return dispatch.Errorf(dispatch.CodeIO, "remove a file that the ADD wrote: %w", err)
		}
	}
	return nil
}
