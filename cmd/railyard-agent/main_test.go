// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/railyard-net/railyard/cmd/internal/daemon"
	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/client"
	"github.com/railyard-net/railyard/test/cluster"
)

func env(kv ...string) func(string) string {
	m := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return func(k string) string { return m[k] }
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args    []string
		env     func(string) string
		wantErr []string // parts of it
		check   func(options) bool
	}{
		"defaults": {
			[]string{"--node-name=n"}, env(), nil,
			func(o options) bool {
				return o.socket == "/run/railyard/agent.sock" && o.releaseAfter == 5*time.Minute && o.LogLevel == slog.LevelInfo
			},
		},
		"environment": {
			nil, env("NODE_NAME", "n", "RAILYARD_STATE_DIR", "/x", "RAILYARD_GC_GRACE", "3s", "RAILYARD_LOG_LEVEL", "debug"), nil,
			func(o options) bool {
				return o.nodeName == "n" && o.socket == "/x/agent.sock" && o.gcGrace == 3*time.Second && o.LogLevel == slog.LevelDebug
			},
		},
		"the flag wins": {
			[]string{"--node-name=flag"}, env("NODE_NAME", "n", "RAILYARD_NODE_NAME", "m"), nil,
			func(o options) bool { return o.nodeName == "flag" },
		},
		"our variable wins over NODE_NAME": {
			nil, env("NODE_NAME", "n", "RAILYARD_NODE_NAME", "m"), nil,
			func(o options) bool { return o.nodeName == "m" },
		},
		"no node":              {nil, env(), []string{"--node-name", "RAILYARD_NODE_NAME"}, nil},
		"wrong variable":       {[]string{"--node-name=n"}, env("RAILYARD_GC_GRACE", "x"), []string{"RAILYARD_GC_GRACE", `"x"`}, nil},
		"unknown flag":         {[]string{"--no-such"}, env(), []string{"no-such"}, nil},
		"not a flag":           {[]string{"run"}, env(), []string{`"run"`}, nil},
		"negative":             {[]string{"--node-name=n", "--release-after=-1s", "--gc-interval=0"}, env(), []string{"--release-after", "--gc-interval"}, nil},
		"log format":           {[]string{"--node-name=n", "--log-format=xml"}, env(), []string{"xml", "json", "text"}, nil},
		"install as others":    {[]string{"--node-name=n", "--install-as=whereabouts,nv-ipam"}, env(), nil, func(o options) bool { return len(o.installAs) == 2 }},
		"install as anything":  {[]string{"--node-name=n", "--install-as=whereabouts,../x"}, env(), []string{"--install-as", "../x"}, nil},
		"a socket's long path": {[]string{"--node-name=n", "--state-dir=/" + strings.Repeat("x", 120)}, env(), []string{"--socket", "103"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := parseOptions(c.args, c.env)
			if (err != nil) != (c.wantErr != nil) {
				t.Fatalf("parseOptions: %v, want an error with %q", err, c.wantErr)
			}
			for _, part := range c.wantErr {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("parseOptions: %v, want %q in it", err, part)
				}
			}
			if err == nil && !c.check(o) {
				t.Errorf("parseOptions = %+v", o)
			}
		})
	}
}

func TestHelpNamesEveryFlag(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--help"}, env(), &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	var o options
	shown := 0
	for _, s := range command().Sections {
		shown += len(s.Flags)
	}
	all := 0
	o.flags().VisitAll(func(f *flag.Flag) {
		all++
		if !strings.Contains(out.String(), "--"+f.Name) || f.Name != "version" && !strings.Contains(out.String(), daemon.EnvName(f.Name)) {
			t.Errorf("--help does not show %s", f.Name)
		}
	})
	if shown != all {
		t.Errorf("--help shows %d flags of %d", shown, all)
	}
	for i, line := range strings.Split(out.String(), "\n") {
		if len(line) > 110 {
			t.Errorf("line %d of --help has %d characters: %s", i+1, len(line), line)
		}
	}
}

// TestInstallAs: the names of others are railyard-ipam's where that is asked for, whatever had them.
func TestInstallAs(t *testing.T) {
	t.Parallel()
	from, to := t.TempDir(), t.TempDir()
	good := "#!/bin/sh\n[ \"$CNI_COMMAND\" = VERSION ] && echo '{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"1.1.0\"]}'\n"
	for file, text := range map[string]string{
		filepath.Join(from, "railyard"): good, filepath.Join(from, "railyard-ipam"): good + "# ipam\n", filepath.Join(to, "whereabouts"): "#!/bin/sh\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := installBinaries(t.Context(), slog.New(slog.DiscardHandler), from, to, "whereabouts"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"railyard": good, "railyard-ipam": good + "# ipam\n", "whereabouts": good + "# ipam\n", "nv-ipam": ""} {
		if data, err := os.ReadFile(filepath.Join(to, name)); string(data) != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
}

func TestInstall(t *testing.T) {
	t.Parallel()
	from, to := t.TempDir(), t.TempDir()
	plugin := func(name, text string) {
		if err := os.WriteFile(filepath.Join(from, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	good := "#!/bin/sh\n[ \"$CNI_COMMAND\" = VERSION ] && echo '{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"1.0.0\",\"1.1.0\"]}'\n"
	plugin("railyard", good)
	plugin("railyard-ipam", good+"# ipam\n")
	leftover := filepath.Join(to, ".railyard123456")
	if err := os.WriteFile(leftover, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	install := func() error { return installBinaries(t.Context(), log, from, to) }
	if err := install(); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(to, "railyard")
	first, err := os.Stat(target)
	if err != nil || first.Mode().Perm() != 0o755 {
		t.Fatalf("installed: %v, %v", first, err)
	}
	if _, err := os.Stat(leftover); err == nil {
		t.Error("what a killed installer left is still there")
	}
	if err := install(); err != nil {
		t.Fatal(err)
	}
	if second, err := os.Stat(target); err != nil || !os.SameFile(first, second) {
		t.Errorf("an equal binary was replaced (%v)", err)
	}
	plugin("railyard", good+"# new\n")
	if err := install(); err != nil {
		t.Fatal(err)
	}
	if third, err := os.Stat(target); err != nil || os.SameFile(first, third) {
		t.Errorf("another binary was not replaced (%v)", err)
	}
	plugin("railyard", "#!/bin/sh\nexit 1\n")
	if err := install(); err == nil || !strings.Contains(err.Error(), "VERSION") {
		t.Errorf("install of a broken binary: %v", err)
	}
	if data, err := os.ReadFile(target); err != nil || string(data) != good+"# new\n" {
		t.Errorf("a broken binary replaced a good one (%v)", err)
	}
	entries, err := os.ReadDir(to)
	if err != nil || len(entries) != 2 {
		t.Errorf("in the folder: %v, %v; want the two binaries", entries, err)
	}
}

// logBuffer is a log that a test reads while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// value is that of a key in the first line with the message, "" if there is none yet.
func (b *logBuffer) value(msg, key string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, line := range strings.Split(b.buf.String(), "\n") {
		var m map[string]any
		if json.Unmarshal([]byte(line), &m) == nil && m["msg"] == msg {
			return fmt.Sprint(m[key])
		}
	}
	return ""
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestRun(t *testing.T) {
	t.Parallel()
	api := cluster.NewAPI(t, "manifests/crd")
	if _, err := api.EnsureNode(t.Context(), "n"); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "agent.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--node-name=n", "--kubeconfig=" + api.Kubeconfig(), "--state-dir=" + dir, "--metrics-address=127.0.0.1:0", "--pprof", "--lock-timeout=100ms"}
	if err := run(t.Context(), args, env(), io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Fatalf("with a file in the socket's way: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "agent.sock")); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var log logBuffer
	done := make(chan error, 1)
	go func() { done <- run(ctx, args, env(), io.Discard, &log) }()
	cluster.Eventually(t, "the agent serves", func() error {
		if log.value("serving", "socket") == "" || log.value("serving metrics and health", "address") == "" {
			return errors.New(log.String())
		}
		return nil
	})
	info, err := os.Stat(filepath.Join(dir, "agent.sock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v; want mode 0600", info.Mode(), err)
	}
	url := "http://" + log.value("serving metrics and health", "address")
	get := func(path string) (int, string) {
		resp, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	cluster.Eventually(t, "the agent is ready", func() error {
		if code, body := get("/readyz"); code != http.StatusOK {
			return errors.New(body)
		}
		return nil
	})
	for path, want := range map[string]string{
		"/healthz": "ok", "/readyz": "node n", "/metrics": "railyard_ipam_store_bytes ", "/debug/pprof/cmdline": "",
	} {
		if code, body := get(path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("GET %s: %d %s, want %q in it", path, code, body, want)
		}
	}
	c := client.New(client.SocketPath(dir), "")
	if err := c.Ready(t.Context(), "no-such-pool"); !errors.Is(err, ipam.ErrPoolUnknown) {
		t.Errorf("over the socket: %v, want %v", err, ipam.ErrPoolUnknown)
	}

	second := run(t.Context(), args, env(), io.Discard, io.Discard)
	if second == nil || !strings.Contains(second.Error(), fmt.Sprintf("process %d", os.Getpid())) || !strings.Contains(second.Error(), "--state-dir") {
		t.Errorf("a second agent: %v, want the holder of the lock and what to do", second)
	}
	if err := c.Ready(t.Context(), "no-such-pool"); !errors.Is(err, ipam.ErrPoolUnknown) {
		t.Errorf("over the socket, after a second agent tried: %v", err)
	}

	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("run after the signal: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the agent does not stop")
	}
	if c, err := net.Dial("unix", filepath.Join(dir, "agent.sock")); err == nil {
		t.Error("somebody still listens")
		_ = c.Close()
	}
}
