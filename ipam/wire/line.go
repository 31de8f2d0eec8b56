// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/railyard-net/railyard/ipam"
)

// ReadLine reads one line without its end. io.EOF is the end of a connection between two lines, and
// io.ErrUnexpectedEOF inside of one; a line of more than MaxLine bytes is an ipam.ErrInvalid.
func ReadLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > MaxLine:
			return nil, &ipam.FieldError{Field: "line", Detail: fmt.Sprintf("is longer than %d bytes", MaxLine)}
		case err == nil:
			return bytes.TrimRight(line, "\r\n"), nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(line) > 0:
			return nil, io.ErrUnexpectedEOF
		default:
			return nil, err
		}
	}
}

// ParseRequest reads a line from a client. The error is an ipam.FieldError.
func ParseRequest(line []byte) (Request, error) {
	var r Request
	if err := json.Unmarshal(line, &r); err != nil {
		var t *json.UnmarshalTypeError
		if errors.As(err, &t) {
			return Request{}, &ipam.FieldError{Field: t.Field, Detail: fmt.Sprintf("is a JSON %s where a %s belongs", t.Value, t.Type)}
		}
		return Request{}, &ipam.FieldError{Field: "line", Detail: fmt.Sprintf("is not a request: %v", err)}
	}
	return r, nil
}

// ParseReply reads a line from a server. What is no reply is an ipam.ErrUnavailable.
func ParseReply(line []byte) (Reply, error) {
	var r Reply
	err := json.Unmarshal(line, &r)
	if err == nil && r.V != Version {
		err = fmt.Errorf("version %d, not %d", r.V, Version)
	}
	if err != nil {
		return Reply{}, fmt.Errorf("%w: the agent's reply is none: %w", ipam.ErrUnavailable, err)
	}
	return r, nil
}

// Write writes v, a Request or a Reply, as one line in one call of w.
func Write(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}
