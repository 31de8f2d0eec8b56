// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package boot is the inside of a whole machine: the first process of its namespaces, which furnishes them, runs containerd and the
// kubelet, starts them again when they end, and reaps what loses its parent, as systemd does on a real one.
//
// It takes two steps. [Furnish] runs in new mount, UTS, IPC and PID namespaces, in the machine's network namespace, and waits for
// one byte on stdin, which says that it is in the machine's cgroups; it makes these the root of all cgroups, mounts what a machine
// has of its own, and replaces itself by [Serve].
//
// All of the host's files are seen at their paths. What a machine writes to /etc, /opt and /var goes to its disk, which outlives a
// reboot; /run, /proc and /sys are its own and don't. Settings of the kernel that a kubelet would change are hidden behind files.
//
// On stdin come orders, one a line: "stop NAME" and "start NAME", where a name is containerd or kubelet, and "kill NAME" for one
// that is to come back by itself.
package boot

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
)

// Spec says what a machine is. It is handed over in a file.
type Spec struct {
	// Name is the host's name and the Node's.
	Name string `json:"name"`
	// Disk is a folder for what outlives a reboot. It must be able to hold overlayfs's upper layers.
	Disk string `json:"disk"`
	// BootID and MachineID are the files that the machine shows for these.
	BootID    string `json:"bootID"`
	MachineID string `json:"machineID"`
	// Cgroups is what is mounted under /sys/fs/cgroup: the v1 hierarchies, or none for v2.
	Cgroups []string `json:"cgroups"`

	// Kubenode, Containerd and CNI are the tools of these names, a program and two folders; Runc is a program.
	Kubenode   string `json:"kubenode"`
	Containerd string `json:"containerd"`
	CNI        string `json:"cni"`
	Runc       string `json:"runc"`
	// Images are archives that are imported on the first boot; Sandbox is the image among them that holds a pod's namespaces.
	Images  []string `json:"images"`
	Sandbox string   `json:"sandbox"`

	// Kubeconfig is the kubelet's access, ClientCA what its own clients are known by.
	Kubeconfig string `json:"kubeconfig"`
	ClientCA   string `json:"clientCA"`
	// Addr is the machine's own address, Pods the subnet of its pods on the cluster's default network.
	Addr netip.Addr   `json:"addr"`
	Pods netip.Prefix `json:"pods"`
}

func readSpec(path string) (Spec, error) {
	var s Spec
	data, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// Write writes the spec for Furnish.
func (s Spec) Write(path string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
