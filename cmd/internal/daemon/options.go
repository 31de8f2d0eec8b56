// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/railyard-net/railyard/cmd/internal/build"
)

const versionFlag = "version"

// Options are the flags that every daemon has.
type Options struct {
	Kubeconfig     string
	QPS            float64
	Burst          int
	MetricsAddress string
	Pprof          bool
	LogLevel       slog.Level
	LogFormat      string
	Version        bool
}

// Cluster and Watching are the names of these flags, for the sections of --help.
func Cluster() []string { return []string{"kubeconfig", "kube-api-qps", "kube-api-burst"} }

// Watching goes with Cluster.
func Watching() []string {
	return []string{"metrics-address", "pprof", "log-level", "log-format", versionFlag}
}

// Register adds the flags to fs.
func (o *Options) Register(fs *flag.FlagSet, metricsAddress string) {
	fs.StringVar(&o.Kubeconfig, "kubeconfig", "", "`file` that says how to reach the API server; empty: as a pod does")
	fs.Float64Var(&o.QPS, "kube-api-qps", 50, "API requests a second, on average")
	fs.IntVar(&o.Burst, "kube-api-burst", 100, "API requests at once, above the average")
	fs.StringVar(&o.MetricsAddress, "metrics-address", metricsAddress, "`host:port` for /metrics, /healthz and /readyz; port 0: any free one; empty: off")
	fs.BoolVar(&o.Pprof, "pprof", false, "serve /debug/pprof there too")
	fs.TextVar(&o.LogLevel, "log-level", slog.LevelInfo, "lowest `level` to log: debug, info, warn or error")
	fs.StringVar(&o.LogFormat, "log-format", "json", "`format` of the log on stderr: json or text")
	fs.BoolVar(&o.Version, versionFlag, false, "print the version and exit")
}

// Check adds what is wrong with them to faults.
func (o *Options) Check(faults *Faults) {
	if o.QPS <= 0 || o.Burst <= 0 {
		faults.Add("kube-api-qps", "it and --kube-api-burst must be more than 0")
	}
	if o.LogFormat != "json" && o.LogFormat != "text" {
		faults.Add("log-format", "%q is neither json nor text", o.LogFormat)
	}
}

// Logger makes the one logger of the process and has the Kubernetes libraries, which log through globals of theirs,
// use it too.
func (o *Options) Logger(w io.Writer) *slog.Logger {
	ho := &slog.HandlerOptions{Level: o.LogLevel}
	var h slog.Handler = slog.NewJSONHandler(w, ho)
	if o.LogFormat == "text" {
		h = slog.NewTextHandler(w, ho)
	}
	kube := logr.FromSlogHandler(h.WithAttrs([]slog.Attr{slog.String("component", "kubernetes-client")}))
	klog.SetLogger(kube)
	ctrllog.SetLogger(kube)
	return slog.New(h)
}

// RESTConfig says how program reaches the API server.
func (o *Options) RESTConfig(program string) (cfg *rest.Config, err error) {
	if o.Kubeconfig == "" {
		cfg, err = rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, fmt.Errorf("no --kubeconfig (%s) given, and this is not a pod with a service account", EnvName("kubeconfig"))
		}
	} else {
		cfg, err = clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	cfg.QPS, cfg.Burst = float32(o.QPS), o.Burst
	cfg.UserAgent = program + "/" + build.Version()
	return cfg, nil
}
