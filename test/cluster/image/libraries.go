// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"debug/elf"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// addLibraries adds what dynamic programs are linked with, at the places where this machine has it.
func addLibraries(programs map[string]string) error {
	todo := slices.Sorted(maps.Values(programs))
	seen := map[string]bool{}
	for len(todo) > 0 {
		file := todo[0]
		if todo = todo[1:]; seen[file] {
			continue
		}
		seen[file] = true
		needs, err := needsOf(file)
		if err != nil {
			return err
		}
		for _, need := range needs {
			programs[need] = need
			todo = append(todo, need)
		}
	}
	return nil
}

// needsOf are the loader and the libraries of a program; a script or a static program has none.
func needsOf(file string) ([]string, error) {
	f, err := elf.Open(file)
	var format *elf.FormatError
	if errors.As(err, &format) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var needs []string
	if interp := f.Section(".interp"); interp != nil {
		data, err := interp.Data()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		needs = append(needs, strings.TrimRight(string(data), "\x00"))
	}
	libraries, err := f.ImportedLibraries()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, name := range libraries {
		found, err := filepath.Glob("/lib/*-linux-gnu/" + name)
		switch {
		case err != nil:
			return nil, err
		case len(found) > 0:
			needs = append(needs, found[0])
		case !strings.HasPrefix(name, "ld-linux"):
			return nil, fmt.Errorf("%s: needs %s: %w", file, name, os.ErrNotExist)
		}
	}
	return needs, nil
}
