// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const good = "#!/bin/sh\n[ \"$CNI_COMMAND\" = VERSION ] && echo '{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"1.0.0\",\"1.1.0\"]}'\n"

// folders are an image's folder with good plugins, and a node's.
func folders(t *testing.T) (from, to string) {
	t.Helper()
	from, to = t.TempDir(), t.TempDir()
	write(t, filepath.Join(from, "railyard"), good)
	write(t, filepath.Join(from, "railyard-ipam"), good+"# ipam\n")
	return from, to
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// contains fails the test unless the folder has just these files.
func contains(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if text, there := want[e.Name()]; !there || err != nil || string(data) != text {
			t.Errorf("%s is there: %q, %v", e.Name(), data, err)
		}
	}
	if len(entries) != len(want) {
		t.Errorf("%d files are there, want %d", len(entries), len(want))
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestInstall(t *testing.T) {
	t.Parallel()
	from, to := folders(t)
	write(t, filepath.Join(to, ".railyard123456"), "of one that was killed")
	install := func() error { return Install(t.Context(), quiet(), from, to) }
	if err := install(); err != nil {
		t.Fatal(err)
	}
	contains(t, to, map[string]string{"railyard": good, "railyard-ipam": good + "# ipam\n"})
	target := filepath.Join(to, "railyard")
	first, err := os.Stat(target)
	if err != nil || first.Mode().Perm() != 0o755 {
		t.Fatalf("installed: %v, %v", first, err)
	}
	if err := install(); err != nil {
		t.Fatal(err)
	}
	if second, err := os.Stat(target); err != nil || !os.SameFile(first, second) {
		t.Errorf("an equal plugin was replaced (%v)", err)
	}
	write(t, filepath.Join(from, "railyard"), good+"# new\n")
	if err := install(); err != nil {
		t.Fatal(err)
	}
	contains(t, to, map[string]string{"railyard": good + "# new\n", "railyard-ipam": good + "# ipam\n"})
}

// TestInstallBroken: what does not answer as a plugin does is not put in the place of one that did.
func TestInstallBroken(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"fails": "#!/bin/sh\nexit 1\n", "says nothing": "#!/bin/sh\n", "is no program": "\x7fELFjunk", "says something else": "#!/bin/sh\necho '{}'\n",
	} {
		from, to := folders(t)
		if err := Install(t.Context(), quiet(), from, to); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(from, "railyard"), text)
		if err := Install(t.Context(), quiet(), from, to); err == nil || !strings.Contains(err.Error(), "VERSION") {
			t.Errorf("%s: %v, want VERSION in it", name, err)
		}
		contains(t, to, map[string]string{"railyard": good, "railyard-ipam": good + "# ipam\n"})
	}
}

// TestInstallAs: the names of others are railyard-ipam's where that is asked for, whatever had them.
func TestInstallAs(t *testing.T) {
	t.Parallel()
	from, to := folders(t)
	write(t, filepath.Join(to, "whereabouts"), "#!/bin/sh\n")
	if err := Install(t.Context(), quiet(), from, to, "whereabouts"); err != nil {
		t.Fatal(err)
	}
	contains(t, to, map[string]string{"railyard": good, "railyard-ipam": good + "# ipam\n", "whereabouts": good + "# ipam\n"})
}

// TestLabel: a new plugin has the SELinux label of the one in whose place it comes.
func TestLabel(t *testing.T) {
	t.Parallel()
	from, to := folders(t)
	target := filepath.Join(to, "railyard")
	write(t, target, "the old one")
	want := []byte("system_u:object_r:bin_t:s0\x00")
	if err := unix.Lsetxattr(target, label, want, 0); err != nil {
		t.Skipf("this file system or user has no SELinux labels: %v", err)
	}
	if err := Install(t.Context(), quiet(), from, to); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 100)
	n, err := unix.Lgetxattr(target, label, got)
	if err != nil || !bytes.Equal(got[:n], want) {
		t.Errorf("the label is %q, %v; want %q", got[:max(n, 0)], err, want)
	}
	contains(t, to, map[string]string{"railyard": good, "railyard-ipam": good + "# ipam\n"})
}

// TestReadOnly: plugins that are part of a node's image are left as they are, and an error says what to do about others.
func TestReadOnly(t *testing.T) {
	from, to := folders(t)
	if err := Install(t.Context(), quiet(), from, to); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(to, to, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("no mounts here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(to, unix.MNT_DETACH) })
	if err := unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := Install(t.Context(), quiet(), from, to); err != nil {
		t.Errorf("with the same plugins there: %v", err)
	}
	write(t, filepath.Join(from, "railyard"), good+"# new\n")
	if err := Install(t.Context(), quiet(), from, to); !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), "node's image") {
		t.Errorf("with others: %v", err)
	}
}
