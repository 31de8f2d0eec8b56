// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Command guest is the init of the virtual machines: it mounts, loads modules, runs the test binaries that the plan names, tells the
// host what happens, and ends the machine. If it dies, the kernel panics, which the host reports.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/railyard-net/railyard/test/vm/plan"
)

func main() {
	err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
	}
	end(err)
}

func run() error {
	if os.Getpid() != 1 {
		return errors.New("this is the init of a virtual machine and does nothing elsewhere")
	}
	if err := setUp(); err != nil {
		return err
	}
	data, err := os.ReadFile(plan.File)
	if err != nil {
		return err
	}
	var p plan.Plan
	if err := json.Unmarshal(data, &p); err != nil {
		return fmt.Errorf("read the plan: %w", err)
	}
	port, err := openPort(plan.Port)
	if err != nil {
		return err
	}
	defer port.Close()
	h := host{port}
	err = work(p, h)
	over := &plan.Over{}
	if err != nil {
		over.Problem = err.Error()
	}
	return errors.Join(err, h.tell(plan.Event{Over: over}))
}

func work(p plan.Plan, h host) error {
	if err := load(p.Modules, p.Env); err != nil {
		return err
	}
	up, err := uptime()
	if err != nil {
		return err
	}
	if err := h.tell(plan.Event{Up: up}); err != nil {
		return err
	}
	if p.Shell {
		return shell(p.Env)
	}
	for _, t := range p.Tests {
		if err := h.test(t, p.Env); err != nil {
			return err
		}
	}
	return nil
}

// host is the port on which the host listens.
type host struct{ w io.Writer }

func (h host) tell(e plan.Event) error {
	line, err := json.Marshal(e)
	if err == nil {
		_, err = h.w.Write(append(line, '\n'))
	}
	return err
}

// Write tells what a test writes.
func (h host) Write(p []byte) (int, error) { return len(p), h.tell(plan.Event{Out: p}) }
