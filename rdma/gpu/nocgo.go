//go:build !cgo

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package gpu

// List can't load a library in a program that was built without cgo.
func List(root string) (Inventory, error) { return Inventory{}, nil }
