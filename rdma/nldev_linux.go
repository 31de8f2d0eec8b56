// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// socket is the kernel's nldev. The messages are written here, because RdmaLinkList of package netlink gives the GUID's bytes
// in reverse, and a correction there must not change the IDs that journals keep.
type socket struct {
	nl map[int]*nl.SocketHandle
	// ns is the namespace that the socket was opened in.
	ns int
}

func openSocket() (*socket, error) {
	runtime.LockOSThread() // both files from one namespace
	defer runtime.UnlockOSThread()
	s, err := nl.Subscribe(unix.NETLINK_RDMA)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, fmt.Errorf("%w: %w", ErrNoRDMA, err)
	}
	if err != nil {
		return nil, err
	}
	_ = s.SetExtAck(true) // for better messages only
	ns, err := threadNS()
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return &socket{nl: map[int]*nl.SocketHandle{unix.NETLINK_RDMA: {Socket: s}}, ns: ns}, nil
}

func (s *socket) close() error {
	return errors.Join(s.nl[unix.NETLINK_RDMA].Socket.Close(), unix.Close(s.ns))
}

func (s *socket) request(op, flags int, attrs ...nl.NetlinkRequestData) ([][]byte, error) {
	req := nl.NewNetlinkRequest(nl.RDMA_NL_NLDEV<<nl.RDMA_NL_GET_CLIENT_SHIFT|op, flags)
	req.Sockets = s.nl
	req.RetryInterrupted = true
	req.Data = attrs
	return req.Execute(unix.NETLINK_RDMA, 0)
}

func (s *socket) mode() (Mode, error) {
	msgs, err := s.request(nl.RDMA_NLDEV_CMD_SYS_GET, 0)
	if err != nil {
		return 0, err
	}
	for _, m := range msgs {
		if mode, err := parseMode(m); err != nil || mode != 0 {
			return mode, err
		}
	}
	return 0, errors.New("the kernel's answer does not say")
}

// parseMode reads ib_devices_shared_netns (nldev_sys_get_doit). It is 0 if that is not there.
func parseMode(msg []byte) (Mode, error) {
	attrs, err := attributes(msg)
	if err != nil {
		return 0, err
	}
	for _, a := range attrs {
		if a.Attr.Type&nl.NLA_TYPE_MASK != nl.RDMA_NLDEV_SYS_ATTR_NETNS_MODE || len(a.Value) < 1 {
			continue
		}
		switch a.Value[0] {
		case 0:
			return Exclusive, nil
		case 1:
			return Shared, nil
		}
		return 0, fmt.Errorf("the kernel answers with the unknown mode %d", a.Value[0])
	}
	return 0, nil
}

// attributes reads those of a message. The kernel pads each of them, and ParseRouteAttr panics where the last is not.
func attributes(msg []byte) ([]syscall.NetlinkRouteAttr, error) {
	if len(msg)%unix.RTA_ALIGNTO != 0 {
		return nil, fmt.Errorf("the kernel's answer is cut: %.256x", msg)
	}
	return nl.ParseRouteAttr(msg)
}

func (s *socket) list() ([]Ref, error) {
	msgs, err := s.request(nl.RDMA_NLDEV_CMD_GET, unix.NLM_F_DUMP)
	if err != nil {
		return nil, err
	}
	refs := make([]Ref, 0, len(msgs))
	for _, m := range msgs {
		r, err := parseRef(m)
		if err != nil {
			return nil, err
		}
		refs = append(refs, r)
	}
	slices.SortFunc(refs, func(a, b Ref) int { return cmp.Compare(a.ID.Index, b.ID.Index) })
	return refs, nil
}

// parseRef reads what fill_nldev_handle and fill_dev_info write. The GUID is a number there, not eight bytes in network order.
func parseRef(msg []byte) (Ref, error) {
	attrs, err := attributes(msg)
	if err != nil {
		return Ref{}, err
	}
	var r Ref
	var index, name, guid bool
	for _, a := range attrs {
		switch v := a.Value; a.Attr.Type & nl.NLA_TYPE_MASK {
		case nl.RDMA_NLDEV_ATTR_DEV_INDEX:
			if index = len(v) == 4; index {
				r.ID.Index = binary.NativeEndian.Uint32(v)
			}
		case nl.RDMA_NLDEV_ATTR_DEV_NAME:
			v, _, _ = bytes.Cut(v, []byte{0})
			r.Name, name = string(v), len(v) > 0
		case nl.RDMA_NLDEV_ATTR_NODE_GUID:
			if guid = len(v) == 8; guid {
				r.ID.NodeGUID = GUID(binary.NativeEndian.Uint64(v))
			}
		}
	}
	if !index || !name || !guid {
		return Ref{}, fmt.Errorf("the kernel's answer has no index, name or node GUID of a device: %.256x", msg)
	}
	return r, nil
}

// setNetNS sends from a thread in the namespace of the device: the kernel compares that of the sender, not that of the socket
// (rdma_dev_change_netns is given current->nsproxy->net_ns), and answers ENODEV from elsewhere.
func (s *socket) setNetNS(index uint32, target int) error {
	if kind, err := unix.IoctlRetInt(target, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return errors.New("the target is no network namespace")
	}
	// Not every kernel leaves the device alone then: it was reset, with whoever had it open.
	if same, err := sameFile(s.ns, target); err != nil || same {
		return err
	}
	return inNS(s.ns, func() error {
		_, err := s.request(nl.RDMA_NLDEV_CMD_SET, unix.NLM_F_ACK,
			nl.NewRtAttr(nl.RDMA_NLDEV_ATTR_DEV_INDEX, nl.Uint32Attr(index)),
			nl.NewRtAttr(nl.RDMA_NLDEV_NET_NS_FD, nl.Uint32Attr(uint32(target))))
		return err
	})
}

// inNS calls f on a thread in the namespace.
func inNS(ns int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := threadNS()
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer unix.Close(home)
		if err = unix.Setns(ns, unix.CLONE_NEWNET); err == nil {
			err = f()
		}
		// A thread that can't go back ends with this goroutine, because it stays locked.
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// threadNS opens the network namespace of the calling thread.
func threadNS() (int, error) {
	const file = "/proc/thread-self/ns/net"
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", file, err)
	}
	return fd, nil
}

func sameFile(a, b int) (bool, error) {
	var x, y unix.Stat_t
	if err := errors.Join(unix.Fstat(a, &x), unix.Fstat(b, &y)); err != nil {
		return false, err
	}
	return x.Dev == y.Dev && x.Ino == y.Ino, nil
}
