// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !failpoint

package main

import "github.com/railyard-net/railyard/netdef/conf"

func hooks(func(string) string) hook { return hook{sys: "/sys", labels: conf.LabelFile} }
