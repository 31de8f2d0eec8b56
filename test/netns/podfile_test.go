// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const workerArgs = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=worker;K8S_POD_UID=0c6a8b52-1f3e-4a57-9d2b-7d3f5a0e9c11"

func (l *lab) podFile(ifName string) string {
	return filepath.Join(l.dir, "pods/0c6a8b52-1f3e-4a57-9d2b-7d3f5a0e9c11", ifName+".json")
}

func (l *lab) podInfo(ifName string) map[string]any {
	l.t.Helper()
	b, err := os.ReadFile(l.podFile(ifName))
	must(l.t, err)
	var out map[string]any
	must(l.t, json.Unmarshal(b, &out))
	return out
}

// TestPodFile: the pod's programs find what they cannot see by themselves in a file that a volume can show, for as long as the attachment
// lasts.
func TestPodFile(t *testing.T) {
	for name, test := range map[string]func(*testing.T, *lab, *space, call){
		"content":        testPodFileContent,
		"readable":       testPodFileReadable,
		"two_networks":   testPodFileTwo,
		"made_anew":      testPodFileAnew,
		"nothing_to_say": testPodFileNone,
		"no_folder":      testPodFileRefused,
		"hostile_pod":    testPodFileHostile,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, pod := newLab(t), newSpace(t)
			l.fakePCI("0000:3b:00.1", "rail0")
			must(t, os.WriteFile(filepath.Join(l.sys, "bus/pci/devices/0000:3b:00.1/numa_node"), []byte("1\n"), 0o600))
			test(t, l, pod, call{verb: "ADD", id: "c1", ifName: "net1", netns: pod.path, args: workerArgs})
		})
	}
}

func testPodFileContent(t *testing.T, l *lab, pod *space, c call) {
	l.mustRun(c)
	want := map[string]any{"version": 1.0, "network": "rail0", "containerID": "c1", "interfaces": []any{map[string]any{
		"interface": "net1", "mac": pod.get("net1").Attrs().HardwareAddr.String(), "mtu": 1500.0, "parent": "rail0",
		"addresses": []any{"10.20.1.0/16", "fd00:20::1:0/64"}, "pciAddress": "0000:3b:00.1", "numaNode": 1.0,
	}}}
	if diff := cmp.Diff(want, l.podInfo("net1")); diff != "" {
		t.Error(diff)
	}
	c.verb = "DEL"
	l.mustRun(c)
	l.mustRun(c)
	if left, err := os.ReadDir(filepath.Join(l.dir, "pods")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func testPodFileReadable(t *testing.T, l *lab, _ *space, c call) {
	l.mustRun(c)
	for path, want := range map[string]os.FileMode{l.podFile("net1"): 0o644, filepath.Dir(l.podFile("net1")): 0o755, filepath.Join(l.dir, "pods"): 0o755} {
		if s, err := os.Stat(path); err != nil || s.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", path, s.Mode(), err, want)
		}
	}
}

func testPodFileTwo(t *testing.T, l *lab, _ *space, c call) {
	l.mustRun(c)
	second := c
	second.ifName = "net2"
	l.mustRun(second)
	c.verb = "DEL"
	l.mustRun(c)
	if _, err := os.Stat(l.podFile("net1")); !os.IsNotExist(err) {
		t.Error(err)
	}
	if got := l.podInfo("net2")["containerID"]; got != "c1" {
		t.Error(got)
	}
}

// testPodFileAnew: the kubelet may make a pod's sandbox anew, and the DEL of the old one may come late.
func testPodFileAnew(t *testing.T, l *lab, _ *space, c call) {
	l.mustRun(c)
	anew := c
	anew.id, anew.netns = "c2", newSpace(t).path
	l.mustRun(anew)
	c.verb = "DEL"
	l.mustRun(c)
	if got := l.podInfo("net1")["containerID"]; got != "c2" {
		t.Error(got)
	}
}

func testPodFileNone(t *testing.T, l *lab, _ *space, c call) {
	before := c
	for _, args := range []string{"", "K8S_POD_UID=../../x", "K8S_POD_UID=.."} {
		c.verb, c.args = "ADD", args
		l.mustRun(c)
		c.verb = "DEL"
		l.mustRun(c)
	}
	l.addMaster("rail1", "port1", 1500) // which is no hardware
	l.mustRun(before.with(map[string]any{"master": "rail1"}))
	if _, err := os.Stat(filepath.Join(l.dir, "pods")); !os.IsNotExist(err) {
		t.Error(err)
	}
}

func testPodFileRefused(t *testing.T, l *lab, pod *space, c call) {
	before := l.traces(pod)
	must(t, os.WriteFile(filepath.Join(l.dir, "pods"), nil, 0o600))
	l.mustFail(5, "pod's programs", c)
	if diff := cmp.Diff(before, l.traces(pod)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}

// testPodFileHostile: whatever a pod puts into its folder that it may write to, the node's other files stay as they are, nobody waits for
// it, and it ends.
func testPodFileHostile(t *testing.T, l *lab, _ *space, c call) {
	c2 := c
	c2.ifName = "net2" // whose file keeps the folder
	l.mustRun(c2)
	secret := filepath.Join(l.bin, "shadow")
	must(t, os.WriteFile(secret, []byte("root"), 0o600))
	for name, put := range map[string]func(path string) error{
		"link":   func(path string) error { return os.Symlink(secret, path) },
		"pipe":   func(path string) error { return unix.Mkfifo(path, 0o666) },
		"zero":   func(path string) error { return os.Symlink("/dev/zero", path) },
		"folder": func(path string) error { return os.MkdirAll(filepath.Join(path, "a"), 0o755) },
	} {
		must(t, put(l.podFile("net1")+".railyard.tmp"))
		c.verb = "ADD"
		l.mustRun(c)
		if got := l.podInfo("net1")["containerID"]; got != "c1" {
			t.Errorf("%s: %v", name, got)
		}
		must(t, os.Remove(l.podFile("net1")))
		must(t, put(l.podFile("net1")))
		c.verb, c.killAfter = "DEL", 20*time.Second
		l.mustRun(c)
		if _, err := os.Lstat(l.podFile("net1")); !os.IsNotExist(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b, err := os.ReadFile(secret)
	s, _ := os.Stat(secret)
	if err != nil || string(b) != "root" || s.Mode().Perm() != 0o600 {
		t.Errorf("a file of the node's is %q, %v (%v)", b, s.Mode(), err)
	}
}

// TestPodFile_Killed: SIGKILL around it.
func TestPodFile_Killed(t *testing.T) {
	l, pod := newLab(t), newSpace(t)
	l.fakePCI("0000:3b:00.1", "rail0")
	c := call{id: "c1", ifName: "net1", netns: pod.path, args: workerArgs}
	for verb, points := range map[string][]string{"ADD": {"add:routed", "add:podfile", "add:done"}, "DEL": {"undo:2", "undo:1", "undo:done"}} {
		for _, point := range points {
			if verb == "DEL" {
				c.verb = "ADD"
				l.mustRun(c)
			}
			c.verb = verb
			l.mustDie(c, point)
			c.verb = "DEL"
			l.mustRun(c)
			if left, _ := os.ReadDir(filepath.Join(l.dir, "pods")); len(left) != 0 || len(l.files()) != 0 {
				t.Errorf("%s died at %s: left behind: %v %v", verb, point, left, l.files())
			}
		}
	}
}
