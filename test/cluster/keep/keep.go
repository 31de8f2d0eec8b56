// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package keep leaves a cluster of tests running in the background, and finds and ends it later.
//
// A kept cluster is a process, the supervisor, that holds a lock on a file in its state folder for as long as it lives. Its process id
// is in that file: it is right for as long as the lock is held. Whoever starts one shows what it writes until it is ready.
package keep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/railyard-net/railyard/test/cluster"
)

const (
	supervisorFile = "supervisor"
	logFile        = "supervisor.log"
	readyFile      = "ready"

	pollInterval = 50 * time.Millisecond
	downGrace    = 30 * time.Second
)

// Keeper is one place for a kept cluster.
type Keeper struct {
	// State is the folder of what must be known to find the cluster. It is made by Up and removed by Down.
	State string
	// Name is what a person calls the cluster, End the command that ends it.
	Name, End string
	// Serve are the arguments with which this program is the supervisor: it is to call Hold first, and Ready when the cluster is up.
	Serve []string
}

// supervisor is what a supervisor writes about itself.
type supervisor struct {
	PID int `json:"pid"`
}

// Up starts a supervisor, shows what it does until it is ready, and leaves it. When ctx ends before that, the supervisor is ended.
func (k Keeper) Up(ctx context.Context, stdout io.Writer) error {
	if s, running := k.find(); running {
		return fmt.Errorf("a %s is kept already (process %d): %q ends it", k.Name, s.PID, k.End)
	}
	if err := os.RemoveAll(k.State); err != nil {
		return err
	}
	if err := os.MkdirAll(k.State, 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(k.State, logFile))
	if err != nil {
		return err
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, k.Serve...)
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
			if _, err := os.Stat(filepath.Join(k.State, readyFile)); err == nil {
				shown.copy()
				return nil
			}
		}
	}
}

// Hold makes this process the supervisor, until release or its end.
func (k Keeper) Hold() (release func() error, err error) {
	lock, err := cluster.Lock(filepath.Join(k.State, supervisorFile))
	if err != nil {
		return nil, err
	}
	if err := json.NewEncoder(lock).Encode(supervisor{PID: os.Getpid()}); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock.Close, nil
}

// Ready says that the cluster is up.
func (k Keeper) Ready() error { return os.WriteFile(filepath.Join(k.State, readyFile), nil, 0o600) }

// Running says whether there is a kept cluster that is up.
func (k Keeper) Running() bool {
	_, running := k.find()
	_, err := os.Stat(filepath.Join(k.State, readyFile))
	return running && err == nil
}

// find says which supervisor holds the state folder, if one does.
func (k Keeper) find() (supervisor, bool) {
	path := filepath.Join(k.State, supervisorFile)
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

// Down ends a kept cluster, and says so when there is none.
func (k Keeper) Down(ctx context.Context, stdout io.Writer) error {
	s, running := k.find()
	if running {
		if err := k.end(ctx, s); err != nil {
			return err
		}
	}
	cluster.Sweep()
	if err := os.RemoveAll(k.State); err != nil {
		return err
	}
	said := "the " + k.Name + " is down"
	if !running {
		said = "no " + k.Name + " was kept running"
	}
	_, err := fmt.Fprintln(stdout, said)
	return err
}

// end asks the supervisor to end and waits for it; after a while it kills it, and then the kernel ends the cluster.
func (k Keeper) end(ctx context.Context, s supervisor) error {
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
			if _, running := k.find(); !running {
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
