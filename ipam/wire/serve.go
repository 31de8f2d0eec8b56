// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam"
)

// drainTime is how long requests that are being worked on when Serve is told to stop may still take.
const drainTime = 5 * time.Second

// Serve answers requests on l from leaser until ctx ends, each connection on its own. Then it closes l and the
// idle connections, lets the requests at work finish and be answered, for a few seconds, and returns nil. An
// error is why l could not accept; what goes wrong on one connection is logged and ends only that one.
func Serve(ctx context.Context, l net.Listener, leaser ipam.Leaser, log *slog.Logger) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	s := &server{leaser: leaser, log: log, conns: map[*conn]bool{}}
	stopped := context.AfterFunc(ctx, func() {
		_ = l.Close()
		s.drain()
	})
	defer stopped()
	err := s.accept(ctx, work, l)
	_ = l.Close()
	s.drain()
	late := time.AfterFunc(drainTime, cancel)
	defer late.Stop()
	s.wait.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("%w: accept on %s: %w", ipam.ErrUnavailable, l.Addr(), err)
}

type server struct {
	leaser ipam.Leaser
	log    *slog.Logger
	wait   sync.WaitGroup

	mu       sync.Mutex
	conns    map[*conn]bool
	draining bool
}

// conn is one connection. Between requests it is idle and may be closed at any time.
type conn struct {
	net.Conn
	busy bool // under server.mu
}

func (s *server) accept(ctx, work context.Context, l net.Listener) error {
	for {
		nc, err := l.Accept()
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED) {
			select { // out of descriptors: those at work will give some back
			case <-ctx.Done():
				return err
			case <-time.After(10 * time.Millisecond):
				continue
			}
		}
		if err != nil {
			return err
		}
		c := &conn{Conn: nc}
		s.mu.Lock()
		s.conns[c] = true
		s.mu.Unlock()
		s.wait.Go(func() { s.serve(work, c) })
	}
}

// drain closes what is idle; what is busy closes itself after its reply.
func (s *server) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	for c := range s.conns {
		if !c.busy {
			_ = c.Close()
		}
	}
}

// turn marks c as busy or idle and says whether to go on with it.
func (s *server) turn(c *conn, busy bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.busy = busy
	return !s.draining
}

func (s *server) serve(ctx context.Context, c *conn) {
	defer func() {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		_ = c.Close()
	}()
	if err := trusted(c.Conn); err != nil {
		s.log.Warn("a caller is refused", "error", err)
		_ = c.SetWriteDeadline(time.Now().Add(drainTime))
		_ = Write(c, Reply{V: Version, Error: EncodeError(err)}) // for people; it may be gone
		return
	}
	r := bufio.NewReader(c)
	for {
		line, err := ReadLine(r)
		if !s.turn(c, true) {
			return // read, but nothing of it was done: the client asks again
		}
		var reply Reply
		var req Request
		if err == nil {
			req, err = ParseRequest(line)
		}
		broken := err != nil
		switch {
		case errors.Is(err, ipam.ErrInvalid):
			reply.Error = EncodeError(err)
		case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			s.log.Debug("connection ended", "error", err)
			return
		default:
			reply = s.answer(ctx, req)
		}
		reply.V = Version
		_ = c.SetWriteDeadline(time.Now().Add(drainTime))
		if err := Write(c, reply); err != nil {
			s.log.Warn("reply not delivered", "verb", req.Verb, "error", err)
			return
		}
		if broken || !s.turn(c, false) {
			return
		}
	}
}

func (s *server) answer(ctx context.Context, req Request) (reply Reply) {
	timeout := DefaultTimeout
	if req.TimeoutMS > 0 {
		timeout = MaxTimeout
		if req.TimeoutMS < MaxTimeout.Milliseconds() {
			timeout = time.Duration(req.TimeoutMS) * time.Millisecond
		}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := Do(ctx, s.leaser, req, &reply); err != nil {
		return Reply{Error: EncodeError(err)}
	}
	return reply
}

// Do has leaser answer req. It is what both ends of the protocol agree a request means.
func Do(ctx context.Context, leaser ipam.Leaser, req Request, reply *Reply) (err error) {
	if req.V != Version {
		return &ipam.FieldError{Field: "v", Detail: fmt.Sprintf("version %d is not spoken here: use %d", req.V, Version)}
	}
	var l ipam.Lease
	switch req.Verb {
	case Lease:
		if req.Request == nil {
			return &ipam.FieldError{Field: "request", Detail: "is missing"}
		}
		l, err = leaser.Lease(ctx, *req.Request)
		reply.Lease = &l
	case Release:
		err = leaser.Release(ctx, req.Key)
	case Lookup:
		l, err = leaser.Lookup(ctx, req.Key)
		reply.Lease = &l
	case Decline:
		err = leaser.Decline(ctx, req.Key, req.Conflict)
	case Retain:
		reply.Count, err = leaser.Retain(ctx, req.Network, req.Keep)
	case Ready:
		err = leaser.Ready(ctx, req.Pool)
	default:
		return &ipam.FieldError{Field: "verb", Detail: fmt.Sprintf("%.40q is not spoken here", string(req.Verb))}
	}
	return err
}
