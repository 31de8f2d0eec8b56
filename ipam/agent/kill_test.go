// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	leases "github.com/railyard-net/railyard/ipam/client"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/ipam/wire"
)

// childArgs are what a child process needs to be an agent on a bad line.
type childArgs struct{ Node, Kubeconfig, Dir string }

// child is an agent with a socket, until SIGTERM.
func child(args string) int {
	if err := runChild(args); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	return 0
}

func runChild(args string) error {
	var c childArgs
	if err := json.Unmarshal([]byte(args), &c); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return err
	}
	cfg.QPS = -1
	api, cache, err := Connect(cfg, c.Node)
	if err != nil {
		return err
	}
	so, err := store.SystemOptions()
	if err != nil {
		return err
	}
	st, err := store.Open(ctx, leases.StorePath(c.Dir), so)
	if err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	a, err := New(Config{
		Node: c.Node, Store: st, Client: faulty{api, 0.1}, Cache: cache, Log: log, NamespaceDirs: []string{}, places: []string{},
		GCInterval: time.Hour, MirrorInterval: 50 * time.Millisecond, ReleaseAfter: time.Nanosecond,
	})
	if err != nil {
		return err
	}
	socket := leases.SocketPath(c.Dir)
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return wire.Serve(ctx, l, a, log) })
	g.Go(func() error { return a.Run(ctx) })
	return errors.Join(g.Wait(), st.Close())
}

// startChild starts an agent in a process of its own, which dies with this one.
func startChild(t testing.TB, c childArgs) *exec.Cmd {
	args, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(args))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// awaitSocket waits until somebody listens, or ctx ends.
func awaitSocket(ctx context.Context, path string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		if c, err := net.Dial("unix", path); err == nil {
			_ = c.Close()
			return
		}
		<-tick.C
	}
}

// TestKilledAtAnyPoint kills agents again and again while their nodes' plugins lease and release, over the socket
// or, while nobody listens there, on the store.
func TestKilledAtAnyPoint(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/27", BlockSize: 4}
	})
	book := newLedger(t)
	const wantKills = 16
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var wait sync.WaitGroup
	var total, kills atomic.Int64
	var nodes []childArgs
	for i := range 2 {
		c := childArgs{Node: fmt.Sprintf("killed-%d", i), Dir: t.TempDir()}
		var err error
		if c.Kubeconfig, err = shared.NodeKubeconfig(t.Context(), c.Node, ""); err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, c)
		wait.Go(func() { // the killer
			for n := 0; ctx.Err() == nil; n++ {
				cmd := startChild(t, c)
				if n%4 != 0 { // most die while they serve, however long a busy machine takes to start them, and some before
					awaitSocket(ctx, leases.SocketPath(c.Dir))
				}
				select {
				case <-ctx.Done():
				case <-time.After(rand.N(900 * time.Millisecond)):
				}
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				if kills.Add(1) >= wantKills {
					cancel()
				}
			}
		})
		for w := range 2 {
			wait.Go(func() {
				l := leases.New(leases.SocketPath(c.Dir), leases.StorePath(c.Dir))
				total.Add(int64(restless(ctx, t, l, book, pool, fmt.Sprintf("%s-%d", c.Node, w))))
			})
		}
	}
	wait.Wait()
	t.Logf("%d leases, %d kills", total.Load(), kills.Load())
	if total.Load() < 50 || kills.Load() < wantKills {
		t.Errorf("only %d leases were had over %d kills", total.Load(), kills.Load())
	}
	var agents []*running
	for _, c := range nodes {
		agents = append(agents, start(t, c.Node, agentOptions{dir: c.Dir, config: func(c *Config) { c.ReleaseAfter = time.Nanosecond }}))
	}
	shared.noBlocks(t, pool)
	shared.check(t, pool, agents...)
}
