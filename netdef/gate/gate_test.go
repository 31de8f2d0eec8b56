// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	up, down := agent{true, "run-2"}, agent{false, "run-2"}
	old := agent{true, "run-1"}
	type state struct {
		taints []string
		note   string
	}
	gated, open := []string{"other", Taint}, []string{"other"}
	for name, tc := range map[string]struct {
		mode   Mode
		before state
		agents []agent
		want   state
	}{
		"off":                                {Off, state{gated, ""}, []agent{up}, state{gated, ""}},
		"registered, ready":                  {Startup, state{gated, ""}, []agent{up}, state{open, ""}},
		"registered, not ready":              {Startup, state{gated, ""}, []agent{down}, state{gated, ""}},
		"registered, no agent":               {Startup, state{gated, ""}, nil, state{gated, ""}},
		"startup never sets it":              {Startup, state{open, "boot-1 run-1"}, []agent{down}, state{open, "boot-1 run-1"}},
		"no container yet":                   {Startup, state{gated, ""}, []agent{{true, ""}}, state{gated, ""}},
		"two agents during an update":        {Startup, state{gated, ""}, []agent{down, up}, state{open, ""}},
		"new node, not ready":                {Boot, state{open, ""}, []agent{down}, state{open, ""}},
		"new node, ready":                    {Boot, state{gated, ""}, []agent{up}, state{open, "boot-2 run-2"}},
		"booted, the kubelet's old word":     {Boot, state{open, "boot-1 run-1"}, []agent{old}, state{gated, "boot-1 run-1"}},
		"booted, gated, the old word":        {Boot, state{gated, "boot-1 run-1"}, []agent{old}, state{gated, "boot-1 run-1"}},
		"booted, not ready":                  {Boot, state{open, "boot-1 run-1"}, []agent{down}, state{gated, "boot-1 run-1"}},
		"booted, ready":                      {Boot, state{gated, "boot-1 run-1"}, []agent{up}, state{open, "boot-2 run-2"}},
		"restarted in this boot":             {Boot, state{open, "boot-2 run-1"}, []agent{down}, state{open, "boot-2 run-1"}},
		"ready again in this boot":           {Boot, state{open, "boot-2 run-1"}, []agent{up}, state{open, "boot-2 run-2"}},
		"no agent is meant to be there":      {Boot, state{open, "boot-1 run-1"}, nil, state{open, "boot-1 run-1"}},
		"nothing has changed":                {Boot, state{open, "boot-2 run-2"}, []agent{up}, state{open, "boot-2 run-2"}},
		"somebody has written the note anew": {Boot, state{open, "nonsense"}, []agent{up}, state{open, "boot-2 run-2"}},
	} {
		n := &corev1.Node{}
		n.Status.NodeInfo.BootID = "boot-2"
		for _, k := range tc.before.taints {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: k, Effect: corev1.TaintEffectNoExecute})
		}
		if tc.before.note != "" {
			n.Annotations = map[string]string{Annotation: tc.before.note}
		}
		judge(n, tc.agents, tc.mode)
		got := state{note: n.Annotations[Annotation]}
		for _, taint := range n.Spec.Taints {
			got.taints = append(got.taints, taint.Key)
		}
		if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(state{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
