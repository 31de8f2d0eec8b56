// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"testing"

	"github.com/railyard-net/railyard/test/peers/suite/shim"
)

func TestMain(m *testing.M) { os.Exit(shim.Main(m)) }
