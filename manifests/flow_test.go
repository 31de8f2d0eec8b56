// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"io"
	"net/http"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/railyard-net/railyard/test/cluster"
)

// TestAgentsHaveTheirOwnFlow asks the API server by which of its flows and levels it serves agents, and others.
func TestAgentsHaveTheirOwnFlow(t *testing.T) {
	flow, err := api.Client().FlowcontrolV1().FlowSchemas().Get(t.Context(), "railyard-agent", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	level, err := api.Client().FlowcontrolV1().PriorityLevelConfigurations().Get(t.Context(), "railyard-agent", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	agent, err := api.NodeConfig(t.Context(), "flow")
	if err != nil {
		t.Fatal(err)
	}
	other, err := api.ServiceAccountConfig(t.Context(), cluster.AgentNamespace, "somebody-else")
	if err != nil {
		t.Fatal(err)
	}
	served := func(cfg *rest.Config) (string, string) {
		web, err := rest.HTTPClientFor(cfg)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := web.Get(cfg.Host + "/apis/ipam.railyard.dev/v1alpha1/ipblocks")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.Header.Get(flowHeader), resp.Header.Get(levelHeader)
	}
	cluster.Eventually(t, "agents are served by their own flow", func() error {
		if f, l := served(agent); f != string(flow.UID) || l != string(level.UID) {
			return &servedError{f, l}
		}
		return nil
	})
	if f, _ := served(other); f == string(flow.UID) || f == "" {
		t.Errorf("another service account is served by the flow %q", f)
	}
}

// The headers of an answer that say by what it was served.
var flowHeader, levelHeader = http.CanonicalHeaderKey("X-Kubernetes-PF-FlowSchema-UID"), http.CanonicalHeaderKey("X-Kubernetes-PF-PriorityLevel-UID")

type servedError struct{ flow, level string }

func (e *servedError) Error() string { return "served by flow " + e.flow + ", level " + e.level }
