// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package client leases addresses from outside of the agent: over its socket, and while nobody listens there,
// straight from the node's store. It starts fast and links little, for programs that live for one call.
//
// The order is fixed: the socket first. Only if nobody listens there does a call take the store's lock, which the
// agent holds for life, so there is one allocator at any time. An agent that holds the lock but does not listen
// yet, or not any more, is waited for. A connection that breaks before the reply is retried, because every call
// may be repeated. All of it ends with the context: then the error is ipam.ErrUnavailable.
//
// On the store the node leases what it has, and where nothing else is free also what still cools; it claims no
// new blocks, so what is ipam.ErrPoolFull there may be had once the agent is back. A store that the agent has
// not finished to rebuild after it was lost is not leased from.
package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/ipam/wire"
)

const (
	// DefaultStateDir is where a node's agent keeps its socket and its store.
	DefaultStateDir = "/run/railyard"
	// DefaultTimeout bounds a call whose context has no deadline.
	DefaultTimeout = 30 * time.Second
)

// SocketPath is the agent's socket in a state folder.
func SocketPath(stateDir string) string { return filepath.Join(stateDir, "agent.sock") }

// StorePath is the lease store in a state folder.
func StorePath(stateDir string) string { return filepath.Join(stateDir, "ipam.db") }

// Client is an ipam.Leaser. It holds nothing open between calls and may be used concurrently.
type Client struct {
	socket, store string
	options       func() (store.Options, error)
}

var _ ipam.Leaser = (*Client)(nil)

// Option changes a Client.
type Option func(*Client)

// WithStoreOptions replaces store.SystemOptions, for tests that have their own clock and boot.
func WithStoreOptions(o store.Options) Option {
	return func(c *Client) { c.options = func() (store.Options, error) { return o, nil } }
}

// New makes a client of the agent at socket, with the store at storePath as its fall-back; an empty storePath
// means that there is none.
func New(socket, storePath string, opts ...Option) *Client {
	c := &Client{socket: socket, store: storePath, options: store.SystemOptions}
	for _, o := range opts {
		o(c)
	}
	return c
}

// Lease implements ipam.Leaser.
func (c *Client) Lease(ctx context.Context, req ipam.Request) (ipam.Lease, error) {
	if err := req.Validate(); err != nil {
		return ipam.Lease{}, err
	}
	reply, err := c.call(ctx, wire.Request{Verb: wire.Lease, Request: &req})
	return leaseOf(reply, err)
}

// Release implements ipam.Leaser.
func (c *Client) Release(ctx context.Context, k ipam.Key) error {
	if err := k.Validate(); err != nil {
		return err
	}
	_, err := c.call(ctx, wire.Request{Verb: wire.Release, Key: k})
	return err
}

// Lookup implements ipam.Leaser.
func (c *Client) Lookup(ctx context.Context, k ipam.Key) (ipam.Lease, error) {
	if err := k.Validate(); err != nil {
		return ipam.Lease{}, err
	}
	reply, err := c.call(ctx, wire.Request{Verb: wire.Lookup, Key: k})
	return leaseOf(reply, err)
}

// Decline implements ipam.Leaser.
func (c *Client) Decline(ctx context.Context, k ipam.Key, x ipam.Conflict) error {
	if err := errors.Join(k.Validate(), x.Validate()); err != nil {
		return err
	}
	_, err := c.call(ctx, wire.Request{Verb: wire.Decline, Key: k, Conflict: x})
	return err
}

// Retain implements ipam.Leaser.
func (c *Client) Retain(ctx context.Context, network string, keep []ipam.Key) (int, error) {
	reply, err := c.call(ctx, wire.Request{Verb: wire.Retain, Network: network, Keep: keep})
	return reply.Count, err
}

// Ready implements ipam.Leaser.
func (c *Client) Ready(ctx context.Context, pool string) error {
	_, err := c.call(ctx, wire.Request{Verb: wire.Ready, Pool: pool})
	return err
}

func leaseOf(r wire.Reply, err error) (ipam.Lease, error) {
	switch {
	case err != nil:
		return ipam.Lease{}, err
	case r.Lease == nil:
		return ipam.Lease{}, fmt.Errorf("%w: the agent's reply has no lease", ipam.ErrUnavailable)
	}
	return *r.Lease, nil
}

// call asks whoever is the allocator until somebody answers or ctx ends.
func (c *Client) call(ctx context.Context, req wire.Request) (wire.Reply, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	req.V = wire.Version
	var why error // of the last try that the context did not cut short
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		reply, retry, err := c.once(ctx, req)
		if !retry {
			return reply, err
		}
		if why == nil || ctx.Err() == nil {
			why = err
		}
		select {
		case <-ctx.Done():
			return wire.Reply{}, fmt.Errorf("%w: %s: %w: %w", ipam.ErrUnavailable, req.Verb, context.Cause(ctx), why)
		case <-time.After(wait):
		}
	}
}

// once asks the agent and, if nobody listens, the store. Where retry is true, err is why nobody answered.
func (c *Client) once(ctx context.Context, req wire.Request) (reply wire.Reply, retry bool, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.socket)
	switch {
	case err == nil:
		defer conn.Close()
		reply, err = exchange(ctx, conn, req)
		if err != nil {
			return wire.Reply{}, true, err
		}
		return reply, false, reply.Error.Err()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ECONNREFUSED):
		if c.store == "" {
			return reply, true, err
		}
		err = c.direct(ctx, req, &reply)
		return reply, errors.Is(err, store.ErrLocked), err
	case errors.Is(err, unix.EAGAIN), ctx.Err() != nil: // EAGAIN: more callers than the listener has room for
		return reply, true, err
	}
	return reply, false, fmt.Errorf("%w: %w", ipam.ErrUnavailable, err)
}

// exchange sends req and waits for the reply. An error means that there is none.
func exchange(ctx context.Context, conn net.Conn, req wire.Request) (wire.Reply, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if until, ok := ctx.Deadline(); ok {
		req.TimeoutMS = max(time.Until(until).Milliseconds(), 1)
	}
	if err := wire.Write(conn, req); err != nil {
		return wire.Reply{}, err
	}
	line, err := wire.ReadLine(bufio.NewReader(conn))
	if err != nil {
		return wire.Reply{}, fmt.Errorf("the agent hung up: %w", err)
	}
	return wire.ParseReply(line)
}

// direct does req on the store, if its lock can be had at once.
func (c *Client) direct(ctx context.Context, req wire.Request, reply *wire.Reply) error {
	o, err := c.options()
	if err != nil {
		return err
	}
	o.MustExist = true // the agent alone makes stores: it knows how to rebuild a lost one
	ctxLock, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	s, err := store.Open(ctxLock, c.store, o)
	if errors.Is(err, store.ErrNoStore) && (req.Verb == wire.Release || req.Verb == wire.Retain) {
		return nil // nothing was leased in this boot, or the agent will find it alive or gone
	}
	if err != nil {
		return fmt.Errorf("no agent listens on %s, and its store cannot be used: %w", c.socket, err)
	}
	err = wire.Do(ctx, unattended{s}, req, reply)
	return errors.Join(err, s.Close())
}

// unattended is a store whose agent is away: the last resort is to be taken here.
type unattended struct{ *store.Store }

func (u unattended) Lease(ctx context.Context, req ipam.Request) (ipam.Lease, error) {
	if u.Fresh() {
		return ipam.Lease{}, fmt.Errorf("%w: the agent has not finished to rebuild the lease store", ipam.ErrUnavailable)
	}
	return u.LeaseReusing(ctx, req)
}

func (u unattended) Ready(ctx context.Context, pool string) error {
	if u.Fresh() {
		return fmt.Errorf("%w: the agent has not finished to rebuild the lease store", ipam.ErrUnavailable)
	}
	err := u.Store.Ready(ctx, pool)
	var none *store.NoRoom
	if errors.As(err, &none) && none.Cooling {
		return nil
	}
	return err
}
