// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"encoding/binary"
	"fmt"
)

// GUID is a 64-bit identifier in the order in which it is written: 506b:4b03:00a1:b2c3 is 0x506b4b0300a1b2c3.
type GUID uint64

// ParseGUID reads four groups of four hexadecimal digits, as sysfs writes them (node_guid_show in
// drivers/infiniband/core/sysfs.c).
func ParseGUID(s string) (GUID, error) {
	var b [8]byte
	if !parseGroups(s, b[:]) {
		return 0, fmt.Errorf("%.64q is no GUID like 506b:4b03:00a1:b2c3", s)
	}
	return GUID(binary.BigEndian.Uint64(b[:])), nil
}

func (g GUID) String() string {
	b, _ := g.AppendText(nil) // has no error
	return string(b)
}

// AppendText implements encoding.TextAppender.
func (g GUID) AppendText(b []byte) ([]byte, error) {
	for i := range 16 {
		if i > 0 && i%4 == 0 {
			b = append(b, ':')
		}
		b = append(b, "0123456789abcdef"[g>>(60-4*i)&0xf])
	}
	return b, nil
}

// MarshalText implements encoding.TextMarshaler, so that JSON holds what sysfs shows.
func (g GUID) MarshalText() ([]byte, error) { return g.AppendText(nil) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (g *GUID) UnmarshalText(text []byte) error {
	parsed, err := ParseGUID(string(text))
	if err != nil {
		return err
	}
	*g = parsed
	return nil
}

// parseGroups reads groups of four hexadecimal digits between colons, all of them and nothing else, into b.
func parseGroups(s string, b []byte) bool {
	if len(s) != len(b)*5/2-1 {
		return false
	}
	for i := range b {
		at := i*2 + i/2
		if i%2 == 0 && i > 0 && s[at-1] != ':' {
			return false
		}
		high, low := hexDigit(s[at]), hexDigit(s[at+1])
		if high < 0 || low < 0 {
			return false
		}
		b[i] = byte(high<<4 | low)
	}
	return true
}

// hexDigit is -1 for what is none.
func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
