// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package wire is the protocol between whoever needs a lease and the node's agent: one JSON object per line on a
// unix stream socket, each request answered by one reply, in order, as many as the client likes.
//
//	→ {"v":1,"verb":"lease","timeoutMs":30000,"request":{"key":{"network":"rail0","containerID":"c0ffee","ifName":"net1"},"pool":"rail0"}}
//	← {"v":1,"lease":{"key":{…},"pool":"rail0","addresses":[{"prefix":"10.20.0.7/16","gateway":"10.20.0.1"}],"since":"…"}}
//	→ {"v":1,"verb":"lookup","key":{"network":"rail0","containerID":"gone","ifName":"net1"}}
//	← {"v":1,"error":{"code":"not-found","detail":"lease not found: …"}}
//
// Every verb may be repeated, so a client that got no answer asks again; that is the whole recovery. A reply with
// an error has nothing else. Unknown fields are ignored on both sides; a version or verb that the server does not
// speak is an error of code "invalid" on the field "v" or "verb", and the connection stays usable. A line of more
// than MaxLine bytes, or one that is not JSON, is answered and ends the connection.
package wire

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/railyard-net/railyard/ipam"
)

const (
	// Version is the one that this package speaks.
	Version = 1
	// MaxLine is the longest line in bytes: a Retain that keeps some 20,000 attachments.
	MaxLine = 4 << 20
	// DefaultTimeout is how long the server works on a request that names no time.
	DefaultTimeout = 30 * time.Second
	// MaxTimeout is the longest that it works on any.
	MaxTimeout = 5 * time.Minute
)

// Verb is a method of ipam.Leaser.
type Verb string

// The verbs, with the fields of Request that each reads and the fields of Reply that it fills.
const (
	Lease   Verb = "lease"   // Request.Request → Reply.Lease
	Release Verb = "release" // Request.Key
	Lookup  Verb = "lookup"  // Request.Key → Reply.Lease
	Decline Verb = "decline" // Request.Key, Conflict
	Retain  Verb = "retain"  // Request.Network, Keep → Reply.Count
	Ready   Verb = "ready"   // Request.Pool
)

// Request is one line from the client.
type Request struct {
	V         int           `json:"v"`
	Verb      Verb          `json:"verb"`
	TimeoutMS int64         `json:"timeoutMs,omitempty"`
	Request   *ipam.Request `json:"request,omitempty"`
	Key       ipam.Key      `json:"key,omitzero"`
	Network   string        `json:"network,omitempty"`
	Keep      []ipam.Key    `json:"keep,omitempty"`
	Conflict  ipam.Conflict `json:"conflict,omitzero"`
	Pool      string        `json:"pool,omitempty"`
}

// MarshalJSON writes what package json would by itself, of the verbs that a plugin sends only what each reads. Package json prepares
// itself for whatever a type can hold, in every process anew, and a plugin's is short: of what it does for an address this took the most.
func (r Request) MarshalJSON() ([]byte, error) {
	type head struct {
		V         int   `json:"v"`
		Verb      Verb  `json:"verb"`
		TimeoutMS int64 `json:"timeoutMs,omitempty"`
	}
	h := head{r.V, r.Verb, r.TimeoutMS}
	switch r.Verb {
	case Lease:
		return json.Marshal(struct {
			head
			Request *ipam.Request `json:"request,omitempty"`
		}{h, r.Request})
	case Release:
		return json.Marshal(struct {
			head
			Key ipam.Key `json:"key,omitzero"`
		}{h, r.Key})
	}
	type plain Request
	return json.Marshal(plain(r))
}

// Reply is one line from the server.
type Reply struct {
	V     int         `json:"v"`
	Lease *ipam.Lease `json:"lease,omitempty"`
	Count int         `json:"count,omitempty"`
	Error *Error      `json:"error,omitempty"`
}

// UnmarshalJSON reads what package json would by itself, and looks at the types of those parts only that are there: see Request.
func (r *Reply) UnmarshalJSON(data []byte) error {
	var parts struct {
		V     int             `json:"v"`
		Lease json.RawMessage `json:"lease"`
		Count int             `json:"count"`
		Error json.RawMessage `json:"error"`
	}
	if err := json.Unmarshal(data, &parts); err != nil {
		return err
	}
	*r = Reply{V: parts.V, Count: parts.Count}
	if parts.Lease != nil {
		if err := json.Unmarshal(parts.Lease, &r.Lease); err != nil {
			return err
		}
	}
	if parts.Error != nil {
		return json.Unmarshal(parts.Error, &r.Error)
	}
	return nil
}

// Error is an error of package ipam on its way through the socket.
type Error struct {
	// Code is one of those below.
	Code string `json:"code"`
	// Field is set for an ipam.FieldError.
	Field  string `json:"field,omitempty"`
	Detail string `json:"detail"`
}

var codes = []struct {
	code string
	err  error
}{
	{"invalid", ipam.ErrInvalid},
	{"pool-unknown", ipam.ErrPoolUnknown},
	{"pool-closed", ipam.ErrPoolClosed},
	{"pool-full", ipam.ErrPoolFull},
	{"taken", ipam.ErrTaken},
	{"not-found", ipam.ErrNotFound},
	{"unavailable", ipam.ErrUnavailable},
}

// EncodeError makes err fit for a Reply; nil stays nil. What wraps none of package ipam's errors is "unavailable".
func EncodeError(err error) *Error {
	if err == nil {
		return nil
	}
	out := &Error{Code: "unavailable", Detail: err.Error()}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			out.Code = c.code
			break
		}
	}
	var field *ipam.FieldError
	if out.Code == "invalid" && errors.As(err, &field) {
		out.Field = field.Field
		if err.Error() == field.Error() {
			out.Detail = field.Detail
		}
	}
	return out
}

// Err is what the client's caller gets: errors.Is finds the error of package ipam that the server meant, and
// errors.As its FieldError. A code that this side does not know is ipam.ErrUnavailable.
func (e *Error) Err() error {
	if e == nil {
		return nil
	}
	if e.Code == "invalid" && e.Field != "" {
		f := &ipam.FieldError{Field: e.Field, Detail: e.Detail}
		if strings.HasPrefix(e.Detail, e.Field+": ") || strings.Contains(e.Detail, "\n") { // the whole text of several
			return &remoteError{e.Detail, f}
		}
		return f
	}
	for _, c := range codes {
		if c.code == e.Code {
			return &remoteError{e.Detail, c.err}
		}
	}
	return &remoteError{"code " + e.Code + ": " + e.Detail, ipam.ErrUnavailable}
}

// remoteError has the server's text and an error of package ipam to be asked for.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }
