// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"log/slog"
	"testing"
	"testing/fstest"

	"github.com/railyard-net/railyard/plugins/cni/journal"
)

// TestGiveBackUnseen: a device that is not on the host, of a pod that lives and cannot be entered, is not taken for one that is gone.
func TestGiveBackUnseen(t *testing.T) {
	dir, err := journal.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &plugin{Options{Log: slog.New(slog.DiscardHandler), Sys: fstest.MapFS{}, Hit: func(string) {}}}
	for name, bus := range map[string]string{"virtual": "", "no more on its bus": "0000:3b:00.1"} {
		u := undoing{plugin: p, dir: dir, openErr: errors.New("not today")}
		l := &journal.Link{Host: &journal.Host{Tag: tagOf(journal.ID{ContainerID: "none", IfName: name}), Name: "nosuch0", Bus: bus}}
		if err := u.giveBack(t.Context(), l); !errors.Is(err, u.openErr) {
			t.Errorf("%s: %v", name, err)
		}
		u.close()
	}
}
