// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// versionTimeout bounds one run of a plugin's VERSION, which takes milliseconds.
const versionTimeout = 10 * time.Second

// label is where SELinux keeps a file's.
const label = "security.selinux"

// Plugins are the programs that Install takes from its source.
func Plugins() []string { return []string{"railyard", "railyard-ipam"} }

// Install puts the plugins of the folder from into the folder to, and railyard-ipam once more under each name of as, whatever had
// that name. It may be repeated, and after an error too: each plugin is then the old one or the new one.
func Install(ctx context.Context, log *slog.Logger, from, to string, as ...string) error {
	type file struct{ source, name string }
	var files []file
	for _, name := range Plugins() {
		files = append(files, file{name, name})
	}
	for _, name := range as {
		files = append(files, file{"railyard-ipam", name})
	}
	for _, f := range files {
		if err := installOne(ctx, log, filepath.Join(from, f.source), filepath.Join(to, f.name)); err != nil {
			return fmt.Errorf("install %s into %s: %w", f.name, to, explain(err))
		}
	}
	return nil
}

// explain says what to do about errors that the node's file system gives.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: the folder cannot be written; if the runtime takes plugins from another one too, name that one, or put the plugins into the node's image", err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: make room on the node's disk; what was there is as it was", err)
	default:
		return err
	}
}

func installOne(ctx context.Context, log *slog.Logger, source, target string) error {
	data, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	if err := removeLeftovers(target); err != nil {
		return err
	}
	want := sha256.Sum256(data)
	if same(target, want) {
		log.InfoContext(ctx, "CNI plugin is up to date", "path", target, "sha256", short(want))
		return nil
	}
	fresh, err := writeBeside(target, data)
	if err != nil {
		return err
	}
	if err := copyLabel(target, fresh); err != nil { // the folder's may do
		log.WarnContext(ctx, "the SELinux label of the old CNI plugin cannot be kept", "path", target, "error", err)
	}
	version, err := cniVersion(ctx, fresh)
	if err == nil {
		err = os.Rename(fresh, target)
	}
	if err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	if err := syncDir(filepath.Dir(target)); err != nil {
		return err
	}
	if !same(target, want) {
		return fmt.Errorf("%s is not what was written to it: does something else install it too?", target)
	}
	log.InfoContext(ctx, "CNI plugin installed", "path", target, "sha256", short(want), "cniVersions", version)
	return nil
}

func short(sum [sha256.Size]byte) string { return fmt.Sprintf("%x", sum[:6]) }

// writeBeside writes an executable into target's folder, on the disk when it returns: on the same file system and with the label that
// the folder gives.
func writeBeside(target string, data []byte) (path string, err error) {
	// A child that is forked while the file is open for writing has it open too until its exec, and nobody may execute it as long.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := os.CreateTemp(filepath.Dir(target), "."+filepath.Base(target)+"*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o755)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// copyLabel gives one file the SELinux label of another one, if that is there and has one.
func copyLabel(from, to string) error {
	buf := make([]byte, 4096)
	n, err := unix.Lgetxattr(from, label, buf)
	if err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
			return nil
		}
		return err
	}
	has := make([]byte, 4096)
	if m, err := unix.Lgetxattr(to, label, has); err == nil && bytes.Equal(has[:m], buf[:n]) {
		return nil
	}
	return unix.Lsetxattr(to, label, buf[:n], 0)
}

// same says whether path is an executable with that content.
func same(path string, sum [sha256.Size]byte) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o755 {
		return false
	}
	data, err := os.ReadFile(path)
	return err == nil && sha256.Sum256(data) == sum
}

// cniVersion asks the plugin at path for the versions of the specification that it speaks.
func cniVersion(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = []string{"CNI_COMMAND=VERSION"}
	cmd.Stdin = strings.NewReader(`{"cniVersion":"1.1.0"}`)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s does not answer VERSION: %w: %s", path, err, bytes.TrimSpace(stderr.Bytes()))
	}
	var reply struct{ SupportedVersions []string }
	if err := json.Unmarshal(stdout.Bytes(), &reply); err != nil || len(reply.SupportedVersions) == 0 {
		return "", fmt.Errorf("%s answers VERSION with %.200q, which is no CNI plugin's answer", path, stdout.String())
	}
	slices.Sort(reply.SupportedVersions)
	return strings.Join(reply.SupportedVersions, " "), nil
}

// removeLeftovers removes what an installer that was killed left beside target.
func removeLeftovers(target string) error {
	dir, base := filepath.Split(target)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	leftover := regexp.MustCompile(`^\.` + regexp.QuoteMeta(base) + `[0-9]+$`)
	for _, e := range entries {
		if leftover.MatchString(e.Name()) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
