// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	bboltErrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam"
)

// schema is the version of the file's layout. A file with a higher one is left alone.
const schema = 1

var (
	// ErrLocked: another process is the allocator. It wraps ipam.ErrUnavailable.
	ErrLocked = fmt.Errorf("%w: another process holds the lease store", ipam.ErrUnavailable)
	// ErrNoStore: Options.MustExist is set and there is no sound store of this boot. It wraps
	// ipam.ErrUnavailable.
	ErrNoStore = fmt.Errorf("%w: no lease store of this boot", ipam.ErrUnavailable)
)

// Options is the world that a store lives in.
type Options struct {
	// BootID tells one boot of the node from the next.
	BootID string
	// Now is the boot clock: it counts through suspend, never steps back, and is the same for every process.
	Now func() time.Duration
	// Wall is the time of day, for people.
	Wall func() time.Time
	// MustExist makes Open refuse with ErrNoStore what it would otherwise create or put aside.
	MustExist bool
	// Hit, if not nil, is called before ("update") and after ("updated") each transaction that may write, outside of all
	// locks, and before each try to lock the file ("open"); a test's may wait, or end the process.
	Hit func(point string)
}

// SystemOptions are those of the running machine.
func SystemOptions() (Options, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Options{}, fmt.Errorf("%w: read the boot id: %w", ipam.ErrUnavailable, err)
	}
	return Options{BootID: strings.TrimSpace(string(b)), Now: bootClock, Wall: time.Now}, nil
}

func bootClock() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail: the clock is there since Linux 2.6.39
	return time.Duration(ts.Nano())
}

// Open opens the store at path and makes this process the allocator until Close. While another process is, it
// waits, until ctx ends: then the error is ErrLocked. A store of another boot or a damaged one is put aside (as
// path.old or path.damaged) and a fresh one made, in a folder of mode 0700. One of a newer schema is left
// untouched and is ipam.ErrUnavailable.
func Open(ctx context.Context, path string, o Options) (*Store, error) {
	if o.BootID == "" || o.Now == nil || o.Wall == nil {
		return nil, &ipam.FieldError{Field: "options", Detail: "need BootID, Now and Wall: start from SystemOptions"}
	}
	if !o.MustExist {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("%w: %w", ipam.ErrUnavailable, err)
		}
	}
	for {
		lock, err := lockFile(ctx, path, o.MustExist, o.hit)
		if err != nil {
			return nil, err
		}
		s, err := load(lock, o)
		if err == nil {
			return s, nil
		}
		var aside *putAside
		switch {
		case !errors.As(err, &aside):
			err = fmt.Errorf("open the lease store %s: %w", path, err)
		case o.MustExist:
			err = fmt.Errorf("%w: %s is %s", ErrNoStore, path, aside.why)
		default: // still under the lock, so it is the file that was looked at
			if err = os.Rename(path, path+aside.suffix); err != nil {
				err = fmt.Errorf("%w: put aside the lease store: %w", ipam.ErrUnavailable, err)
			}
		}
		_ = lock.Close()
		if err != nil {
			return nil, err
		}
	}
}

// putAside says that a file is not to be used, and how to name it instead.
type putAside struct{ suffix, why string }

func (e *putAside) Error() string { return e.why }

// lockFile opens path and locks it until the file is closed. The lock is on the file, not on the name, so it counts
// only if the name still leads to the file afterwards. It is not bbolt's own, which ends as soon as bbolt finds
// something wrong: then two could look at one file, and the second put aside what the first has made meanwhile.
func lockFile(ctx context.Context, path string, mustExist bool, hit func(string)) (*os.File, error) {
	flags := os.O_RDWR
	if !mustExist {
		flags |= os.O_CREATE
	}
	wait := time.Millisecond
	for {
		hit("open")
		f, err := os.OpenFile(path, flags, 0o600)
		if errors.Is(err, fs.ErrNotExist) && mustExist {
			return nil, fmt.Errorf("%w at %s", ErrNoStore, path)
		} else if err != nil {
			return nil, fmt.Errorf("%w: %w", ipam.ErrUnavailable, err)
		}
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		if err == nil && sameFile(f, path) {
			return f, nil
		}
		_ = f.Close()
		if err == nil || errors.Is(err, unix.EINTR) {
			continue
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			return nil, fmt.Errorf("%w: lock %s: %w", ipam.ErrUnavailable, path, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrLocked, context.Cause(ctx))
		case <-time.After(wait):
			wait = min(2*wait, 16*time.Millisecond)
		}
	}
}

func sameFile(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(mine, named)
}

// load makes a Store of the locked file. On an error the lock is still held, and the caller's to close.
func load(lock *os.File, o Options) (*Store, error) {
	info, err := lock.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ipam.ErrUnavailable, err)
	}
	if info.Size() == 0 && o.MustExist {
		return nil, &putAside{why: "empty"}
	}
	s := &Store{lock: lock, options: o, dirty: map[string]bool{}}
	var opened *os.File
	err = guard(func() (err error) {
		s.db, err = bbolt.Open(lock.Name(), 0o600, &bbolt.Options{
			NoSync: true, NoGrowSync: true, NoStatistics: true, FreelistType: bbolt.FreelistMapType, InitialMmapSize: 1 << 24,
			Timeout: time.Nanosecond, // one try: nobody but a foreign program can have bbolt's lock
			OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
				if opened != nil { // bbolt copies the file
					return os.OpenFile(name, flag, mode)
				}
				opened, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", lock.Fd()), flag, mode) // the locked file, whatever its name is by now
				return opened, err
			},
		})
		return err
	})
	var errno unix.Errno
	switch {
	case err == nil:
	case errors.Is(err, bboltErrors.ErrTimeout):
		return nil, fmt.Errorf("%w: it is no program of Railyard's: end it", ErrLocked)
	case errors.As(err, &errno): // a full disk, no memory: that says nothing about the file
		return nil, err
	default:
		// Where bbolt panicked on a damaged file its mapping stays, and with it the open file and bbolt's lock.
		if opened != nil {
			_ = unix.Flock(int(opened.Fd()), unix.LOCK_UN) // fails if bbolt has closed it, and so unlocked it
			_ = opened.Close()
		}
		return nil, &putAside{".damaged", fmt.Sprintf("damaged: %v", err)}
	}
	if err := s.start(); err != nil {
		_ = guard(s.db.Close)
		return nil, err
	}
	return s, nil
}

// start checks what the file says about itself, or writes it if it is new.
func (s *Store) start() error {
	fresh := false
	err := s.view(func(t *tx) error {
		if t.meta == nil && t.empty() {
			fresh = true // a new file, or one whose maker died before it was one
			return nil
		}
		if t.meta == nil || !t.whole() {
			return &putAside{".damaged", "damaged: parts are missing"}
		}
		v, err := t.schema()
		switch {
		case err != nil:
			return &putAside{".damaged", "damaged: " + err.Error()}
		case v > schema:
			return fmt.Errorf("%w: its schema %d is newer than %d: upgrade railyard on this node", ipam.ErrUnavailable, v, schema)
		case v < schema:
			return &putAside{".damaged", fmt.Sprintf("damaged: there never was a schema %d", v)}
		case string(t.meta.Get(metaBoot)) != s.options.BootID:
			return &putAside{".old", "of another boot"}
		case s.options.MustExist:
			return nil // a CNI process; what it touches it will decode
		}
		if err := t.verify(); err != nil {
			return &putAside{".damaged", "damaged: " + err.Error()}
		}
		return nil
	})
	if err == nil && fresh {
		if s.options.MustExist {
			return &putAside{why: "empty"}
		}
		err = s.update((*tx).create)
	}
	if err != nil {
		return err
	}
	return s.view(func(t *tx) error {
		s.session = string(t.meta.Get(metaSession))
		if s.options.MustExist {
			return nil // nobody mirrors from there
		}
		return t.eachHolding(func(h holding) error { s.dirty[h.Block] = true; return nil })
	})
}

// create writes the buckets and the meta data of a new store.
func (t *tx) create() error {
	for _, name := range bucketNames {
		if _, err := t.bolt.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	t.bind()
	session, err := newSession()
	if err != nil {
		return err
	}
	for _, kv := range []struct{ k, v []byte }{
		{metaSchema, fmt.Append(nil, schema)},
		{metaBoot, []byte(t.s.options.BootID)},
		{metaSession, []byte(session)},
		{metaFresh, []byte("1")},
	} {
		if err := t.meta.Put(kv.k, kv.v); err != nil {
			return err
		}
	}
	return nil
}

// newSession is 128 random bits. The kernel is asked directly: crypto/rand costs the plugins a part of their start.
func newSession() (string, error) {
	var b [16]byte
	if _, err := unix.Getrandom(b[:], 0); err != nil {
		return "", fmt.Errorf("getrandom: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}
