// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bufio"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam/wire"
	"github.com/railyard-net/railyard/test/thread"
)

// TestOthersAreRefused: whoever is not root is told so and nothing else, though the socket's mode would let everybody in.
func TestOthersAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	r := serve(t)
	for dir, mode := range map[string]os.FileMode{r.path: 0o666, filepath.Dir(r.path): 0o755, filepath.Dir(filepath.Dir(r.path)): 0o755} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	const nobody = 65534
	var answer []byte
	err := thread.Do(func() error {
		// Of this thread alone, which is not used again; the package's function would change all.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			return errno
		}
		c, err := net.Dial("unix", r.path)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = wire.Write(c, wire.Request{V: 1, Verb: wire.Release}) // it may have hung up already
		answer, err = wire.ReadLine(bufio.NewReader(c))
		return err
	})
	if err != nil || !strings.Contains(string(answer), "user 65534") || !strings.Contains(string(answer), `"code":"invalid"`) {
		t.Errorf("%s, %v", answer, err)
	}
	conn, in := dial(t, r.path)
	if err := wire.Write(conn, wire.Request{V: 1, Verb: wire.Release}); err != nil {
		t.Fatal(err)
	}
	if got, err := wire.ReadLine(in); err != nil || string(got) != `{"v":1}` {
		t.Errorf("root: %s, %v", got, err)
	}
}
