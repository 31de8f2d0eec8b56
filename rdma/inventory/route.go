// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
)

// defaultRoutes returns the interfaces of the default routes of the namespace that the procfs shows.
func defaultRoutes(proc fs.FS) ([]string, error) {
	if proc == nil {
		return nil, nil
	}
	var names []string
	add := func(name string) {
		if name != "lo" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	var errs []error
	read := func(file string, line func(fields []string)) {
		data, err := fs.ReadFile(proc, file)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) { // a kernel without that family
				errs = append(errs, err)
			}
			return
		}
		for text := range strings.Lines(string(data)) {
			line(strings.Fields(text))
		}
	}
	// Iface Destination Gateway Flags RefCnt Use Metric Mask ... (fib_route_seq_show in net/ipv4/fib_trie.c)
	read("net/route", func(f []string) {
		if len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
			add(f[0])
		}
	})
	// destination prefix ... interface (rt6_info_route in net/ipv6/route.c)
	read("net/ipv6_route", func(f []string) {
		if len(f) > 9 && f[0] == strings.Repeat("0", 32) && f[1] == "00" {
			add(f[9])
		}
	})
	return names, errors.Join(errs...)
}
