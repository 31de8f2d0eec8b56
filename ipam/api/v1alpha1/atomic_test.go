// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/test/cluster"
)

// TestMirrorOfVersionBefore: the lists of a block's status had keys once. A block of then is read and written with the resource of
// today, and loses what the API server kept of each entry.
func TestMirrorOfVersionBefore(t *testing.T) {
	root, err := cluster.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(filepath.Join(root, "manifests/crd/ipam.railyard.dev_ipblocks.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	before := string(now)
	for list, key := range map[string]string{"nodes": "node", "leases": "address"} {
		at := strings.Index(before, "\n              "+list+":\n")
		end := at + strings.Index(before[at:], "x-kubernetes-list-type: atomic")
		if at < 0 || end < at {
			t.Fatalf("status.%s is no atomic list", list)
		}
		before = before[:end] + "x-kubernetes-list-map-keys: [" + key + "]\n                x-kubernetes-list-type: map" + before[end+len("x-kubernetes-list-type: atomic"):]
	}
	server := cluster.NewAPI(t)
	scheme := runtime.NewScheme()
	_ = v1alpha1.AddToScheme(scheme)
	c, err := client.New(server.RESTConfig(), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.ApplyYAML(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	b := &v1alpha1.IPBlock{}
	b.Name, b.Spec = "p.10-0-0-0", v1alpha1.IPBlockSpec{Pool: "p", PoolUID: "u", Slot: "10.0.0.0/26"}
	if err := c.Create(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	var leases []v1alpha1.BlockLease
	for i := range 64 {
		leases = append(leases, v1alpha1.BlockLease{
			Address: fmt.Sprintf("10.0.0.%d", i), Node: "n", Network: "default/rail0", ContainerID: fmt.Sprintf("%064d", i), IfName: "net1", Namespace: "training", Pod: "worker",
		})
	}
	b.Status.SetNode(v1alpha1.NodeUsage{Node: "n", Leased: 64}, leases)
	if err := c.Status().Update(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	keyed := size(t, b)
	if err := server.ApplyYAML(t.Context(), string(now)); err != nil {
		t.Fatal(err)
	}
	var atomic int
	cluster.Eventually(t, "the resource of today is in force", func() error { // the API server takes it in by and by
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(b), b); err != nil {
			return err
		}
		if len(b.Status.Leases) != 64 {
			t.Fatalf("%d leases are read", len(b.Status.Leases))
		}
		b.Status.Leases[0].Pod = time.Now().Format("at-150405-000000000")
		if err := c.Status().Update(t.Context(), b); err != nil {
			return err
		}
		if atomic = size(t, b); atomic > keyed*3/4 {
			return fmt.Errorf("%d bytes, with keys %d", atomic, keyed)
		}
		return nil
	})
	t.Logf("a block of 64 leases is %d bytes, with keys %d", atomic, keyed)
}

func size(t *testing.T, b *v1alpha1.IPBlock) int {
	t.Helper()
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return len(text)
}
