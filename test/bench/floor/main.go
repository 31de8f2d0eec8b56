// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Command floor makes one attachment by netlink and nothing else: what is left of a CNI plugin when everything that
// makes it one is taken away. It takes its job from the arguments:
//
//	floor ADD|DEL netns ifname master [address/length ...]
package main

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/railyard-net/railyard/test/bench/bare"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 4 {
		return fmt.Errorf("want ADD|DEL netns ifname master [address/length ...], got %q", args)
	}
	verb, link := args[0], bare.Link{NetNS: args[1], IfName: args[2], Master: args[3]}
	switch verb {
	case "ADD":
		for _, a := range args[4:] {
			p, err := netip.ParsePrefix(a)
			if err != nil {
				return err
			}
			link.Addresses = append(link.Addresses, p)
		}
		return link.Add()
	case "DEL":
		return link.Del()
	default:
		return fmt.Errorf("unknown verb %q", verb)
	}
}
