// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

func TestAPIServer(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	api := NewAPI(t)
	cfg, err := api.NodeConfig(ctx, "n1")
	if err != nil {
		t.Fatal(err)
	}
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	who, err := c.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := who.Status.UserInfo.Username, "system:serviceaccount:railyard-system:railyard-agent"; got != want {
		t.Errorf("user is %q, want %q", got, want)
	}
	if got := who.Status.UserInfo.Extra["authentication.kubernetes.io/node-name"]; len(got) != 1 || got[0] != "n1" {
		t.Errorf("node name in the credential is %q, want n1", got)
	}
	if err := api.ApplyYAML(ctx, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kept, namespace: default}\n"); err != nil {
		t.Fatal(err)
	}
	api.StopServer()
	if _, err := api.Client().CoreV1().Pods("").List(ctx, metav1.ListOptions{}); !IsUnavailable(err) {
		t.Errorf("List on a stopped API server returned %v, want an unavailable error", err)
	}
	// Somebody else takes the port meanwhile.
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(api.Port())))
	if err != nil {
		t.Fatal(err)
	}
	if err := api.RestartServer(ctx); !errors.Is(err, errPortTaken) {
		t.Errorf("RestartServer on a port that is taken returned %v, want %v", err, errPortTaken)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := api.RestartServer(ctx); err != nil {
		t.Fatal(err)
	}
	var cm *corev1.ConfigMap
	if cm, err = api.Client().CoreV1().ConfigMaps("default").Get(ctx, "kept", metav1.GetOptions{}); err != nil {
		t.Fatalf("an object is lost over a restart of the API server: %v, %v", cm, err)
	}
}

func TestMissingTool(t *testing.T) {
	t.Parallel()
	_, err := StartAPI(t.Context(), APIOptions{Tools: Tools(t.TempDir())})
	if err == nil || !strings.Contains(err.Error(), "make tools") {
		t.Errorf("StartAPI without tools returned %v, want what to do", err)
	}
}

func TestServerThatDies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := StartAPI(t.Context(), APIOptions{Dir: dir, Flags: []string{"--no-such-flag"}})
	if err == nil || !strings.Contains(err.Error(), "unknown flag: --no-such-flag") {
		t.Errorf("StartAPI returned %v, want the end of the server's log", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left after a failed start: %v, %v", left, err)
	}
}
