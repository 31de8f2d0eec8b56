// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// NoTrafficClass is the traffic class of a port whose driver forces none on anybody.
const NoTrafficClass = -1

// TrafficClass returns the traffic class (the byte that is the type of service for IPv4) that the driver writes into every packet of
// the port, whatever programs ask for, or NoTrafficClass. Drivers of NVIDIA's DOCA and MLNX_OFED packages have the setting, the
// kernel's own do not: then it is an ErrUnsupported.
func TrafficClass(sys fs.FS, device string, port int) (int, error) {
	file, err := trafficClassFile(device, port)
	if err != nil {
		return 0, err
	}
	text, err := attribute(sys, file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, fmt.Errorf("rdma device %s port %d: its driver forces no traffic class: %w", device, port, ErrUnsupported)
	case err != nil:
		return 0, err
	}
	// The lines after it are rules for single peers, which stand behind it.
	line, _, _ := strings.Cut(text, "\n")
	value, ok := strings.CutPrefix(line, "Global tclass=")
	if !ok {
		return NoTrafficClass, nil
	}
	n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 8)
	if err != nil {
		return 0, damaged(file, line, "a traffic class up to 255")
	}
	return int(n), nil
}

// SetTrafficClass sets it, for all that is sent from then on, connections that exist included. sys is where sysfs is mounted: /sys. It
// is an ErrUnsupported if the driver does not have the setting.
func SetTrafficClass(sys, device string, port, class int) error {
	if class < NoTrafficClass || class > 255 {
		return fmt.Errorf("%d is no traffic class", class)
	}
	file, err := trafficClassFile(device, port)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(sys, file), os.O_WRONLY|os.O_TRUNC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("rdma device %s port %d: its driver forces no traffic class: %w", device, port, ErrUnsupported)
	case err != nil:
		return err
	}
	_, err = f.WriteString(strconv.Itoa(class))
	return errors.Join(err, f.Close())
}

func trafficClassFile(device string, port int) (string, error) {
	dir, err := deviceDir(device)
	return path.Join(dir, "tc", strconv.Itoa(port), "traffic_class"), err
}
