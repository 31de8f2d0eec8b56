// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Command tally reads what "go test -json" writes on stdin and prints what a person wants of it: one line a package as it ends,
// everything that a failed test said, and at the end who failed, who was skipped and why, and the line
//
//	N passed, N failed, N skipped
//
// Tests without subtests are counted, so that a table counts by its rows. A package that fails without a failed test (it does not
// build, its process dies) counts as one failure, and so does a test that began and never ended. The exit status is 0 only if
// at least one package was tested and nothing failed.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "tally:", err)
		os.Exit(1)
	}
}

func run(args []string, stdin io.Reader, stdout io.Writer) error {
	fs := flag.NewFlagSet("tally", flag.ContinueOnError)
	verbose := fs.Bool("v", false, "print what passing tests say too")
	closing := fs.String("closing", "", "also write the closing lines to this `file`")
	if err := fs.Parse(args); err != nil {
		return err
	}
	t := newTally(stdout, *verbose)
	in := bufio.NewReader(stdin)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil && e.Action != "" {
				t.add(e)
			} else {
				fmt.Fprintf(stdout, "%s", line)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the test events: %w", err)
		}
	}
	summary, ok := t.close()
	fmt.Fprint(stdout, summary)
	if *closing != "" {
		if err := os.MkdirAll(filepath.Dir(*closing), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(*closing, []byte(t.ends.String()+summary), 0o644); err != nil {
			return err
		}
	}
	if !ok {
		return errors.New("not every test passed")
	}
	return nil
}
