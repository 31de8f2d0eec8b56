// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"encoding/json"
	"testing"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/railyard-net/railyard/test/cluster"
)

// TestGPU: the API server takes what GPUs need beside the rest, and it is the device plugin alone that may do more.
func TestGPU(t *testing.T) {
	out, err := api.Kubectl(t.Context(), "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-o", "json", "-k", "gpu").Output()
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Items []json.RawMessage }
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatal(err)
	}
	for _, item := range list.Items {
		var ds appsv1.DaemonSet
		if json.Unmarshal(item, &ds) != nil || ds.Kind != "DaemonSet" || ds.Namespace != cluster.AgentNamespace {
			continue
		}
		privileged := map[string]bool{}
		for _, c := range ds.Spec.Template.Spec.Containers {
			privileged[c.Name] = c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
		}
		if len(privileged) != 2 || privileged["agent"] || !privileged["device-plugin"] {
			t.Errorf("privileged: %v", privileged)
		}
		return
	}
	t.Error("there is no DaemonSet")
}
