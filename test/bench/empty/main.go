// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Command empty does nothing. Its exec is what any program of this language and linkage costs before its first line.
package main

func main() {}
