// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"bytes"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/compat"
)

// Report writes the plan for a person: the pools, each address that is in use, what forbids to begin, and the steps.
func (p Plan) Report(w io.Writer) error {
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "POOL\tSTATE\tSUBNET\tDOMAIN\tIN USE\tNODES' BLOCKS")
	for _, x := range p.Pools {
		for _, s := range x.pool.Subnets {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\n", x.Object.Name, x.State, s.Prefix, orDefault(x.Object.Spec.Domain), len(x.Holds), len(x.Shares))
		}
	}
	fmt.Fprintln(t, "\nADDRESS\tPOOL\tHOLDER\tNODE\tKNOWN BY")
	for _, x := range p.Pools {
		for _, h := range x.Holds {
			holder := h.Pod
			if h.UID == ipam.HoldUnknown {
				holder += " (no such pod)"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", h.Addr, x.Object.Name, holder, h.Node, h.Why)
		}
		for _, s := range x.Shares {
			fmt.Fprintf(t, "%v\t%s\t(the node looks after them)\t%s\tblock\n", s.Ranges, x.Object.Name, s.Node)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	list := func(title string, lines []string) {
		if len(lines) > 0 {
			fmt.Fprintf(&b, "\n%s:\n", title)
		}
		for _, l := range lines {
			fmt.Fprintf(&b, "  - %s\n", l)
		}
	}
	list("Does not come along", p.Lost)
	list("Still gives addresses, and has to stop", p.Giving)
	list("Has to be settled first", p.Problems)
	fmt.Fprint(&b, p.steps())
	_, err := w.Write(b.Bytes())
	return err
}

func orDefault(domain string) string {
	if domain == "" {
		return compat.DefaultDomain
	}
	return domain
}

// steps are those of the user's page. Whereabouts' program is replaced before it loses its rights: without them it takes a
// minute to fail, in every DEL.
func (p Plan) steps() string {
	if p.Source == compat.TypeNVIPAM {
		return `
Steps, in this order; new pods wait from 1 to 4, running ones notice nothing:
  1. delete nv-ipam's controller and the DaemonSet of its node daemon;
  2. give "railyard-agent install", of the DaemonSet, --as=nv-ipam;
  3. nothing makes pools of new definitions: create IPPools under the names that they use;
  4. run this command with --apply: the pools are made, what is in use is fenced, the pools are opened;
  5. see that pods start, then delete the old objects and their definitions (CRDs).
`
	}
	return `
Steps, in this order; new pods wait from 2 to 4, running ones notice nothing:
  1. run railyard-controller with --whereabouts-pools, and delete whereabouts' DaemonSet, which would install its program again;
  2. give "railyard-agent install", of the DaemonSet, --as=whereabouts;
  3. delete the ClusterRoleBinding of whereabouts' service account;
  4. run this command with --apply: the pools are made, what is in use is fenced, the pools are opened;
  5. see that pods start, then delete the old objects and their definitions (CRDs).
`
}
