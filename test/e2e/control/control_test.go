// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// switches is a cluster of which nothing is left but whether its parts are on.
type switches map[string]bool

func (s switches) set(what, deed string, on bool) error {
	if was, there := s[what]; !there || was == on {
		return errors.New(what + " cannot be told " + deed)
	}
	s[what] = on
	return nil
}

func (s switches) Machine(name, deed string) error { return s.set(name, deed, deed == "on") }

func (s switches) Program(machine, order, program string) error {
	return s.set(machine+"'s "+program, order, order == "start")
}

func (s switches) API(_ context.Context, deed string) error {
	return s.set("API", deed, deed == "start")
}

func TestControl(t *testing.T) {
	s := switches{"n": true, "n's kubelet": true, "API": true}
	socket := filepath.Join(t.TempDir(), "socket")
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, socket, s) }()
	c := NewClient(socket)
	// The first one waits for the socket.
	for until := time.Now().Add(30 * time.Second); ; {
		err := c.Machine("n", "off")
		if err == nil {
			break
		}
		if time.Now().After(until) {
			t.Fatal(err)
		}
	}
	if err := errors.Join(c.Program("n", "stop", "kubelet"), c.API(t.Context(), "stop")); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(switches{"n": false, "n's kubelet": false, "API": false}, s); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for path, want := range map[string]string{"machines/m/off": "m cannot be told off", "machines": "404", "api/sing": "API cannot be told sing"} {
		if err := c.Do(t.Context(), path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", path, err, want)
		}
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestInfo(t *testing.T) {
	dir := t.TempDir()
	if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), "make cluster") {
		t.Errorf("without a cluster: %v, want what to do", err)
	}
	want := Info{Kubeconfig: "k", Kubectl: "l", Socket: "s", Machines: []string{"a", "b"}}
	if err := want.Write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := Read(dir)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}
