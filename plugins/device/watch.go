// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// dirWatch sees sockets and config files come and go.
type dirWatch struct {
	log     *slog.Logger
	w       *fsnotify.Watcher
	plugins string
}

func newDirWatch(log *slog.Logger, plugins string, configs []string) (*dirWatch, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch folders: %w", err)
	}
	if err := os.MkdirAll(plugins, 0o750); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	for _, dir := range append([]string{plugins}, configs...) {
		if err := w.Add(dir); err != nil {
			return nil, errors.Join(fmt.Errorf("watch folder %s: %w", dir, err), w.Close())
		}
	}
	return &dirWatch{log, w, filepath.Clean(plugins)}, nil
}

// run calls moved when sockets came or went, and changed when files of configs did. Events that were lost count as both.
func (d *dirWatch) run(ctx context.Context, moved, changed func()) error {
	defer d.w.Close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err, ok := <-d.w.Errors:
			if !ok {
				return errors.New("the watch on folders has ended")
			}
			d.log.WarnContext(ctx, "events of folders were lost", "err", err)
			moved()
			changed()
		case ev, ok := <-d.w.Events:
			switch {
			case !ok:
				return errors.New("the watch on folders has ended")
			case filepath.Dir(ev.Name) != d.plugins:
				changed()
			case ev.Has(fsnotify.Create) || ev.Has(fsnotify.Remove) || ev.Has(fsnotify.Rename):
				moved()
			}
		}
	}
}

// HardwareEvents calls changed when the kernel says that something of the subsystems that matter came, went or changed, until ctx ends. It is
// heard in the host's network namespace alone.
func HardwareEvents(ctx context.Context, changed func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return fmt.Errorf("open a socket for the kernel's events: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return fmt.Errorf("listen to the kernel's events: %w", err)
	}
	// Now and then it looks whether it is to end.
	tv := unix.NsecToTimeval(int64(500 * time.Millisecond))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return fmt.Errorf("listen to the kernel's events: %w", err)
	}
	buf := make([]byte, 16<<10)
	for ctx.Err() == nil {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOBUFS):
			changed() // some were lost
		case err != nil:
			return fmt.Errorf("listen to the kernel's events: %w", err)
		case matters(buf[:n]):
			changed()
		}
	}
	return nil
}

// matters reads an event: action@path, and then KEY=value, each with a zero behind it (lib/kobject_uevent.c).
func matters(event []byte) bool {
	for field := range bytes.SplitSeq(event, []byte{0}) {
		if subsystem, ok := bytes.CutPrefix(field, []byte("SUBSYSTEM=")); ok {
			switch string(subsystem) {
			case "pci", "net", "infiniband", "infiniband_verbs", "infiniband_mad", "auxiliary", "module", "drivers":
				return true
			}
		}
	}
	return false
}
