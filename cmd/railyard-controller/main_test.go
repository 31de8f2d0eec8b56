// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/railyard-net/railyard/test/cluster"
)

func TestHelp(t *testing.T) {
	var out, errs bytes.Buffer
	if err := run(t.Context(), []string{"--help"}, func(string) string { return "" }, &out, &errs); err != nil {
		t.Fatal(err)
	}
	var o options
	shown := map[string]bool{}
	for _, s := range command().Sections {
		for _, name := range s.Flags {
			shown[name] = true
			if !strings.Contains(out.String(), "\n  --"+name) {
				t.Errorf("help lacks --%s", name)
			}
		}
	}
	for _, name := range flagNames(&o) {
		if !shown[name] {
			t.Errorf("--%s is in no section of the help", name)
		}
	}
	if errs.Len() > 0 {
		t.Errorf("stderr: %s", &errs)
	}
}

func flagNames(o *options) []string {
	var out []string
	o.flags().VisitAll(func(f *flag.Flag) { out = append(out, f.Name) })
	return out
}

func TestOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		args    []string
		env     map[string]string
		check   func(options) bool
		wantErr string
	}{
		"defaults":         {check: func(o options) bool { return o.leaderElect && o.MetricsAddress == ":9478" && !o.Pprof }},
		"environment":      {env: map[string]string{"RAILYARD_LEADER_ELECT": "false"}, check: func(o options) bool { return !o.leaderElect }},
		"the flag wins":    {args: []string{"--log-level=warn"}, env: map[string]string{"RAILYARD_LOG_LEVEL": "debug"}, check: func(o options) bool { return o.LogLevel == 4 }},
		"wrong variable":   {env: map[string]string{"RAILYARD_PPROF": "perhaps"}, wantErr: "RAILYARD_PPROF"},
		"unknown flag":     {args: []string{"--leader"}, wantErr: "-leader"},
		"no flag":          {args: []string{"start"}, wantErr: "flags only"},
		"lease too short":  {args: []string{"--leader-elect-lease-duration=5s"}, wantErr: "--leader-elect-lease-duration (RAILYARD_LEADER_ELECT_LEASE_DURATION)"},
		"retry too long":   {args: []string{"--leader-elect-retry-period=9s"}, wantErr: "--leader-elect-renew-deadline"},
		"lease nowhere":    {args: []string{"--leader-elect-namespace="}, wantErr: "--leader-elect-namespace"},
		"format":           {args: []string{"--log-format=xml"}, wantErr: "neither json nor text"},
		"version variable": {env: map[string]string{"RAILYARD_VERSION": "v1"}, check: func(o options) bool { return !o.Version }},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := parseOptions(tc.args, func(k string) string { return tc.env[k] })
			switch {
			case tc.wantErr == "" && err != nil:
				t.Fatal(err)
			case tc.wantErr == "" && !tc.check(o):
				t.Errorf("options %+v", o)
			case tc.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tc.wantErr)):
				t.Errorf("error %v lacks %q", err, tc.wantErr)
			}
		})
	}
}

func TestNoCluster(t *testing.T) {
	err := run(t.Context(), nil, func(string) string { return "" }, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "--kubeconfig (RAILYARD_KUBECONFIG)") {
		t.Errorf("error %v", err)
	}
}

// instance is one railyard-controller process.
type instance struct {
	*cluster.Process
	url string
}

func startInstance(t *testing.T, binary, kubeconfig string, args ...string) *instance {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command(binary, append([]string{"--kubeconfig=" + kubeconfig, "--metrics-address=127.0.0.1:0"}, args...)...)
	p, err := cluster.StartProcess(cmd, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	i := &instance{Process: p}
	eventually(t, p, "it says where it serves", func() error {
		f, err := os.Open(log)
		if err != nil {
			return err
		}
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			var line struct{ Msg, Address string }
			if json.Unmarshal(s.Bytes(), &line) == nil && line.Msg == "serving metrics and health" {
				i.url = "http://" + line.Address
				return nil
			}
		}
		return errors.New("not yet")
	})
	return i
}

func (i *instance) get(t *testing.T, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, i.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

func eventually(t *testing.T, p *cluster.Process, what string, check func() error) {
	t.Helper()
	cluster.Eventually(t, what, func() error {
		if ended := p.Err(); ended != nil {
			t.Fatalf("%s: %v", what, ended)
		}
		return check()
	})
}

// TestProcess runs the built binary twice on a real API server, with the rights that the manifests give: one leads, and when it is
// asked to stop, gives its Lease back and the other takes over at once.
func TestProcess(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "railyard-controller")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	api := cluster.NewAPI(t, "manifests/install/multus-crd", "manifests/install")
	kubeconfig, err := api.ServiceAccountKubeconfig(t.Context(), cluster.AgentNamespace, cluster.ControllerServiceAccount, "")
	if err != nil {
		t.Fatal(err)
	}
	first := startInstance(t, binary, kubeconfig, "--pprof", "--leader-elect-retry-period=200ms")
	eventually(t, first.Process, "the first leads", func() error { return says(first.get(t, "/readyz")).want(200, "ok\nleading") })
	second := startInstance(t, binary, kubeconfig, "--leader-elect-retry-period=200ms")
	eventually(t, second.Process, "the second stands by", func() error { return says(second.get(t, "/readyz")).want(200, "ok\nstanding by") })

	for path, want := range map[string]string{"/healthz": "ok", "/metrics": "controller_runtime_active_workers", "/debug/pprof/": "goroutine"} {
		if err := says(first.get(t, path)).want(200, want); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := says(second.get(t, "/debug/pprof/")).want(404, ""); err != nil {
		t.Errorf("pprof without its flag: %v", err)
	}

	if err := api.Apply(t.Context(), "manifests/samples"); err != nil {
		t.Fatal(err)
	}
	sampleIsReady(t, api, first.Process)
	rss(t, first.Process)

	if err := first.Stop(t.Context(), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	took := time.Now()
	eventually(t, second.Process, "the second takes over", func() error { return says(second.get(t, "/readyz")).want(200, "ok\nleading") })
	if d := time.Since(took); d > 10*time.Second { // the Lease's duration is 15 s
		t.Errorf("taking over took %v: the Lease was not given back", d)
	}
	if out, err := api.Kubectl(t.Context(), "delete", "mvn/rail0", "ippool/rail0", "pod/rail-static", "--timeout=30s", "--wait=false").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	eventually(t, second.Process, "network, definition and pool are gone", func() error {
		out, err := api.Kubectl(t.Context(), "get", "mvn,ippool,net-attach-def", "-A", "-o", "name").Output()
		if err == nil && len(out) > 0 {
			err = fmt.Errorf("left: %s", out)
		}
		return err
	})
	if err := second.Stop(t.Context(), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	lease, err := api.Client().CoordinationV1().Leases(cluster.AgentNamespace).Get(context.Background(), leaseName, metav1.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != "" {
		t.Errorf("the Lease is still held: %v, %v", lease, err)
	}
}

// sampleIsReady waits until the sample network says that pods can use it, which needs both controllers.
func sampleIsReady(t *testing.T, api *cluster.API, p *cluster.Process) {
	t.Helper()
	eventually(t, p, "the sample network is ready", func() error {
		out, err := api.Kubectl(t.Context(), "get", "mvn", "rail0", "-o", "jsonpath={.status.state} {.status.reason}").Output()
		if err == nil && strings.TrimSpace(string(out)) != "ready" {
			err = errors.New(string(out))
		}
		return err
	})
}

// rss says how much memory the leader has, and fails if it is out of all proportion.
func rss(t *testing.T, p *cluster.Process) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		t.Fatal(err)
	}
	mb := resident * unix.Getpagesize() >> 20
	t.Logf("resident: %d MB", mb)
	if mb > 100 {
		t.Errorf("resident: %d MB", mb)
	}
}

// reply is what an instance answered.
type reply struct {
	status int
	body   string
}

func says(status int, body string) reply { return reply{status, body} }

func (r reply) want(status int, text string) error {
	if r.status != status || !strings.Contains(r.body, text) {
		return fmt.Errorf("%d %.200s", r.status, r.body)
	}
	return nil
}
