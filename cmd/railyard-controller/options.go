// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"slices"
	"time"

	"github.com/railyard-net/railyard/cmd/internal/daemon"
	pools "github.com/railyard-net/railyard/ipam/controller"
	"github.com/railyard-net/railyard/netdef/gate"
)

// options is what the command line and the environment say, checked.
type options struct {
	daemon.Options

	whereaboutsPools     bool
	leaderElect          bool
	leaderElectNamespace string
	leaseDuration        time.Duration
	renewDeadline        time.Duration
	retryPeriod          time.Duration

	quarantine time.Duration
	nodeGate   string
}

func command() daemon.Command {
	return daemon.Command{
		Name: "railyard-controller",
		Intro: `railyard-controller renders network resources (MacvlanNetwork, HostDeviceNetwork, IPoIBNetwork,
RailNetwork) to NetworkAttachmentDefinitions, and accepts IPPools and sums them up. Two or more may
run in a cluster: one leads, the others stand by. No pod waits for it to start or stop.

"railyard-controller migrate" takes over the addresses of whereabouts or nv-ipam; it has a --help of its own.
`,
		Sections: []daemon.Section{
			{Title: "Cluster", Flags: daemon.Cluster()},
			{Title: "Addresses", Flags: []string{"quarantine"}},
			{Title: "Nodes", Flags: []string{"node-gate"}},
			{Title: "In the place of others", Flags: []string{"whereabouts-pools"}},
			{Title: "Several controllers", Flags: []string{
				"leader-elect", "leader-elect-namespace", "leader-elect-lease-duration", "leader-elect-renew-deadline", "leader-elect-retry-period",
			}},
			{Title: "Watching the controller", Flags: daemon.Watching()},
		},
		Outro: "SIGTERM or SIGINT stops it: what is under way is finished and the Lease given back. Exit status 0.\n",
	}
}

func (o *options) flags() *flag.FlagSet {
	fs := command().FlagSet()
	o.Register(fs, ":9478")
	fs.BoolVar(&o.whereaboutsPools, "whereabouts-pools", false, "make the IPPools that NetworkAttachmentDefinitions with ipam.type whereabouts mean")
	fs.BoolVar(&o.leaderElect, "leader-elect", true, "lead only while holding the Lease "+leaseName+"; off: be sure that only one runs")
	fs.StringVar(&o.leaderElectNamespace, "leader-elect-namespace", "railyard-system", "`namespace` of that Lease")
	fs.DurationVar(&o.leaseDuration, "leader-elect-lease-duration", 15*time.Second, "how long a leader that died without a word is waited for")
	fs.DurationVar(&o.renewDeadline, "leader-elect-renew-deadline", 10*time.Second, "how long a leader tries to renew before it gives up and ends")
	fs.DurationVar(&o.quarantine, "quarantine", pools.DefaultQuarantine, "how long the addresses of a node that is gone are held back before other nodes may have them")
	fs.StringVar(&o.nodeGate, "node-gate", string(gate.Startup), "the taint "+gate.Taint+": `startup` takes it off a node when its agent is ready;\n      boot also sets it when a node has booted; off")
	fs.DurationVar(&o.retryPeriod, "leader-elect-retry-period", 2*time.Second, "how often the Lease is looked at or renewed")
	return fs
}

func parseOptions(args []string, getenv func(string) string) (options, error) {
	var o options
	if err := command().Parse(o.flags(), args, getenv); err != nil || o.Version {
		return o, err
	}
	return o, o.check()
}

func (o *options) check() error {
	var faults daemon.Faults
	if o.leaderElect && o.leaderElectNamespace == "" {
		faults.Add("leader-elect-namespace", "is empty: give the namespace that the Lease is kept in")
	}
	if o.quarantine <= 0 {
		faults.Add("quarantine", "%v is no time: what a node owned that is only restarting must not go to others", o.quarantine)
	}
	if !slices.Contains(gate.Modes(), gate.Mode(o.nodeGate)) {
		faults.Add("node-gate", "%.40q is none of %v", o.nodeGate, gate.Modes())
	}
	// The conditions that the election itself checks, with names that its user knows.
	if o.retryPeriod <= 0 || o.renewDeadline < 2*o.retryPeriod {
		faults.Add("leader-elect-renew-deadline", "%v is less than twice --leader-elect-retry-period (%v)", o.renewDeadline, o.retryPeriod)
	}
	if o.leaseDuration <= o.renewDeadline {
		faults.Add("leader-elect-lease-duration", "%v is not more than --leader-elect-renew-deadline (%v)", o.leaseDuration, o.renewDeadline)
	}
	o.Check(&faults)
	return faults.Err()
}
