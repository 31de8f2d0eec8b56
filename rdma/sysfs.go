// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"syscall"
)

// attributeSize is the most that an attribute holds: a page. Ours are lines.
const attributeSize = 4096

// attribute reads a file of sysfs without the white space around it. One read gets all of it.
func attribute(sys fs.FS, name string) (string, error) {
	f, err := sys.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var buf [attributeSize]byte
	n, err := f.Read(buf[:])
	if err != nil && !errors.Is(err, io.EOF) {
		var at *fs.PathError
		if errors.As(err, &at) {
			err = at.Err
		}
		return "", &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return strings.TrimSpace(string(buf[:n])), nil
}

// number reads an attribute that is a decimal number.
func number(sys fs.FS, name string) (int, error) {
	s, err := attribute(sys, name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, damaged(name, s, "a number")
	}
	return n, nil
}

func damaged(name, got, want string) error {
	return fmt.Errorf("%s holds %.64q, not %s", name, got, want)
}

// list returns the names in a directory, sorted.
func list(sys fs.FS, dir string) ([]string, error) {
	entries, err := fs.ReadDir(sys, dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// absent says that an attribute is not there or has no value: the kernel answers EINVAL for those of an empty GID
// (_show_port_gid_attr in drivers/infiniband/core/sysfs.c) and of a GID without an interface (print_ndev), and ENODEV in a
// character device whose device is going (ibdev_show in uverbs_main.c and user_mad.c).
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENODEV)
}

// deviceDir is where sysfs shows a device by name. It is an error for what can be no name.
func deviceDir(device string) (string, error) {
	if device == "." || strings.Contains(device, "/") || !fs.ValidPath(device) {
		return "", fmt.Errorf("%.64q is no name of an RDMA device", device)
	}
	return path.Join("class/infiniband", device), nil
}
