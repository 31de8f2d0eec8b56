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

// maxErrors bounds what is told at once: a config may have any number of keys, and a pod's event has room for little.
const maxErrors = 64

// bounded is errors.Join for a whole config: a flat list, of which the first maxErrors are kept and the rest is counted.
func bounded(errs ...error) error {
	list := flat(nil, errors.Join(errs...))
	if more := len(list) - maxErrors; more > 0 {
		list = append(list[:maxErrors:maxErrors], fieldErrorf("config", "has %d more errors: mend those above first", more))
	}
	return errors.Join(list...)
}

// flat appends err to the list, or what it joins.
func flat(list []error, err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	switch {
	case err == nil:
		return list
	case !ok:
		return append(list, err)
	}
	for _, e := range joined.Unwrap() {
		list = flat(list, e)
	}
	return list
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
