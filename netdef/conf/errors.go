// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"encoding/json"
	"errors"
	"fmt"
)

// ErrSyntax: the config is no JSON object at all.
var ErrSyntax = errors.New("not a JSON object")

// FieldError names the field of the config that is wrong, and the fix.
type FieldError struct {
	// Field is the path of keys as the user writes it, e.g. ipam.pool or runtimeConfig.ips[0].
	Field string
	// Detail says what is wrong with the value and what to write instead.
	Detail string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Detail }

func fieldErrorf(field, format string, args ...any) error {
	return &FieldError{Field: field, Detail: fmt.Sprintf(format, args...)}
}

// decode is json.Unmarshal with errors of this package. The prefix is the path of data in the config.
func decode(data []byte, prefix string, into any) error {
	err := json.Unmarshal(data, into)
	var wrong *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &wrong):
		return fmt.Errorf("%w: %w", ErrSyntax, err)
	case wrong.Field == "" && prefix == "":
		return fmt.Errorf("%w: it is a %s", ErrSyntax, wrong.Value)
	}
	field := prefix
	if wrong.Field != "" {
		if field != "" {
			field += "."
		}
		field += wrong.Field
	}
	return fieldErrorf(field, "is a %s: write %s", wrong.Value, jsonKind(wrong.Type.Kind().String()))
}

// jsonKind says in JSON's words what a Go kind is written as.
func jsonKind(kind string) string {
	switch kind {
	case "struct", "map":
		return "an object"
	case "slice", "array":
		return "a list"
	case "string":
		return "a string"
	case "bool":
		return "true or false"
	case "uint32":
		return "a whole number from 0 to 4294967295"
	default:
		return "a whole number"
	}
}
