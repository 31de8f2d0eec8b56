// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// Archive writes a cpio archive as the kernel reads it from an initramfs ("newc", Documentation/driver-api/early-userspace/buffer-format.rst).
// All belongs to root and is of no time, so equal contents are equal bytes. Parent folders are written as they are needed. Archives may
// be strung together; of two files of one name the later counts.
type Archive struct {
	w    *bufio.Writer
	seen map[string]bool
	ino  int
	err  error // the first one; what follows it does nothing
}

// NewArchive begins an archive; Close ends it.
func NewArchive(w io.Writer) *Archive {
	return &Archive{w: bufio.NewWriter(w), seen: map[string]bool{}}
}

const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeLink = 0o120000
)

// Dir writes a folder.
func (a *Archive) Dir(name string) {
	if name = clean(name); name == "" || a.seen[name] {
		return
	}
	a.entry(name, modeDir|0o755, 0, nil)
}

// File writes a file.
func (a *Archive) File(name string, perm os.FileMode, data []byte) {
	a.entry(clean(name), modeFile|uint32(perm.Perm()), int64(len(data)), bytes.NewReader(data))
}

// Copy writes a file of the machine at hand.
func (a *Archive) Copy(name, from string) {
	f, err := os.Open(from)
	if err != nil {
		a.fail(err)
		return
	}
	defer f.Close()
	s, err := f.Stat()
	if err != nil {
		a.fail(err)
		return
	}
	a.entry(clean(name), modeFile|uint32(s.Mode().Perm()), s.Size(), f)
}

// Link writes a symbolic link.
func (a *Archive) Link(name, target string) {
	a.entry(clean(name), modeLink|0o777, int64(len(target)), strings.NewReader(target))
}

// Has says that there is an entry of that name.
func (a *Archive) Has(name string) bool { return a.seen[clean(name)] }

// Close ends the archive and gives the first error there was.
func (a *Archive) Close() error {
	a.entry("TRAILER!!!", 0, 0, nil)
	a.fail(a.w.Flush())
	return a.err
}

func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func (a *Archive) fail(err error) {
	if a.err == nil {
		a.err = err
	}
}

func (a *Archive) entry(name string, mode uint32, size int64, data io.Reader) {
	if dir := path.Dir(name); dir != "." {
		a.Dir(dir)
	}
	if a.err != nil {
		return
	}
	a.seen[name] = true
	a.ino++
	// magic, inode, mode, uid, gid, links, mtime, size, device of the file, device it is, length of the name, checksum
	n, err := fmt.Fprintf(a.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.ino, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	a.fail(err)
	a.pad(int64(n))
	if data == nil {
		return
	}
	wrote, err := io.Copy(a.w, data)
	if err == nil && wrote != size {
		err = fmt.Errorf("%s has %d bytes, not %d", name, wrote, size)
	}
	a.fail(err)
	a.pad(size)
}

// pad fills up to a multiple of four bytes.
func (a *Archive) pad(n int64) {
	_, err := a.w.Write(make([]byte, -n&3))
	a.fail(err)
}
