// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// forwarder carries connections from a listener in one network namespace to an address in another.
type forwarder struct {
	listener net.Listener
	in       *space // of the address; nil is the host's
	to       string

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
	wg     sync.WaitGroup
}

// newForwarder listens on addr in the network namespace of from, and dials to in that of in; nil is the host's.
func newForwarder(from *space, addr string, in *space, to string) (*forwarder, error) {
	f := &forwarder{in: in, to: to, conns: map[net.Conn]struct{}{}}
	err := socketIn(from, func() (err error) {
		f.listener, err = net.Listen("tcp", addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen for the API: %w", err)
	}
	f.wg.Go(f.serve)
	return f, nil
}

// socketIn runs what makes a socket: it belongs to the namespace of the thread that made it, whichever thread uses it later.
func socketIn(s *space, f func() error) error {
	if s == nil {
		return f()
	}
	return s.do(f)
}

func (f *forwarder) serve() {
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.wg.Go(func() { f.carry(conn) })
	}
}

// carry joins one connection; both ends are closed when either is, as a broken TCP connection would be.
func (f *forwarder) carry(in net.Conn) {
	defer in.Close()
	var out net.Conn
	err := socketIn(f.in, func() (err error) {
		out, err = net.Dial("tcp", f.to)
		return err
	})
	if err != nil {
		return
	}
	defer out.Close()
	if !f.track(in, out) {
		return
	}
	defer f.forget(in, out)
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_ = in.Close()
			_ = out.Close()
		})
	}
	both.Wait()
}

func (f *forwarder) track(conns ...net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	for _, c := range conns {
		f.conns[c] = struct{}{}
	}
	return true
}

func (f *forwarder) forget(conns ...net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range conns {
		delete(f.conns, c)
	}
}

// close cuts all connections and returns when nothing of the forwarder runs. It may be called again.
func (f *forwarder) close() error {
	f.mu.Lock()
	f.closed = true
	errs := []error{f.listener.Close()}
	for c := range f.conns {
		errs = append(errs, c.Close())
	}
	f.mu.Unlock()
	f.wg.Wait()
	var left []error
	for _, err := range errs {
		if err != nil && !errors.Is(err, net.ErrClosed) {
			left = append(left, err)
		}
	}
	return errors.Join(left...)
}
