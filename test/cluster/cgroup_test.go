// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestV1Branch(t *testing.T) {
	const membership = "9:name=systemd:/\n4:memory:/box/1\n3:cpuset:/\n2:net_cls:/\n1:cpu,cpuacct:/box\n0::/\n"
	controllers, dirs := v1Branch(membership, "m", func(dir string) bool { return dir != cgroupMount+"/net_cls" })
	if diff := cmp.Diff([]string{"name=systemd", "memory", "cpuset", "cpu,cpuacct"}, controllers); diff != "" {
		t.Errorf("controllers (-want +got):\n%s", diff)
	}
	want := []string{cgroupMount + "/systemd/m", cgroupMount + "/memory/box/1/m", cgroupMount + "/cpuset/m", cgroupMount + "/cpu,cpuacct/box/m"}
	if diff := cmp.Diff(want, dirs); diff != "" {
		t.Errorf("folders (-want +got):\n%s", diff)
	}
}

// TestCgroups: a process is where it was put, and nothing is left of it and of what it had made.
func TestCgroups(t *testing.T) {
	dir := t.TempDir()
	record := filepath.Join(dir, "machine")
	if err := os.Mkdir(record, 0o755); err != nil {
		t.Fatal(err)
	}
	name := "railyard-test-" + strconv.Itoa(os.Getpid())
	c, err := newCgroups(name, record)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.remove() })
	p, err := StartProcess(exec.Command("sleep", "1000"), filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if err := c.add(p.Pid()); err != nil {
		t.Fatal(err)
	}
	membership, err := os.ReadFile("/proc/" + strconv.Itoa(p.Pid()) + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(membership), "/"+name+"\n"); got != len(c.dirs) {
		t.Errorf("the process is in %d of %d cgroups:\n%s", got, len(c.dirs), membership)
	}
	for _, d := range c.dirs {
		if err := os.MkdirAll(filepath.Join(d, "below", "deeper"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.empty(); err != nil {
		t.Error(err)
	}
	p.Kill()
	sweepCgroups(dir) // as after a kill of whoever would call remove
	for _, d := range c.dirs {
		if _, err := os.Stat(d); err == nil {
			t.Errorf("%s is left", d)
		}
	}
	if err := c.remove(); err != nil {
		t.Errorf("again: %v", err)
	}
}
