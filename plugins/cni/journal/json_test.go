// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package journal_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/plugins/cni/journal"
)

// plainStep is how package json would write a Step by itself, and how all versions wrote it.
type plainStep struct {
	Lease    *journal.Lease    `json:"lease,omitempty"`
	Delegate *journal.Delegate `json:"delegate,omitempty"`
	Link     *plainLink        `json:"link,omitempty"`
	RDMA     *journal.RDMA     `json:"rdma,omitempty"`
	Sysctl   *journal.Sysctl   `json:"sysctl,omitempty"`
	Rule     *journal.Rule     `json:"rule,omitempty"`
	File     *journal.File     `json:"file,omitempty"`
	ToS      *journal.ToS      `json:"tos,omitempty"`
}

// plainLink has the fields of a Link whose types write themselves as theirs without methods.
type plainLink struct {
	Kind string     `json:"kind"`
	Mode string     `json:"mode"`
	Name string     `json:"name"`
	MAC  string     `json:"mac"`
	MTU  int        `json:"mtu"`
	Host *plainHost `json:"host,omitempty"`
	GIDs []plainGID `json:"gids,omitempty"`
}

type (
	plainHost journal.Host
	plainGID  journal.GID
)

// TestStepJSON: a step is in the file what it always was.
func TestStepJSON(t *testing.T) {
	old := "0"
	lease := &journal.Lease{Pool: "p", StateDir: "/s", AgentSocket: "/s/a"}
	delegate := &journal.Delegate{Type: "dhcp", Path: "/bin", Config: json.RawMessage(`{"a":["b"]}`)}
	rdma, rule := &journal.RDMA{Name: "mlx5_0"}, &journal.Rule{Table: 1000, Priority: 7}
	sysctl, file := &journal.Sysctl{Path: "net/a", Value: "1", Old: &old}, &journal.File{Path: "/f", Container: "c"}
	tos := &journal.ToS{Device: "mlx5_0", Port: 1, Value: 106, OldClass: new(7)}
	link := journal.Link{Kind: "host-device", Name: "net1", MAC: "02:00:00:00:00:01", MTU: 9000,
		Host: &journal.Host{Tag: "t", Name: "dev0", AltNames: []string{"a"}, Details: []journal.Address{{Prefix: "10.0.0.1/8"}}, VF: &journal.VF{}},
		GIDs: []journal.GID{{Address: "10.0.0.1", Device: "mlx5_0", Port: 1, Index: 3, Type: "RoCE v2"}}}
	plain := plainLink{Kind: link.Kind, Name: link.Name, MAC: link.MAC, MTU: link.MTU, Host: (*plainHost)(link.Host), GIDs: []plainGID{plainGID(link.GIDs[0])}}
	for name, c := range map[string]struct {
		step journal.Step
		want plainStep
	}{
		"lease":    {journal.Step{Lease: lease}, plainStep{Lease: lease}},
		"delegate": {journal.Step{Delegate: delegate}, plainStep{Delegate: delegate}},
		"link":     {journal.Step{Link: &link}, plainStep{Link: &plain}},
		"made":     {journal.Step{Link: &journal.Link{Kind: "macvlan", Name: "net1"}}, plainStep{Link: &plainLink{Kind: "macvlan", Name: "net1"}}},
		"rdma":     {journal.Step{RDMA: rdma}, plainStep{RDMA: rdma}},
		"sysctl":   {journal.Step{Sysctl: sysctl}, plainStep{Sysctl: sysctl}},
		"rule":     {journal.Step{Rule: rule}, plainStep{Rule: rule}},
		"file":     {journal.Step{File: file}, plainStep{File: file}},
		"tos":      {journal.Step{ToS: tos}, plainStep{ToS: tos}},
		"newer":    {journal.Step{}, plainStep{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := json.Marshal(c.step)
			if err != nil {
				t.Fatal(err)
			}
			want, err := json.Marshal(c.want)
			if err != nil || string(got) != string(want) {
				t.Errorf("%s, want %s, %v", got, want, err)
			}
			var back journal.Step
			if err := json.Unmarshal(want, &back); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.step, back); diff != "" {
				t.Errorf("read (-want +got):\n%s", diff)
			}
		})
	}
	for _, text := range []string{`{"link":7}`, `{"link":{"mtu":"x"}}`, `{"lease":[]}`, `7`} {
		if err := json.Unmarshal([]byte(text), new(journal.Step)); err == nil {
			t.Errorf("%s was taken for a step", text)
		}
	}
	var newer journal.Step
	if err := json.Unmarshal([]byte(`{"teleport":{"to":"mars"}}`), &newer); err != nil || newer.Known() {
		t.Errorf("a step of a newer version: %+v, %v", newer, err)
	}
}
