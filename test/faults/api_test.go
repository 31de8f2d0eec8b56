// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/railyard-net/railyard/plugins/dispatch"
	"github.com/railyard-net/railyard/test/cluster"
)

// gate is what stands between an agent and the API server. It counts the requests and lets them pass, or does to them what a test says.
type gate struct {
	requests atomic.Int32
	refuse   atomic.Pointer[http.HandlerFunc] // nil: they pass
}

// before puts a gate before the API server, for the node's agent.
func (g *gate) before(n *node) {
	n.lab.t.Helper()
	t := n.lab.t
	target, err := url.Parse(n.lab.api.URL())
	must(t, err)
	// The client sends no token without TLS, so the gate speaks for the node.
	cfg, err := n.Config(t.Context())
	must(t, err)
	transport, err := rest.TransportFor(cfg)
	must(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport, proxy.FlushInterval, proxy.ErrorHandler = transport, -1, func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	var l net.Listener
	must(t, n.Do(func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	}))
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.requests.Add(1)
		if f := g.refuse.Load(); f != nil {
			(*f)(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	n.kubeconfig, err = n.lab.api.NodeKubeconfig(t.Context(), n.Name(), "http://"+l.Addr().String())
	must(t, err)
}

// The API server answers 500, or 429 with a time to wait, or not at all: pods go on to start and end on what the node owns; when that is
// used up ADD says "try again later", and succeeds when the API server does. The agent does not storm it.
func TestAPIRefuses(t *testing.T) {
	var g gate
	l := newLab(t, "10.41.0.0/24", 8, g.before, "n1")
	n, next := l.nodes[0], 0
	add := func() (string, answer) {
		t.Helper()
		next++
		id := fmt.Sprint("c", next)
		netns, err := n.NewPodNetNS(id)
		must(t, err)
		a, err := n.call(t.Context(), "ADD", id, netns, nil)
		must(t, err)
		return id, a
	}
	del := func(id string) {
		t.Helper()
		a, err := n.call(t.Context(), "DEL", id, cluster.PodNetNSPath(id), nil)
		if err != nil || a.code != 0 {
			t.Fatalf("DEL %s: %+v %v", id, a, err)
		}
		must(t, n.RemovePodNetNS(id))
	}
	works := func(when string) {
		t.Helper()
		cluster.Eventually(t, "an ADD "+when, func() error {
			id, a := add()
			del(id)
			if a.code != 0 {
				return fmt.Errorf("code %d: %s", a.code, a.msg)
			}
			return nil
		})
	}
	works("at first")
	for name, f := range map[string]http.HandlerFunc{
		"500": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "etcdserver: no leader", http.StatusInternalServerError)
		},
		"429": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		},
		"hangs": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			g.refuse.Store(&f)
			before, begin := g.requests.Load(), time.Now()
			var pods []string
			for a := (answer{}); a.code == 0; {
				var id string
				if id, a = add(); a.code != 0 && a.code != dispatch.CodeTryAgain {
					t.Fatalf("code %d: %s", a.code, a.msg)
				}
				if pods = append(pods, id); len(pods) > 256 {
					t.Fatal("the node never runs out of addresses")
				}
			}
			if len(pods) < 3 {
				t.Errorf("only %d pods started on what the node owned", len(pods)-1)
			}
			for _, id := range pods {
				del(id)
			}
			// A few for each ADD that found no address, and what the agent's loops and watches ask again.
			if asked, took := g.requests.Load()-before, time.Since(begin); float64(asked) > 60+10*took.Seconds() {
				t.Errorf("%d requests in %v", asked, took)
			}
			id, a := add() // what was given back is there again
			if a.code != 0 {
				t.Errorf("after DEL: code %d: %s", a.code, a.msg)
			}
			del(id)
			g.refuse.Store(nil)
			works("when the API server does again")
		})
	}
	n.kill()
	if leases, err := n.leases(); err != nil || len(leases) > 0 {
		t.Errorf("leases %v, %v", leases, err)
	}
}
