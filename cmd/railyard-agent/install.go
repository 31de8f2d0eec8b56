// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/google/renameio/v2"
)

// versionTimeout bounds one run of a plugin's VERSION, which takes milliseconds.
const versionTimeout = 10 * time.Second

// installBinaries puts the CNI plugins from one folder into another. A plugin that is there already, byte by byte,
// is left alone. Another one is replaced in one step, so that a runtime which executes it meanwhile gets the old one
// or the new one; and only after the new one has answered VERSION, so that a broken image does not break the node.
// As are more names for railyard-ipam, in the place of the plugins that are called so.
func installBinaries(ctx context.Context, log *slog.Logger, from, to string, as ...string) error {
	type file struct{ source, name string }
	files := []file{{"railyard", "railyard"}, {"railyard-ipam", "railyard-ipam"}}
	for _, name := range as {
		files = append(files, file{"railyard-ipam", name})
	}
	for _, f := range files {
		if err := installBinary(ctx, log, filepath.Join(from, f.source), filepath.Join(to, f.name)); err != nil {
			return fmt.Errorf("install %s into %s: %w", f.name, to, err)
		}
	}
	return syncDir(to)
}

func installBinary(ctx context.Context, log *slog.Logger, source, target string) error {
	data, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	if err := removeLeftovers(target); err != nil {
		return err
	}
	want := sha256.Sum256(data)
	if same(target, want) {
		log.DebugContext(ctx, "CNI binary is up to date", "path", target)
		return nil
	}
	version, err := cniVersion(ctx, source)
	if err != nil {
		return err
	}
	// The temporary file must be in the folder itself: same filesystem, same SELinux label.
	err = renameio.WriteFile(target, data, 0o755, renameio.WithTempDir(filepath.Dir(target)), renameio.WithStaticPermissions(0o755))
	if err != nil {
		return err
	}
	if !same(target, want) {
		return fmt.Errorf("%s is not what was written to it: does something else install it too?", target)
	}
	log.InfoContext(ctx, "CNI binary installed", "path", target, "sha256", fmt.Sprintf("%x", want[:6]), "cniVersions", version)
	return nil
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
		return "", fmt.Errorf("%s answers VERSION with %q, which is no CNI plugin's answer", path, stdout.String())
	}
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
	defer func() { _ = d.Close() }() // nothing was written through it
	return d.Sync()
}
