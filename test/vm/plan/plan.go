// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package plan is what the host and the guest of a virtual machine tell each other: the host hands in a [Plan] as a file, the guest
// answers with one [Event] a line on its second serial port.
package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

const (
	// Dir is the folder in the guest that holds what the host hands in.
	Dir = "/vm"
	// File is the plan.
	File = Dir + "/plan.json"
	// Port is the serial port of the events; the first one is the console.
	Port = "/dev/ttyS1"
	// ExitPort is the I/O port of QEMU's isa-debug-exit: a byte written there ends the machine.
	ExitPort = 0xf4
)

// Plan says what the guest does between boot and end.
type Plan struct {
	Modules []string // kernel modules; one that this kernel lacks is left out
	Env     []string // of all that is run
	Tests   []Test   // in order, one after the other
	Shell   bool     // a shell on the console instead of the tests
}

// Test is the test binary of one package.
type Test struct {
	Package string
	Binary  string // absolute path in the guest
	Dir     string // where it starts
	Args    []string
}

// Event is one thing that happened in the guest; exactly one field is set.
type Event struct {
	Up    *Up    `json:",omitempty"` // the first event
	Begin string `json:",omitempty"` // package of the test that begins
	Out   []byte `json:",omitempty"` // what the running test wrote
	End   *End   `json:",omitempty"` // the running test has ended
	Over  *Over  `json:",omitempty"` // the last event
}

// Up says that the guest's init runs.
type Up struct {
	Kernel  string
	Seconds float64 // since the kernel began
}

// End is the end of a test binary.
type End struct {
	Code    int // exit status, -1 if a signal ended it
	Seconds float64
	Problem string `json:",omitempty"` // why there is no exit status
}

// Over says that all was done that the plan asked for, unless Problem says why not.
type Over struct {
	Problem string `json:",omitempty"`
}

// Read calls f with each event in r until r ends. A line that is no event is an error: nothing else may be written to the port.
func Read(r io.Reader, f func(Event) error) error {
	d := json.NewDecoder(r)
	for {
		var e Event
		switch err := d.Decode(&e); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read the guest's events: %w", err)
		}
		if err := f(e); err != nil {
			return err
		}
	}
}
