// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
)

// The ways in which a lease can be refused. Every error of this library wraps exactly one of them, in process and
// over the socket alike, so errors.Is is the same on both sides.
var (
	// ErrInvalid: the request or the pool is wrong by itself; repeating it cannot help.
	ErrInvalid = errors.New("invalid")
	// ErrPoolUnknown: no pool of that name has reached this node.
	ErrPoolUnknown = errors.New("pool unknown")
	// ErrPoolClosed: the pool exists but gives nothing new: not accepted, being deleted, or not for this node or the pod's namespace.
	ErrPoolClosed = errors.New("pool closed")
	// ErrPoolFull: no address is free in the pool for this node.
	ErrPoolFull = errors.New("pool full")
	// ErrTaken: the address asked for by name is held by another attachment or owned by another node.
	ErrTaken = errors.New("address taken")
	// ErrNotFound: no lease under that key.
	ErrNotFound = errors.New("lease not found")
	// ErrUnavailable: the agent, its store or the API server cannot answer now; try again later.
	ErrUnavailable = errors.New("unavailable")
)

// FieldError is an ErrInvalid that names the field and the fix.
type FieldError struct {
	// Field is the path in the object as its user writes it, e.g. spec.ipv4.subnet.
	Field string
	// Detail says what is wrong with the value and what to write instead.
	Detail string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Detail }

// Is makes every FieldError an ErrInvalid.
func (e *FieldError) Is(target error) bool { return target == ErrInvalid }

func fieldErrorf(field, format string, args ...any) error {
	return &FieldError{Field: field, Detail: fmt.Sprintf(format, args...)}
}
