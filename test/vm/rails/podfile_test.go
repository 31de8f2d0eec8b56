//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The pod's file says which RDMA device and which GIDs are the pod's, with the indices that they have.
func TestPluginPodFile(t *testing.T) {
	needShared(t)
	a := sharers(t, 1)[0]
	a.conf["ipam"], a.conf["rdma"] = at(t, "10.9.0.11/24"), "required"
	a.env = []string{"CNI_ARGS=K8S_POD_UID=0c6a8b52-1f3e-4a57"}
	a.mustRun("ADD")
	file := filepath.Join(a.conf["stateDir"].(string), "pods/0c6a8b52-1f3e-4a57/net1.json")
	b, err := os.ReadFile(file)
	must(t, err)
	var got map[string]any
	must(t, json.Unmarshal(b, &got))
	gid := waitGID(t, "rxe0", "10.9.0.11")
	link := a.pod.get("net1").Attrs()
	want := map[string]any{"version": 1.0, "network": "rail0", "containerID": "c0", "interfaces": []any{map[string]any{
		"interface": "net1", "mac": link.HardwareAddr.String(), "mtu": float64(link.MTU), "parent": "r0", "addresses": []any{"10.9.0.11/24"},
		"rdma": []any{map[string]any{
			"device": "rxe0", "ports": []any{map[string]any{"number": 1.0, "linkLayer": "Ethernet", "roceToS": 106.0}},
			"gids": []any{map[string]any{"address": "10.9.0.11", "device": "rxe0", "port": 1.0, "index": float64(gid.index), "type": "RoCE v2"}},
		}},
	}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	a.mustRun("DEL")
	if _, err := os.Stat(filepath.Dir(file)); !os.IsNotExist(err) {
		t.Errorf("DEL left it: %v", err)
	}
}
