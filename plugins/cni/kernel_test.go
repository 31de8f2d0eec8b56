// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/plugins/dispatch"
)

// A namespace that cannot be entered, for one that ended since it was opened, has a code of its own, and its cause.
func TestPodCannotBeEntered(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	p := &pod{path: os.DevNull, ns: f}
	defer p.close()
	err = p.do(func() error { t.Error("called"); return nil })
	if dispatch.Code(err) != dispatch.CodeNetNS || !errors.Is(err, unix.EINVAL) {
		t.Errorf("code %d: %v", dispatch.Code(err), err)
	}
}
