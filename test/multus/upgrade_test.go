// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package multus

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/railyard-net/railyard/test/cluster"
)

// TestUpgrade: the agent puts one version of the plugins in place after the other, and is killed each time, while pods come and go: no
// ADD and no DEL meets half a plugin, or none. The rest of a DaemonSet's upgrade is the kubelet's.
func TestUpgrade(t *testing.T) {
	const versions, workers = 5, 3
	agent, from := programs(t)
	must(t, lab.node.Do(func() error { return os.Rename(filepath.Join(binDir, "railyard"), "/run/cni/railyard") }))
	t.Cleanup(func() {
		must(t, lab.node.Do(func() error { return os.Rename("/run/cni/railyard", filepath.Join(binDir, "railyard")) }))
	})
	kubeconfig, err := lab.node.Kubeconfig(t.Context())
	must(t, err)
	upgrade := func(version int) {
		source := from[version%len(from)]
		p, err := lab.node.Start([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, agent, "--node-name="+lab.node.Name(), "--kubeconfig="+kubeconfig,
			"--state-dir=/run/agent", "--metrics-address=", "--install-dir="+binDir, "--install-from="+source)
		must(t, err)
		defer p.Kill()
		cluster.Eventually(t, "the agent installs version "+source, func() error { return errors.Join(p.Err(), installed(source)) })
	}
	done := begin(t)
	upgrade(0)
	define(t, "default", "net-a", false, network("net-a", nil))
	var over atomic.Bool
	var rounds atomic.Int64
	var g errgroup.Group
	for range workers {
		p := newPod(t, "net-a")
		g.Go(func() error {
			for !over.Load() {
				for _, verb := range []string{"ADD", "DEL"} {
					if err := p.call(t.Context(), verb); err != nil {
						over.Store(true)
						return err
					}
				}
				rounds.Add(1)
			}
			return nil
		})
	}
	for version := 1; version < versions && !over.Load(); version++ {
		seen := rounds.Load()
		upgrade(version)
		cluster.Eventually(t, "a pod comes and goes with it", func() error {
			if !over.Load() && rounds.Load() == seen {
				return errors.New("none yet")
			}
			return nil
		})
	}
	over.Store(true)
	must(t, g.Wait())
	done()
}

// programs are the agent, from where make build puts it, and two folders with versions of the plugins: an ELF file may be followed by
// anything.
func programs(t *testing.T) (agent string, versions []string) {
	t.Helper()
	bin := os.Getenv("RAILYARD_BIN")
	if bin == "" {
		root, err := cluster.ModuleRoot()
		must(t, err)
		bin = filepath.Join(root, "bin")
	}
	for v := range 2 {
		dir := t.TempDir()
		for _, name := range []string{"railyard", "railyard-ipam"} {
			data, err := os.ReadFile(filepath.Join(bin, name))
			if err != nil {
				t.Fatalf("%v: run \"make build\"", err)
			}
			must(t, os.WriteFile(filepath.Join(dir, name), append(data, make([]byte, v)...), 0o755))
		}
		versions = append(versions, dir)
	}
	return filepath.Join(bin, "railyard-agent"), versions
}

// installed is nil when the node has the plugins of the folder.
func installed(from string) error {
	for _, name := range []string{"railyard", "railyard-ipam"} {
		want, err := os.Stat(filepath.Join(from, name))
		if err != nil {
			return err
		}
		var has os.FileInfo
		err = lab.node.Do(func() (err error) { has, err = os.Stat(filepath.Join(binDir, name)); return err })
		if err != nil {
			return err
		}
		if has.Size() != want.Size() {
			return fmt.Errorf("%s has %d bytes, want %d", name, has.Size(), want.Size())
		}
	}
	return nil
}
