// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/wire"
)

// gate is a Leaser whose Lease waits to be let through; what it was asked it answers with.
type gate struct {
	entered chan struct{}
	open    chan struct{}
}

func (g gate) Lease(ctx context.Context, req ipam.Request) (ipam.Lease, error) {
	g.entered <- struct{}{}
	select {
	case <-g.open:
		return ipam.Lease{Key: req.Key, Pool: req.Pool}, req.Validate()
	case <-ctx.Done():
		return ipam.Lease{}, fmt.Errorf("%w: %w", ipam.ErrUnavailable, ctx.Err())
	}
}

func (g gate) Release(context.Context, ipam.Key) error { return nil }
func (g gate) Lookup(_ context.Context, k ipam.Key) (ipam.Lease, error) {
	return ipam.Lease{}, fmt.Errorf("%w: %s", ipam.ErrNotFound, k.ContainerID)
}
func (g gate) Retain(_ context.Context, _ string, keep []ipam.Key) (int, error) {
	return len(keep), nil
}
func (g gate) Decline(_ context.Context, k ipam.Key, c ipam.Conflict) error {
	if k.ContainerID != "held" || c.Address.String() != "10.20.0.7" {
		return fmt.Errorf("%w: %s", ipam.ErrNotFound, k.ContainerID)
	}
	return nil
}
func (g gate) Ready(context.Context, string) error { return ipam.ErrPoolFull }

type running struct {
	gate
	path string
	stop context.CancelFunc
	done chan error
}

func serve(t *testing.T) *running {
	t.Helper()
	r := &running{gate: gate{make(chan struct{}, 9), make(chan struct{})}, path: filepath.Join(t.TempDir(), "a.sock"), done: make(chan error, 1)}
	l, err := wire.Listen(r.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() { r.done <- wire.Serve(ctx, l, r.gate, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		stop()
		if err := <-r.done; err != nil {
			t.Error(err)
		}
		r.done <- nil
		goleak.VerifyNone(t)
	})
	return r
}

func dial(t *testing.T, path string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, bufio.NewReader(c)
}

func TestServeLines(t *testing.T) {
	const lease = `{"v":1,"verb":"lease","request":{"key":{"network":"n","containerID":"c","ifName":"i"},"pool":"p"}}`
	cases := map[string]struct {
		line string
		want string // the reply
		ends bool   // the connection ends after it
	}{
		"release":          {line: `{"v":1,"verb":"release","key":{"network":"n"}}`, want: `{"v":1}`},
		"lookup":           {line: `{"v":1,"verb":"lookup","key":{"containerID":"c"}}`, want: `{"v":1,"error":{"code":"not-found","detail":"lease not found: c"}}`},
		"retain":           {line: `{"v":1,"verb":"retain","network":"n","keep":[{},{}]}`, want: `{"v":1,"count":2}`},
		"ready":            {line: `{"v":1,"verb":"ready","pool":"p"}`, want: `{"v":1,"error":{"code":"pool-full","detail":"pool full"}}`},
		"unknown field":    {line: `{"v":1,"verb":"release","colour":"red"}`, want: `{"v":1}`},
		"windows":          {line: "{\"v\":1,\"verb\":\"release\"}\r", want: `{"v":1}`},
		"lease, no body":   {line: `{"v":1,"verb":"lease"}`, want: `{"v":1,"error":{"code":"invalid","field":"request","detail":"is missing"}}`},
		"another version":  {line: `{"v":2,"verb":"release"}`, want: `{"v":1,"error":{"code":"invalid","field":"v","detail":"version 2 is not spoken here: use 1"}}`},
		"unknown verb":     {line: `{"v":1,"verb":"steal"}`, want: `{"v":1,"error":{"code":"invalid","field":"verb","detail":"\"steal\" is not spoken here"}}`},
		"wrong type":       {line: `{"v":"1"}`, want: `{"v":1,"error":{"code":"invalid","field":"v","detail":"is a JSON string where a int belongs"}}`, ends: true},
		"bad address":      {line: strings.Replace(lease, `"pool"`, `"static":["10.0.0"],"pool"`, 1), want: `{"v":1,"error":{"code":"invalid","field":"line","detail":"is not a request: ParseAddr(\"10.0.0\"): IPv4 address too short"}}`, ends: true},
		"not JSON":         {line: `GET / HTTP/1.1`, want: `{"v":1,"error":{"code":"invalid","field":"line","detail":"is not a request: invalid character 'G' looking for beginning of value"}}`, ends: true},
		"empty line":       {line: ``, want: `{"v":1,"error":{"code":"invalid","field":"line","detail":"is not a request: unexpected end of JSON input"}}`, ends: true},
		"too long":         {line: strings.Repeat(" ", wire.MaxLine+1), want: `{"v":1,"error":{"code":"invalid","field":"line","detail":"is longer than 4194304 bytes"}}`, ends: true},
		"negative timeout": {line: `{"v":1,"verb":"release","timeoutMs":-1}`, want: `{"v":1}`},
	}
	r := serve(t)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			conn, in := dial(t, r.path)
			go func() { _, _ = io.WriteString(conn, c.line+"\n") }()
			got, err := wire.ReadLine(in)
			if err != nil || string(got) != c.want {
				t.Fatalf("got %s, %v\nwant %s", got, err, c.want)
			}
			if c.ends {
				if _, err := in.ReadByte(); err == nil {
					t.Error("the connection is still there")
				}
				return
			}
			if err := wire.Write(conn, wire.Request{V: 1, Verb: wire.Release}); err != nil {
				t.Fatal(err)
			}
			if got, err := wire.ReadLine(in); err != nil || string(got) != `{"v":1}` {
				t.Errorf("the next request: %s, %v", got, err)
			}
		})
	}
	info, err := os.Stat(r.path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
}

// A server told to stop answers what it is at work on, hangs up on the idle, and accepts nothing new.
func TestServeDrains(t *testing.T) {
	r := serve(t)
	idle, idleIn := dial(t, r.path)
	if err := wire.Write(idle, wire.Request{V: 1, Verb: wire.Release}); err != nil {
		t.Fatal(err)
	}
	if _, err := wire.ReadLine(idleIn); err != nil {
		t.Fatal(err)
	}
	busy, busyIn := dial(t, r.path)
	req := ipam.Request{Key: ipam.Key{Network: "n", ContainerID: "c", IfName: "i"}, Pool: "p"}
	if err := wire.Write(busy, wire.Request{V: 1, Verb: wire.Lease, Request: &req}); err != nil {
		t.Fatal(err)
	}
	<-r.entered
	r.stop()
	if _, err := idleIn.ReadByte(); err == nil {
		t.Error("the idle connection is still there")
	}
	if c, err := net.Dial("unix", r.path); err == nil {
		c.Close()
		t.Error("it still accepts")
	}
	close(r.open)
	line, err := wire.ReadLine(busyIn)
	if err != nil {
		t.Fatal(err)
	}
	if reply, err := wire.ParseReply(line); err != nil || reply.Lease == nil || reply.Lease.Key != req.Key {
		t.Errorf("got %+v, %v", reply, err)
	}
}

func TestRequestTimeout(t *testing.T) {
	r := serve(t)
	conn, in := dial(t, r.path)
	if err := wire.Write(conn, wire.Request{V: 1, Verb: wire.Lease, TimeoutMS: 1, Request: &ipam.Request{}}); err != nil {
		t.Fatal(err)
	}
	line, err := wire.ReadLine(in)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := wire.ParseReply(line)
	if err != nil || !errors.Is(reply.Error.Err(), ipam.ErrUnavailable) {
		t.Errorf("got %s, %v", line, err)
	}
}

// A second agent takes over the path in one step, whatever is there.
func TestListenReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "a.sock")
	for range 2 {
		l, err := wire.Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		l.Close()
		if _, err := net.Dial("unix", path); err == nil {
			t.Error("somebody listens after Close")
		}
	}
}

func TestErrorsCross(t *testing.T) {
	field := &ipam.FieldError{Field: "ips[0]", Detail: "10.0.0.1 is not reserved"}
	cases := map[string]struct {
		err       error
		wantIs    error
		wantField string
		wantText  string
	}{
		"field":         {field, ipam.ErrInvalid, "ips[0]", "ips[0]: 10.0.0.1 is not reserved"},
		"wrapped field": {fmt.Errorf("lease: %w", field), ipam.ErrInvalid, "ips[0]", ""},
		"two fields":    {errors.Join(field, &ipam.FieldError{Field: "pool", Detail: "is empty"}), ipam.ErrInvalid, "ips[0]", "ips[0]: 10.0.0.1 is not reserved\npool: is empty"},
		"invalid":       {fmt.Errorf("%w: so", ipam.ErrInvalid), ipam.ErrInvalid, "", "invalid: so"},
		"unknown":       {fmt.Errorf("%w: p", ipam.ErrPoolUnknown), ipam.ErrPoolUnknown, "", "pool unknown: p"},
		"closed":        {fmt.Errorf("%w: p", ipam.ErrPoolClosed), ipam.ErrPoolClosed, "", "pool closed: p"},
		"full":          {ipam.ErrPoolFull, ipam.ErrPoolFull, "", "pool full"},
		"taken":         {ipam.ErrTaken, ipam.ErrTaken, "", "address taken"},
		"not found":     {ipam.ErrNotFound, ipam.ErrNotFound, "", "lease not found"},
		"unavailable":   {ipam.ErrUnavailable, ipam.ErrUnavailable, "", "unavailable"},
		"foreign":       {io.ErrUnexpectedEOF, ipam.ErrUnavailable, "", "unexpected EOF"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b, err := json.Marshal(wire.EncodeError(c.err))
			if err != nil {
				t.Fatal(err)
			}
			var e wire.Error
			if err := json.Unmarshal(b, &e); err != nil {
				t.Fatal(err)
			}
			got := e.Err()
			var f *ipam.FieldError
			if !errors.Is(got, c.wantIs) || errors.As(got, &f) != (c.wantField != "") || f != nil && f.Field != c.wantField {
				t.Errorf("got %#v from %s", got, b)
			}
			if c.wantText != "" && got.Error() != c.wantText {
				t.Errorf("got %q, want %q", got, c.wantText)
			}
		})
	}
	if wire.EncodeError(nil) != nil || (*wire.Error)(nil).Err() != nil {
		t.Error("nil does not stay nil")
	}
	if err := (&wire.Error{Code: "of-tomorrow"}).Err(); !errors.Is(err, ipam.ErrUnavailable) {
		t.Errorf("unknown code: %v", err)
	}
}

func FuzzWireRequest(f *testing.F) {
	f.Add([]byte(`{"v":1,"verb":"lease","timeoutMs":9,"request":{"key":{"network":"n","containerID":"c","ifName":"i"},"pool":"p","static":["10.0.0.1"]}}`))
	f.Add([]byte(`{"v":1,"verb":"retain","network":"n","keep":[{"network":"n"}]}`))
	f.Add([]byte(`{"v":1,"verb":"lease","request":null}`))
	f.Add([]byte("null"))
	f.Add([]byte("{\"v\":1}\n{}"))
	g := gate{make(chan struct{}, 1), make(chan struct{})}
	close(g.open)
	f.Fuzz(func(t *testing.T, data []byte) {
		line, err := wire.ReadLine(bufio.NewReader(bytes.NewReader(data)))
		if err != nil {
			line = data
		}
		req, err := wire.ParseRequest(line)
		if err != nil {
			if !errors.Is(err, ipam.ErrInvalid) {
				t.Fatalf("an error that is no ErrInvalid: %v", err)
			}
			return
		}
		var out bytes.Buffer
		if err := wire.Write(&out, req); err != nil {
			t.Fatal(err)
		}
		again, err := wire.ParseRequest(bytes.TrimSpace(out.Bytes()))
		if err != nil || bytes.Count(out.Bytes(), []byte("\n")) != 1 {
			t.Fatalf("%q: %v", out.Bytes(), err)
		}
		var second bytes.Buffer
		if err := wire.Write(&second, again); err != nil || !bytes.Equal(out.Bytes(), second.Bytes()) {
			t.Fatal(cmp.Diff(out.String(), second.String()))
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var reply wire.Reply
		err = wire.Do(ctx, g, req, &reply)
		if err == nil && req.Verb == wire.Lease {
			err = req.Request.Validate()
		}
		select {
		case <-g.entered:
		default:
		}
		if err != nil && wire.EncodeError(err).Code == "" {
			t.Fatal(err)
		}
	})
}
