// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"errors"
	"fmt"
)

// ErrInvalid is what every error of this package is: the resource is wrong by itself, and repeating cannot help.
var ErrInvalid = errors.New("invalid")

// FieldError is an ErrInvalid that names the field and the fix.
type FieldError struct {
	// Field is the path in the resource as its user writes it, e.g. spec.metaPlugins[1].type.
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
