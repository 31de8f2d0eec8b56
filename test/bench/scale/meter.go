// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"

	"k8s.io/client-go/rest"
)

// verb is a kind of request, as far as they cost the API server differently.
type verb int

const (
	get verb = iota
	list
	watch
	create
	update
	status // an update of the status alone: of a block it is the mirror
	remove
	other
	verbs
)

func (v verb) String() string {
	return [...]string{"GET", "LIST", "WATCH", "POST", "PUT", "PUT status", "DELETE", "other"}[v]
}

// demand is what was asked of the API server: requests, those that it refused or did not answer, and bytes of the answers' bodies.
type demand struct {
	requests, failed, bytes [verbs]int64
	wire                    int64 // bytes that came over the connections, with TLS, headers and what is compressed
}

func (d demand) plus(e demand, sign int64) demand {
	for v := range verbs {
		d.requests[v] += sign * e.requests[v]
		d.failed[v] += sign * e.failed[v]
		d.bytes[v] += sign * e.bytes[v]
	}
	d.wire += sign * e.wire
	return d
}

// writes are all requests that change something, or were meant to.
func (d demand) writes() int64 {
	return d.requests[create] + d.requests[update] + d.requests[status] + d.requests[remove] + d.requests[other]
}

// meter counts what one agent asks of the API server, at its transport.
type meter struct {
	requests, failed, bytes [verbs]atomic.Int64
	wire                    atomic.Int64
	watching                atomic.Int32 // streams that are open
}

func (m *meter) read() demand {
	var d demand
	for v := range verbs {
		d.requests[v], d.failed[v], d.bytes[v] = m.requests[v].Load(), m.failed[v].Load(), m.bytes[v].Load()
	}
	d.wire = m.wire.Load()
	return d
}

// measure has m count what goes through a client of cfg, which gets connections of its own by that: client-go shares those of
// configurations that look alike.
func (m *meter) measure(cfg *rest.Config) {
	var d net.Dialer
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &countedConn{c, &m.wire}, nil
	}
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return &countedTransport{m, next} })
}

type countedConn struct {
	net.Conn
	n *atomic.Int64
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

type countedTransport struct {
	m    *meter
	next http.RoundTripper
}

func (t *countedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	v := verbOf(r)
	resp, err := t.next.RoundTrip(r)
	if refused, ok := errors.AsType[*net.OpError](err); ok && refused.Op == "dial" {
		return resp, err // nobody was asked
	}
	t.m.requests[v].Add(1)
	if err != nil {
		t.m.failed[v].Add(1)
		return resp, err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		t.m.failed[v].Add(1)
	} else if v == watch {
		t.m.watching.Add(1)
		resp.Body = &countedBody{ReadCloser: resp.Body, n: &t.m.bytes[v], open: &t.m.watching}
		return resp, nil
	}
	resp.Body = &countedBody{ReadCloser: resp.Body, n: &t.m.bytes[v]}
	return resp, nil
}

type countedBody struct {
	io.ReadCloser
	n     *atomic.Int64
	open  *atomic.Int32
	ended atomic.Bool
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	if err != nil {
		b.end()
	}
	return n, err
}

func (b *countedBody) Close() error {
	b.end()
	return b.ReadCloser.Close()
}

func (b *countedBody) end() {
	if b.open != nil && !b.ended.Swap(true) {
		b.open.Add(-1)
	}
}

func verbOf(r *http.Request) verb {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch r.Method {
	case http.MethodGet:
		if w := r.URL.Query().Get("watch"); w == "true" || w == "1" {
			return watch
		}
		named := len(parts) > 4 || len(parts) > 3 && parts[0] == "api" // of what has no namespace, which is all that agents read
		if named {
			return get
		}
		return list
	case http.MethodPost:
		return create
	case http.MethodPut:
		if parts[len(parts)-1] == "status" {
			return status
		}
		return update
	case http.MethodDelete:
		return remove
	}
	return other
}
