// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !failpoint

package main

func hooks(func(string) string) hook { return hook{sys: "/sys"} }
