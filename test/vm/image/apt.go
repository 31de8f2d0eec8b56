// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	mirror  = "http://deb.debian.org/debian"
	keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
)

// packages are QEMU and the tools, each with the suite it is from. QEMU 7 of bookworm has no igb; iproute2 is newer than
// bookworm's for what it says about RDMA.
func packages() []string {
	return []string{
		"qemu-system-x86/bookworm-backports", "qemu-system-common/bookworm-backports", "qemu-system-data/bookworm-backports",
		"seabios/bookworm-backports", "iproute2/bookworm-backports",
		"busybox-static/bookworm", "dash/bookworm", "ethtool/bookworm", "iputils-ping/bookworm", "kmod/bookworm", "pciutils/bookworm",
		"ibverbs-providers/bookworm", "ibverbs-utils/bookworm", "perftest/bookworm", "rdmacm-utils/bookworm",
		"xz-utils/bookworm", // unpacks modules
	}
}

// kernels names the suite that has each kernel, and what it is a part of.
func kernels() map[Kernel]string {
	return map[Kernel]string{Linux612: "bookworm-backports", Linux73: "trixie-backports"}
}

// apt is an apt with lists, cache and an empty list of installed packages of its own: it resolves every dependency.
type apt struct{ dir string }

const aptConf = `Dir::State::Lists "%[1]s/lists";
Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "%[1]s/sources";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
APT::Sandbox::User "";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Default-Release "";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Get::Assume-Yes "true";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Update::Error-Mode "any";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
`

const aptSources = `Types: deb
URIs: %s
Suites: %s
Components: main
Architectures: amd64
Signed-By: %s
`

// newApt makes one that knows these suites only.
func newApt(ctx context.Context, dir string, suites ...string) (apt, error) {
	a := apt{dir: dir}
	for _, program := range []string{"apt-get", "apt-cache", "dpkg-deb", "tar"} {
		if _, err := exec.LookPath(program); err != nil {
			return a, fmt.Errorf("no %s: the image is made of Debian packages by apt; run this on Debian 12, or in a container of debian:12", program)
		}
	}
	if _, err := os.Stat(keyring); err != nil {
		return a, fmt.Errorf("no archive key of Debian: apt-get install debian-archive-keyring: %w", err)
	}
	for _, d := range []string{"lists/partial", "cache/archives/partial", "sources"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return a, err
		}
	}
	for name, text := range map[string]string{
		"status":                 "",
		"conf":                   fmt.Sprintf(aptConf, dir),
		"sources/debian.sources": fmt.Sprintf(aptSources, mirror, strings.Join(suites, " "), keyring),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return a, err
		}
	}
	_, err := a.run(ctx, dir, "apt-get", "update", "-q")
	return a, err
}

// run gives the command's stdout.
func (a apt) run(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(a.dir, "conf"), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stderr.String())
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, said, hint(said))
	}
	return stdout.String(), nil
}

// hint says what to do about a failure whose message does not.
func hint(said string) string {
	if strings.Contains(said, "NO_PUBKEY") {
		return "\nthe archive key is older than the suites: apt-get install debian-archive-keyring of Debian 12.11 or later"
	}
	return ""
}

// withDependencies fetches packages and all that they need, and gives their files.
func (a apt) withDependencies(ctx context.Context, names []string) ([]string, error) {
	if _, err := a.run(ctx, a.dir, append([]string{"apt-get", "install", "-q", "--download-only"}, names...)...); err != nil {
		return nil, err
	}
	return filepath.Glob(filepath.Join(a.dir, "cache/archives/*.deb"))
}

// kernel fetches the packages that hold a suite's kernel and its modules. Which they are has changed between kernels; they are among
// those that the metapackage depends on.
func (a apt) kernel(ctx context.Context, suite, dir string) ([]string, error) {
	return a.follow(ctx, "linux-image-amd64/"+suite, kernelPackage, dir)
}

// headers fetches the packages with which modules for a suite's kernel are built.
func (a apt) headers(ctx context.Context, suite, dir string) ([]string, error) {
	return a.follow(ctx, "linux-headers-amd64/"+suite, headerPackage, dir)
}

var (
	depends       = regexp.MustCompile(`(?m)^Depends: .*$`)
	kernelPackage = regexp.MustCompile(`(linux-(?:base|binary|image|modules)-[0-9]\S*) \(= ([^)]+)\)`)
	headerPackage = regexp.MustCompile(`(linux-(?:headers|kbuild)-[0-9][^\s,]*)(?: \(= ([^)]+)\))?`)
)

// follow fetches the packages of a pattern that a package depends on, to any depth, into dir.
func (a apt) follow(ctx context.Context, from string, pattern *regexp.Regexp, dir string) ([]string, error) {
	todo, seen := []string{from}, []string{}
	for len(todo) > 0 {
		show, err := a.run(ctx, a.dir, "apt-cache", "show", todo[0])
		if err != nil {
			return nil, err
		}
		todo = todo[1:]
		for _, p := range dependencies(show, pattern) {
			if !slices.Contains(seen, p) {
				seen, todo = append(seen, p), append(todo, p)
			}
		}
	}
	if len(seen) == 0 {
		return nil, fmt.Errorf("%s names no package with files", from)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if _, err := a.run(ctx, dir, append([]string{"apt-get", "download", "-q"}, seen...)...); err != nil {
		return nil, err
	}
	return filepath.Glob(filepath.Join(dir, "*.deb"))
}

// dependencies are those of the pattern, with their versions if it matters which.
func dependencies(show string, pattern *regexp.Regexp) []string {
	var out []string
	for _, m := range pattern.FindAllStringSubmatch(depends.FindString(show), -1) {
		name := m[1]
		if m[2] != "" {
			name += "=" + m[2]
		}
		out = append(out, name)
	}
	return out
}

// unpack unpacks packages into a folder without installing them.
func unpack(ctx context.Context, debs []string, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, deb := range debs {
		out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", deb, dir).CombinedOutput()
		if err != nil {
			return fmt.Errorf("unpack %s: %w\n%s", filepath.Base(deb), err, out)
		}
	}
	return nil
}
