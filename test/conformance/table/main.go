// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Command table writes the table of conformance from the events of test runs, which it reads from the named files or from stdin:
//
//	go run ./test/conformance/table -o docs/dev/conformance.md build/test/events.json
//	go run ./test/conformance/table -check -o docs/dev/conformance.md build/test/events.json
//
// With -check it writes nothing, and fails if the file is not what it would write. A case whose tests are not in the events fails either way.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/railyard-net/railyard/test/conformance"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

func run(args []string, stdin io.Reader, stdout io.Writer) error {
	fs := flag.NewFlagSet("table", flag.ContinueOnError)
	check := fs.Bool("check", false, "compare instead of writing")
	file := fs.String("o", "", "the table's `file`; empty: stdout")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *check && *file == "" {
		return errors.New("-check needs a file to compare with: -o")
	}
	var r conformance.Run
	if err := read(&r, fs.Args(), stdin); err != nil {
		return err
	}
	text, err := conformance.Table(&r)
	if err != nil {
		return fmt.Errorf("the table is not written, for the run does not have every test that it names:\n%w", err)
	}
	switch {
	case *check:
		old, err := os.ReadFile(*file)
		if err != nil {
			return err
		}
		if string(old) != text {
			return fmt.Errorf("%s is not what this run says: write it anew", *file)
		}
		return nil
	case *file == "":
		_, err := io.WriteString(stdout, text)
		return err
	}
	if err := os.MkdirAll(filepath.Dir(*file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(*file, []byte(text), 0o644)
}

func read(r *conformance.Run, files []string, stdin io.Reader) error {
	if len(files) == 0 {
		return r.Read(stdin)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = r.Read(f)
		_ = f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
