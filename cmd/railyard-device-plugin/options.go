// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/railyard-net/railyard/cmd/internal/daemon"
	"github.com/railyard-net/railyard/plugins/device/cdi"
	"github.com/railyard-net/railyard/plugins/device/config"
	"github.com/railyard-net/railyard/plugins/kubelet"
)

// options is what the command line and the environment say, checked.
type options struct {
	daemon.Options

	config       string
	sharedConfig string
	sriovConfig  string
	sriovPrefix  string

	pluginDir     string
	kubeletSocket string
	stateDir      string
	cdiDir        string
	devInfoDir    string
	syncEvery     time.Duration
	freeAfter     time.Duration

	sysRoot        string
	procRoot       string
	devRoot        string
	driverRoot     string
	driverHostRoot string
	nvidiaDevRoot  string
	cdiHook        string

	probe bool
}

func command() daemon.Command {
	return daemon.Command{
		Name: "railyard-device-plugin",
		Intro: `railyard-device-plugin runs on every node. It offers the node's RDMA NICs, GPUs, and pairs of a
GPU and the NIC next to it to the kubelet, and gives them to containers.
`,
		Sections: []daemon.Section{
			{Title: "What to offer; a file that is not there is none", Flags: []string{"config", "shared-config", "sriov-config", "sriov-resource-prefix"}},
			{Title: "The node", Flags: []string{"device-plugin-dir", "kubelet-socket", "state-dir", "cdi-dir", "device-info-dir", "sync-interval", "free-after"}},
			{Title: "The hardware", Flags: []string{"sys-root", "proc-root", "dev-root", "driver-root", "driver-host-root", "nvidia-dev-root", "nvidia-cdi-hook", "probe"}},
			{Title: "Watching the plugin", Flags: daemon.Watching()},
		},
		Outro: "SIGTERM or SIGINT stops it: pods keep what they have. Exit status 0.\n",
	}
}

func (o *options) flags() *flag.FlagSet {
	set := command().FlagSet()
	o.Register(set, ":9478")
	set.StringVar(&o.config, "config", "/etc/railyard/devices/config.yaml", "`file` of Railyard's own format")
	set.StringVar(&o.sharedConfig, "shared-config", "", "`file` of the k8s-rdma-shared-dev-plugin")
	set.StringVar(&o.sriovConfig, "sriov-config", "", "`file` of the sriov-network-device-plugin")
	set.StringVar(&o.sriovPrefix, "sriov-resource-prefix", config.DefaultPrefix, "`domain` of that file's resources that name none")

	set.StringVar(&o.pluginDir, "device-plugin-dir", "/var/lib/kubelet/device-plugins", "`folder` of the kubelet's device plugins")
	set.StringVar(&o.kubeletSocket, "kubelet-socket", kubelet.Socket, "`path` of the kubelet's PodResources API")
	set.StringVar(&o.stateDir, "state-dir", "/run/railyard/devices", "`folder` of what is in use; must be on tmpfs, it lives as long as the boot")
	set.StringVar(&o.cdiDir, "cdi-dir", cdi.Dir, "`folder` to write CDI specs into; empty: none")
	set.StringVar(&o.devInfoDir, "device-info-dir", "/var/run/k8s.cni.cncf.io/devinfo/dp", "`folder` to write device-info files into, for Multus; empty: none")
	set.DurationVar(&o.syncEvery, "sync-interval", 10*time.Second, "how often the kubelet is asked what pods have")
	set.DurationVar(&o.freeAfter, "free-after", time.Minute, "how long no pod must have had a device before its hardware\n      may go under another name")

	set.StringVar(&o.sysRoot, "sys-root", "/sys", "`folder` that is the node's sysfs")
	set.StringVar(&o.procRoot, "proc-root", "/proc/self", "`folder` whose net/route is the node's")
	set.StringVar(&o.devRoot, "dev-root", "", "`folder` of the host that holds the /dev of NICs, if that is not its own")
	set.StringVar(&o.driverRoot, "driver-root", "/", "`folder` of NVIDIA's driver, as this process sees it")
	set.StringVar(&o.driverHostRoot, "driver-host-root", "", "the same `folder` as the container runtime sees it; empty: the same")
	set.StringVar(&o.nvidiaDevRoot, "nvidia-dev-root", "", "`folder` that holds the /dev of GPUs; empty: the driver's")
	set.StringVar(&o.cdiHook, "nvidia-cdi-hook", "", "`path` of nvidia-cdi-hook on the host; empty: where NVIDIA's toolkit puts it, if it is there")
	set.BoolVar(&o.probe, "probe", false, "print as JSON what is found, and end")
	return set
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
	for name, dir := range map[string]string{"device-plugin-dir": o.pluginDir, "state-dir": o.stateDir, "sys-root": o.sysRoot, "driver-root": o.driverRoot} {
		if !filepath.IsAbs(dir) {
			faults.Add(name, "%q is no absolute path", dir)
		}
	}
	for name, d := range map[string]time.Duration{"sync-interval": o.syncEvery, "free-after": o.freeAfter} {
		if d <= 0 {
			faults.Add(name, "%s is not more than 0", d)
		}
	}
	if !o.probe && o.config == "" && o.sharedConfig == "" && o.sriovConfig == "" {
		faults.Add("config", "is empty, as are --shared-config and --sriov-config: give one of them")
	}
	o.Check(&faults)
	return faults.Err()
}

// readConfig reads the files. One that is not there is none: a node that has nothing to offer waits for one.
func (o options) readConfig() (config.Sources, error) {
	s := config.Sources{Prefix: o.sriovPrefix}
	var errs []error
	for path, into := range map[string]*[]byte{o.config: &s.Railyard, o.sharedConfig: &s.Shared, o.sriovConfig: &s.SRIOV} {
		if path == "" {
			continue
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read the config: %w", err))
		}
		*into = b
	}
	return s, errors.Join(errs...)
}

// configDirs are the folders of the files: a ConfigMap is changed by swapping a link there.
func (o options) configDirs() []string {
	var dirs []string
	for _, path := range []string{o.config, o.sharedConfig, o.sriovConfig} {
		dir := filepath.Dir(path)
		if _, err := os.Stat(dir); path != "" && err == nil && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}
