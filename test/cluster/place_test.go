// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// TestAPIInLAN: an API server in a LAN is reached from the host and from the LAN, at the same addresses after an outage, and a kubelet
// may write its own Node alone.
func TestAPIInLAN(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	lan, err := NewLAN()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lan.Close() })
	api := NewAPIWith(t, APIOptions{LAN: lan})
	port := api.Port()
	api.StopServer()
	if _, err := api.Client().CoreV1().Nodes().List(ctx, metav1.ListOptions{}); !IsUnavailable(err) {
		t.Errorf("List on a stopped API server returned %v, want an unavailable error", err)
	}
	if err := api.RestartServer(ctx); err != nil {
		t.Fatal(err)
	}
	if api.Port() != port {
		t.Errorf("the port was %d, and is %d after an outage", port, api.Port())
	}
	if err := lan.space.do(func() error {
		conn, err := net.DialTimeout("tcp", ServiceAPIAddress+":443", 10*time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	}); err != nil {
		t.Errorf("from the LAN: %v", err)
	}
	path, err := api.ComponentKubeconfig("system:node:mine", "system:nodes")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.BuildConfigFromFlags(api.URL(), path)
	if err != nil {
		t.Fatal(err)
	}
	kubelet, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for name, allowed := range map[string]bool{"mine": true, "another": false} {
		_, err := kubelet.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if allowed && err != nil || !allowed && !apierrors.IsForbidden(err) {
			t.Errorf("the kubelet of mine creates the Node %s: %v", name, err)
		}
	}
}
