// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
	"sync"
)

// report writes the events of one package in one machine, as "go test -json" does: go tool test2json translates what the test binary
// says.
type report struct {
	name string // of the package, with the machine's
	cmd  *exec.Cmd
	in   io.WriteCloser
}

// lines hands on whole lines only, so that reports may be written at once; each writes through a part of its own.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

// part is what one writer has written of a line.
type part struct {
	*lines
	rest []byte
}

func (p *part) Write(b []byte) (int, error) {
	p.rest = append(p.rest, b...)
	end := bytes.LastIndexByte(p.rest, '\n') + 1
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.w.Write(p.rest[:end])
	p.rest = append(p.rest[:0], p.rest[end:]...)
	return len(b), err
}

func newReport(ctx context.Context, m machine, pkg string, out *lines) (*report, error) {
	r := &report{name: module + "/" + path.Clean(pkg) + "@" + m.name}
	r.cmd = exec.CommandContext(ctx, "go", "tool", "test2json", "-t", "-p", r.name)
	r.cmd.Stdout, r.cmd.Stderr = &part{lines: out}, os.Stderr
	var err error
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	return r, errors.Join(r.cmd.Start(), r.leftOut(m.skips(pkg)))
}

// mark begins the test runner's own lines, for test2json.
const mark = "\x16"

// leftOut says in the test runner's words that tests were skipped.
func (r *report) leftOut(all []leftOut) error {
	for _, l := range all {
		if _, err := fmt.Fprintf(r.in, "%s=== RUN   %s\n    %s\n%s--- SKIP: %s (0.00s)\n%s=== NAME  \n", mark, l.test, l.why, mark, l.test, mark); err != nil {
			return err
		}
	}
	return nil
}

// end closes the report. A package that did not pass says why in problem.
func (r *report) end(seconds float64, problem string) error {
	line := fmt.Sprintf("ok  \t%s\t%.3fs\n", r.name, seconds)
	if problem != "" {
		// The problem is the package's, not that of the test which spoke last. FAIL alone is the word for the package's end.
		line = fmt.Sprintf("\n%s=== NAME  \n%s\n%sFAIL\nFAIL\t%s\t%.3fs\n", mark, strings.TrimRight(problem, "\n"), mark, r.name, seconds)
	}
	_, err := io.WriteString(r.in, line)
	return errors.Join(err, r.in.Close(), r.cmd.Wait())
}
