// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/railyard-net/railyard/test/cluster"
)

// A kept cluster is a process, the supervisor, that holds a lock on a file in the state folder for as long as it lives. Its process id
// is in that file: it is right for as long as the lock is held.
const (
	supervisorFile = "supervisor"
	logFile        = "demo.log"
	readyFile      = "ready"
	enterFile      = "enter"

	pollInterval = 50 * time.Millisecond
	downGrace    = 30 * time.Second
)

// supervisor is what a supervisor writes about itself.
type supervisor struct {
	PID int `json:"pid"`
}

// upInBackground starts a supervisor, shows what it does until the cluster is up and checked, and leaves it.
func upInBackground(ctx context.Context, o options, stdout io.Writer) error {
	if s, running := findSupervisor(o); running {
		return fmt.Errorf("a demo is kept already (process %d): \"make demo-down\" ends it", s.PID)
	}
	if err := os.RemoveAll(o.state); err != nil {
		return err
	}
	if err := os.MkdirAll(o.state, 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(o.state, logFile))
	if err != nil {
		return err
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "serve", "--bin="+o.bin, "--state="+o.state)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives us and our terminal
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	shown := &follower{path: log.Name(), to: stdout}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			_ = cmd.Process.Signal(syscall.SIGTERM)
			err := <-ended
			shown.copy()
			return errors.Join(errors.New("interrupted"), err)
		case err := <-ended:
			shown.copy()
			return fmt.Errorf("the cluster did not come up: %w", err)
		case <-tick.C:
			shown.copy()
			if _, err := os.Stat(filepath.Join(o.state, readyFile)); err == nil {
				shown.copy()
				return nil
			}
		}
	}
}

// follower copies what was added to a file since the last time.
type follower struct {
	path   string
	to     io.Writer
	offset int64
}

func (f *follower) copy() {
	file, err := os.Open(f.path)
	if err != nil {
		return
	}
	defer file.Close()
	n, _ := io.Copy(f.to, io.NewSectionReader(file, f.offset, 1<<40))
	f.offset += n
}

// serve is the supervisor: it brings a cluster up, and keeps it until it is asked to end.
func serve(ctx context.Context, o options, out *progress) (err error) {
	lock, err := cluster.Lock(filepath.Join(o.state, supervisorFile))
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := json.NewEncoder(lock).Encode(supervisor{PID: os.Getpid()}); err != nil {
		return err
	}
	d := &demo{o: o, out: out}
	defer func() { err = errors.Join(err, d.close(err != nil && ctx.Err() == nil)) }()
	if err := d.start(ctx); err != nil {
		return err
	}
	if err := d.show(ctx); err != nil {
		return err
	}
	if err := d.tell(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(o.state, readyFile), nil, 0o600); err != nil {
		return err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := d.restartDead(); err != nil {
				return err
			}
		}
	}
}

// tell writes what a person needs in order to use a kept cluster.
func (d *demo) tell() error {
	kube, err := d.api.Tools().Path("kube")
	if err != nil {
		return err
	}
	kubectl := filepath.Join(d.o.state, "kubectl")
	kubeconfig := filepath.Join(d.o.state, "kubeconfig")
	if err := errors.Join(os.Symlink(kube, kubectl), os.Symlink(d.api.Kubeconfig(), kubeconfig)); err != nil {
		return err
	}
	var script strings.Builder
	script.WriteString("#!/bin/sh\n# enter NODE [COMMAND...]: runs a command, or a shell, inside of a node of the demo.\nnode=$1\nshift\n[ $# -gt 0 ] || set -- sh\ncase $node in\n")
	for _, h := range d.hosts {
		fmt.Fprintf(&script, "%s) exec %s \"$@\" ;;\n", h.Name(), strings.Join(h.EnterCommand(), " "))
	}
	script.WriteString("*) echo \"no node $node\" >&2; exit 2 ;;\nesac\n")
	enter := filepath.Join(d.o.state, enterFile)
	if err := os.WriteFile(enter, []byte(script.String()), 0o755); err != nil {
		return err
	}
	first := d.hosts[0].Name()
	d.out.text(fmt.Sprintf(`The cluster stays up. Talk to it:

  export KUBECONFIG=%[1]s
  %[2]s get pods -o wide
  %[2]s get ippools,ipblocks,macvlannetworks,net-attach-def -A
  %[2]s delete pod pod-1          # a DEL through Multus
  %[2]s run new --image=none --annotations=%[3]s=%[4]s   # an ADD, on the next node in turn

  %[5]s %[6]s                     # a shell in a node
  %[5]s %[6]s ip netns exec %[7]s.pod-1 ip addr show %[8]s   # a command in a pod

Logs: %[9]s
End it: make demo-down

`, kubeconfig, kubectl, networksAnnotation, d.network.namespace+"/"+d.network.name, enter, first, podNamespace, railLink, d.api.Dir()))
	return nil
}

// findSupervisor says which supervisor holds the state folder, if one does.
func findSupervisor(o options) (supervisor, bool) {
	path := filepath.Join(o.state, supervisorFile)
	var s supervisor
	data, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(data, &s) != nil || s.PID <= 1 {
		return supervisor{}, false
	}
	lock, err := cluster.Lock(path)
	if err != nil {
		return s, true
	}
	_ = lock.Close()
	return supervisor{}, false
}

// down ends a kept cluster, and says so when there is none.
func down(ctx context.Context, o options, stdout io.Writer) error {
	s, running := findSupervisor(o)
	if running {
		if err := endSupervisor(ctx, o, s); err != nil {
			return err
		}
	}
	cluster.Sweep()
	if err := os.RemoveAll(o.state); err != nil {
		return err
	}
	if running {
		fprintln(stdout, "the demo is down")
	} else {
		fprintln(stdout, "no demo was kept running")
	}
	return nil
}

// endSupervisor asks the supervisor to end and waits for it; after a while it kills it, and then the kernel ends the cluster.
func endSupervisor(ctx context.Context, o options, s supervisor) error {
	if err := syscall.Kill(s.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end the supervisor: %w", err)
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	grace := time.After(downGrace)
	for {
		select {
		case <-ctx.Done():
			return errors.New("interrupted")
		case <-grace:
			if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill the supervisor: %w", err)
			}
		case <-tick.C:
			if _, running := findSupervisor(o); !running {
				return nil
			}
		}
	}
}
