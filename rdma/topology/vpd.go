// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"path"
)

// readCard reads what the functions of one ConnectX have in common.
func readCard(sys fs.FS, f Function) (string, error) {
	file := path.Join(devices, string(f.Addr), "vpd")
	v, err := sys.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer v.Close()
	data, err := io.ReadAll(io.LimitReader(v, 1<<15)) // all that its 15 bits of address reach
	if err != nil {
		return "", readError(file, err)
	}
	return vpdKeyword(data, "V3"), nil
}

// The tags of resources (PCI 2.2 appendix I).
const (
	vpdLarge    = 0x80 // a length of two bytes follows
	vpdReadOnly = 0x90
	vpdEnd      = 0x78
)

// vpdKeyword returns a keyword's value from the read-only part of vital product data; it is empty if the data has none.
func vpdKeyword(data []byte, keyword string) string {
	for len(data) > 0 && data[0] != vpdEnd {
		tag, head, size := data[0], 1, int(data[0]&0x07)
		if tag&vpdLarge != 0 {
			if len(data) < 3 {
				return ""
			}
			head, size = 3, int(binary.LittleEndian.Uint16(data[1:3]))
		}
		if size > len(data)-head {
			return ""
		}
		if tag == vpdReadOnly {
			return field(data[head:head+size], keyword)
		}
		data = data[head+size:]
	}
	return ""
}

// field finds a keyword among fields of two letters, a length and a value.
func field(data []byte, keyword string) string {
	for len(data) >= 3 {
		size := int(data[2])
		if size > len(data)-3 {
			return ""
		}
		if string(data[:2]) == keyword {
			return string(data[3 : 3+size])
		}
		data = data[3+size:]
	}
	return ""
}
