// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	suffix   = ".json"
	temp     = ".tmp"
	bad      = ".bad"
	lockName = ".lock"
	// longID is the longest container ID that stands for itself in a file name; runtimes' have 64 digits.
	longID = 128
	// allByte of the lock file is shared by all who hold an attachment's lock; those are at 0 to 1<<62-1.
	allByte = 1 << 62
)

// ErrLocked: another process works on the attachment.
var ErrLocked = errors.New("attachment is locked")

// Dir is the folder of the journals.
type Dir struct {
	path string
	// hit is told of the instants within a write in which a process may die.
	hit func(point string)
}

// Open makes the folder attachments in stateDir if it is missing. The function hit, if not nil, is called between
// the parts of a write; tests die there.
func Open(stateDir string, hit func(point string)) (*Dir, error) {
	path := filepath.Join(stateDir, "attachments")
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of journals: %w", err)
	}
	if hit == nil {
		hit = func(string) {}
	}
	return &Dir{path: path, hit: hit}, nil
}

// Lock is one attachment's. It ends with Unlock or with the process.
type Lock struct{ f *os.File }

// Lock waits for the attachment's lock until ctx ends; then the error is ErrLocked.
func (d *Dir) Lock(ctx context.Context, id ID) (*Lock, error) {
	// One byte of one file for each attachment: no lock files are left behind, and nobody waits for a stranger.
	sum := id.Sum()
	one := unix.Flock_t{Type: unix.F_WRLCK, Start: int64(binary.BigEndian.Uint64(sum[:]) >> 2), Len: 1}
	return d.lock(ctx, id.String(), unix.Flock_t{Type: unix.F_RDLCK, Start: allByte, Len: 1}, one)
}

// LockAll waits until nobody holds the lock of any attachment, and keeps everybody from taking one. The caller must
// hold none itself.
func (d *Dir) LockAll(ctx context.Context) (*Lock, error) {
	return d.lock(ctx, "all attachments", unix.Flock_t{Type: unix.F_WRLCK, Start: allByte, Len: 1})
}

func (d *Dir) lock(ctx context.Context, what string, parts ...unix.Flock_t) (*Lock, error) {
	f, err := os.OpenFile(filepath.Join(d.path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of %s: %w", what, err)
	}
	for i := range parts {
		if err := waitLock(ctx, f, &parts[i]); err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", what, err), f.Close())
		}
	}
	return &Lock{f}, nil
}

func waitLock(ctx context.Context, f *os.File, part *unix.Flock_t) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, part)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return ErrLocked
		case <-time.After(wait):
		}
	}
}

// Unlock ends the lock.
func (l *Lock) Unlock() { _ = l.f.Close() }

// Read gives the attachment's journal. None is fs.ErrNotExist. The lock must be held.
func (d *Dir) Read(id ID) (Journal, error) {
	b, err := os.ReadFile(d.file(id))
	if err != nil {
		return Journal{}, err
	}
	return Decode(b, id)
}

// Write replaces the attachment's journal. The lock must be held.
func (d *Dir) Write(j Journal) error {
	b, err := Encode(j)
	if err != nil {
		return err
	}
	name := d.file(j.ID())
	if err := writeFile(name+temp, b); err != nil {
		return fmt.Errorf("write the journal of %s: %w", j.ID(), err)
	}
	d.hit("journal:temp")
	if err := os.Rename(name+temp, name); err != nil {
		return fmt.Errorf("write the journal of %s: %w", j.ID(), err)
	}
	d.hit("journal:renamed")
	return nil
}

// Remove ends the attachment's journal and whatever a dead writer left of it. None is fine. The lock must be held.
func (d *Dir) Remove(id ID) error {
	for _, name := range []string{d.file(id), d.file(id) + temp} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the journal of %s: %w", id, err)
		}
	}
	return nil
}

// SetAside keeps a damaged journal for people to look at, out of the way. The lock must be held.
func (d *Dir) SetAside(id ID) error {
	if err := os.Rename(d.file(id), d.file(id)+bad); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("set the journal of %s aside: %w", id, err)
	}
	return nil
}

// List gives all journals that can be read, without their locks: look again under the lock before acting on one. The
// error joins those of the journals that cannot be read.
func (d *Dir) List() ([]Journal, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, fmt.Errorf("list the journals: %w", err)
	}
	var out []Journal
	var errs []error
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(d.path, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		j, bad := peek(b, err)
		if bad != nil {
			errs = append(errs, fmt.Errorf("%s: %w", e.Name(), bad))
			continue
		}
		out = append(out, j)
	}
	return out, errors.Join(errs...)
}

// file is the attachment's. A container ID has no @ in it, an interface name no slash, so no two share a name.
func (d *Dir) file(id ID) string {
	container := id.ContainerID
	if len(container) > longID {
		sum := ID{ContainerID: container}.Sum()
		container = "long-" + hex.EncodeToString(sum[:])
	}
	return filepath.Join(d.path, container+"@"+id.IfName+suffix)
}

func peek(b []byte, err error) (Journal, error) {
	if err != nil {
		return Journal{}, err
	}
	var id ID // its fields have the names that the journal's have in JSON, letter case aside
	if err := json.Unmarshal(b, &id); err != nil {
		return Journal{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return Decode(b, id)
}

// writeFile does not sync: a journal outlives every process, and need not outlive the boot.
func writeFile(name string, b []byte) error { return os.WriteFile(name, b, 0o600) }
