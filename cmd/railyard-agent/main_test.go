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
				return o.socket == "/run/railyard/agent.sock" && o.releaseAfter == 5*time.Minute && o.cedeWait == 5*time.Second && o.LogLevel == slog.LevelInfo
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
		"wait for ever":        {[]string{"--node-name=n", "--cede-wait=1h"}, env(), []string{"--cede-wait", "20s"}, nil},
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

// TestPlacing: the two commands find the folder on the node, whose file system is mounted elsewhere.
func TestPlacing(t *testing.T) {
	t.Parallel()
	from, host := t.TempDir(), t.TempDir()
	plugin := "#!/bin/sh\necho '{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"1.1.0\"]}'\n"
	socket, config := filepath.Join(host, "run/crio/crio.sock"), filepath.Join(host, "etc/crio/crio.conf")
	for file, text := range map[string]string{
		filepath.Join(from, "railyard"): plugin, filepath.Join(from, "railyard-ipam"): plugin, socket: "",
		config: "[crio.network]\nplugin_dirs = [\"/var/lib/cni/bin\"]\n",
	} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	call := func(args ...string) error { return run(t.Context(), args, env(), io.Discard, io.Discard) }
	if err := call("install", "--host="+host, "--from="+from, "--as=whereabouts"); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(host, "var/lib/cni/bin")
	if entries, err := os.ReadDir(bin); err != nil || len(entries) != 3 {
		t.Errorf("installed: %v, %v; want three plugins", entries, err)
	}
	if err := call("uninstall", "--host="+host, "--as=whereabouts"); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(bin); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	for _, tc := range []struct {
		want string
		args []string
	}{
		{"../x", []string{"install", "--as=../x"}},
		{"install --help", []string{"install", "--state-dir=/x"}},
		{"not a flag", []string{"uninstall", "now"}},
	} {
		if err := call(tc.args...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: %v, want %q in it", tc.args, err, tc.want)
		}
	}
	for _, verb := range []string{"install", "uninstall"} {
		var help bytes.Buffer
		if err := run(t.Context(), []string{verb, "--help"}, env(), &help, io.Discard); err != nil || !strings.Contains(help.String(), "-host") {
			t.Errorf("%s --help: %v\n%s", verb, err, &help)
		}
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
