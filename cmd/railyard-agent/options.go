// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"path/filepath"
	"strings"
	"time"

	"github.com/railyard-net/railyard/cmd/internal/daemon"
	"github.com/railyard-net/railyard/plugins/kubelet"
)

// options is what the command line and the environment say, checked.
type options struct {
	daemon.Options

	nodeName string

	stateDir       string
	socket         string
	lockTimeout    time.Duration
	gcInterval     time.Duration
	gcGrace        time.Duration
	abandonedGrace time.Duration
	kubeletSocket  string
	releaseAfter   time.Duration
	cedeWait       time.Duration
	mirrorInterval time.Duration

	installDir  string
	installFrom string
	installAs   names
}

// names are a list with commas between.
type names []string

func (n *names) String() string { return strings.Join(*n, ",") }

func (n *names) Set(text string) error {
	*n = nil
	if text != "" {
		*n = strings.Split(text, ",")
	}
	return nil
}

func command() daemon.Command {
	return daemon.Command{
		Name: "railyard-agent",
		Intro: `railyard-agent runs on every node. It leases addresses to the CNI plugins of the node through a
socket, claims and returns blocks of addresses in the API, and ends the leases of namespaces
that are gone. Pods start and stop while the API server is down, on the addresses at hand.

"railyard-agent install" and "railyard-agent uninstall" put the CNI plugins on the node and take them
away; each has a --help of its own.
`,
		Sections: []daemon.Section{
			{Title: "Cluster", Flags: append([]string{"node-name"}, daemon.Cluster()...)},
			{Title: "Addresses of this node", Flags: []string{
				"state-dir", "socket", "lock-timeout", "gc-interval", "gc-grace", "abandoned-grace", "kubelet-socket", "release-after", "cede-wait", "mirror-interval",
			}},
			{Title: "CNI binaries", Flags: []string{"install-dir", "install-from", "install-as"}},
			{Title: "Watching the agent", Flags: daemon.Watching()},
		},
		Outro:   "SIGTERM or SIGINT stops it: requests under way are finished, leases stay. Exit status 0.\n",
		Aliases: map[string]string{"node-name": "NODE_NAME"},
	}
}

func (o *options) flags() *flag.FlagSet {
	fs := command().FlagSet()
	o.Register(fs, ":9477")
	fs.StringVar(&o.nodeName, "node-name", "", "`name` of this node's Node object; NODE_NAME is read too")

	fs.StringVar(&o.stateDir, "state-dir", "/run/railyard", "`folder` of the lease store; must be on tmpfs, it lives as long as the boot")
	fs.StringVar(&o.socket, "socket", "", "`path` of the socket for the CNI plugins; empty: agent.sock in the state dir")
	fs.DurationVar(&o.lockTimeout, "lock-timeout", 15*time.Second, "how long to wait for another process to let go of the store")
	fs.DurationVar(&o.gcInterval, "gc-interval", 30*time.Second, "how often leases and attachments are compared with the network namespaces alive")
	fs.DurationVar(&o.gcGrace, "gc-grace", time.Minute, "how long a namespace must have been seen gone before its leases and attachments end")
	fs.DurationVar(&o.abandonedGrace, "abandoned-grace", 10*time.Minute,
		"how long a namespace must have had no process, and the kubelet nothing of its\n      pod, before its attachments end")
	fs.StringVar(&o.kubeletSocket, "kubelet-socket", kubelet.Socket,
		"`path` of the kubelet's PodResources API;\n      empty: a namespace that exists is alive")
	fs.DurationVar(&o.releaseAfter, "release-after", 5*time.Minute, "how long a block must have been empty before it goes back to the pool")
	fs.DurationVar(&o.cedeWait, "cede-wait", 5*time.Second,
		"how long an ADD waits for addresses of other nodes, when the pool has no others,\n      before the pool is full; 20s at most")
	fs.DurationVar(&o.mirrorInterval, "mirror-interval", 5*time.Second, "how often changed leases are shown in the status of their block, at most;\n      what changes all the time is shown after up to 60 times as long")

	fs.StringVar(&o.installDir, "install-dir", "", "`folder` to install the CNI binaries into, e.g. /opt/cni/bin; empty: install nothing")
	fs.StringVar(&o.installFrom, "install-from", "/usr/local/bin", "`folder` to take the CNI binaries from")
	fs.Var(&o.installAs, "install-as", "more `names` for railyard-ipam there: whereabouts,nv-ipam; what has such a name is replaced")
	return fs
}

func parseOptions(args []string, getenv func(string) string) (options, error) {
	var o options
	if err := command().Parse(o.flags(), args, getenv); err != nil || o.Version {
		return o, err
	}
	return o, o.check()
}

// maxCedeWait leaves a plugin, which gives up after client.DefaultTimeout, the time to be told that the pool is full.
const maxCedeWait = 20 * time.Second

// maxSocketPath is what fits struct sockaddr_un with its closing zero; the socket is made under a longer name first.
const maxSocketPath = 107 - len(".new")

func (o *options) check() error {
	if o.socket == "" {
		o.socket = filepath.Join(o.stateDir, "agent.sock")
	}
	var faults daemon.Faults
	if o.nodeName == "" {
		faults.Add("node-name", "is empty: give the name of this node's Node object")
	}
	if o.stateDir == "" {
		faults.Add("state-dir", "is empty: give a folder on tmpfs")
	}
	if len(o.socket) > maxSocketPath {
		faults.Add("socket", "%s has %d characters, a socket's path has at most %d: use a shorter one", o.socket, len(o.socket), maxSocketPath)
	}
	for name, d := range map[string]time.Duration{
		"gc-interval": o.gcInterval, "mirror-interval": o.mirrorInterval, "lock-timeout": o.lockTimeout, "cede-wait": o.cedeWait,
	} {
		if d <= 0 {
			faults.Add(name, "%s is not more than 0", d)
		}
	}
	if o.cedeWait > maxCedeWait {
		faults.Add("cede-wait", "%s is more than %s: the plugin would give up before it is told", o.cedeWait, maxCedeWait)
	}
	for name, d := range map[string]time.Duration{"gc-grace": o.gcGrace, "abandoned-grace": o.abandonedGrace, "release-after": o.releaseAfter} {
		if d < 0 {
			faults.Add(name, "%s is negative", d)
		}
	}
	if err := checkAs(o.installAs); err != nil {
		faults.Add("install-as", "%v", err)
	}
	o.Check(&faults)
	return faults.Err()
}
