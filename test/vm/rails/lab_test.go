//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"
)

// vm says what make test-vm made of the machine.
func vm(key string) string { return os.Getenv("RAILYARD_VM" + key) }

// exclusive says that RDMA devices are each in one network namespace; otherwise all are in all.
func exclusive() bool { return vm("_RDMA") == "exclusive" }

// needShared skips what has no meaning in exclusive mode.
func needShared(t testing.TB) {
	t.Helper()
	if exclusive() {
		t.Skip("a matter of shared mode; this machine has exclusive mode")
	}
}

// needExclusive skips what has no meaning in shared mode.
func needExclusive(t testing.TB) {
	t.Helper()
	if !exclusive() {
		t.Skip("a matter of exclusive mode; this machine has shared mode")
	}
}

// needMovableRXE skips what needs an rxe that can change its network namespace.
func needMovableRXE(t testing.TB) {
	t.Helper()
	if vm("_KERNEL") == "6.12" {
		t.Skip("the rxe of Linux 6.12 can't change its network namespace: it came with 7.3")
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until f gives no error: what the kernel does by itself has no event that one could wait for. The processor is
// emulated, so it waits long.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("after 30s: %v", err)
		case <-tick.C:
		}
	}
}

// attachment is one interface of one pod, as a runtime speaks of it to the plugin.
type attachment struct {
	t      testing.TB
	host   *space
	pod    *space
	id     string
	ifName string
	conf   map[string]any // without cniVersion, name, type and stateDir
	env    []string       // besides CNI's
	sys    string         // instead of /sys, if not empty
}

// attach prepares an attachment whose journal lives as long as the test.
func attach(t testing.TB, host, pod *space, ifName string, conf map[string]any) *attachment {
	t.Helper()
	a := &attachment{t: t, host: host, pod: pod, id: "c-" + ifName, ifName: ifName, conf: map[string]any{
		"cniVersion": "1.1.0", "name": "rail0", "type": "railyard", "stateDir": t.TempDir(),
	}}
	for k, v := range conf {
		a.conf[k] = v
	}
	return a
}

// run executes the plugin for a verb of CNI in the host's namespace and gives its stdout, or what it answered as an error.
func (a *attachment) run(verb string) (string, error) {
	a.t.Helper()
	conf, err := json.Marshal(a.conf)
	must(a.t, err)
	cmd := exec.Command(os.Getenv("RAILYARD_TEST_PLUGIN"))
	cmd.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + a.id, "CNI_IFNAME=" + a.ifName, "CNI_NETNS=" + a.pod.path,
		"CNI_PATH=/vm", "PATH=" + os.Getenv("PATH"),
	}
	cmd.Env = append(cmd.Env, a.env...)
	if a.sys != "" {
		cmd.Env = append(cmd.Env, "RAILYARD_SYS="+a.sys)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(conf), &stdout, &stderr
	if err := a.host.do(cmd.Run); err != nil {
		return "", errors.Join(err, errors.New(stdout.String()+stderr.String()))
	}
	return stdout.String(), nil
}

// mustRun is run for what has to succeed. The result of ADD becomes the prevResult of what follows.
func (a *attachment) mustRun(verb string) string {
	a.t.Helper()
	out, err := a.run(verb)
	if err != nil {
		a.t.Fatalf("%s: %v", verb, err)
	}
	if verb == "ADD" {
		a.conf["prevResult"] = json.RawMessage(out)
	}
	return out
}
