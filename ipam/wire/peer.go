// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam"
)

// trusted refuses whoever is neither root nor the user that serves: the mode of the socket says the same, but the kernel's word on
// the other end does not depend on how the file came to be. What is no unix socket is let through; Listen makes no other.
func trusted(c net.Conn) error {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	if ctl := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); ctl != nil {
		return ctl
	}
	if err != nil {
		return fmt.Errorf("ask for the caller's credentials: %w", err)
	}
	if peer.Uid != 0 && peer.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("%w: user %d may not ask this agent: call as root, or as the user that it runs as", ipam.ErrInvalid, peer.Uid)
	}
	return nil
}
