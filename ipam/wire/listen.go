// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/railyard-net/railyard/ipam"
)

// Listen listens at path for its owner alone (mode 0600), in a folder that it makes if need be. A socket that is there
// is replaced in one step, so there is no moment without one between two agents; only the holder of the lease store's
// lock may call it. Anything else that is there is left alone and an error. Closing the listener leaves the file: whoever dials it is refused, and takes that as
// nobody listening.
func Listen(path string) (net.Listener, error) {
	fail := func(err error) (net.Listener, error) {
		return nil, fmt.Errorf("%w: listen on %s: %w", ipam.ErrUnavailable, path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fail(err)
	}
	switch info, err := os.Lstat(path); {
	case err == nil && info.Mode().Type() != fs.ModeSocket:
		return fail(errors.New("a file is in the way that is no socket"))
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fail(err)
	}
	fresh := path + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fail(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fresh})
	if err != nil {
		return fail(err)
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(fresh, 0o600); err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(fresh)
		return fail(err)
	}
	return l, nil
}
