// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const (
	containerSpec = "/etc/containerd/container.json"
	bootIDHook    = "/etc/containerd/boot-id"
)

// bootIDScript is a hook of the OCI runtime, which gives it the container's state. It runs among the container's mounts, before these
// become all that the container sees.
const bootIDScript = `#!/bin/sh
bundle=$(sed -n 's/.*"bundle": *"\([^"]*\)".*/\1/p')
exec mount --bind %s "$bundle/rootfs/proc/sys/kernel/random/boot_id"
`

// configureContainers has every container of the machine see the machine's boot ID, as on a machine that has a kernel of its own: a
// container has a /proc of its own, before which nothing is put. What a program in a container writes about this boot must be taken
// for that by the machine's own.
func (s Spec) configureContainers(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, filepath.Join(s.Containerd, "ctr"), "oci", "spec").Output()
	if err != nil {
		return fmt.Errorf("ctr oci spec: %w", err)
	}
	var spec map[string]any
	if err := json.Unmarshal(out, &spec); err != nil {
		return fmt.Errorf("ctr oci spec: %w", err)
	}
	spec["hooks"] = map[string]any{"createContainer": []any{map[string]any{"path": bootIDHook}}}
	data, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(containerSpec, data, 0o644); err != nil {
		return err
	}
	return os.WriteFile(bootIDHook, fmt.Appendf(nil, bootIDScript, s.BootID), 0o755)
}
