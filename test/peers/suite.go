// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/test/thread"
)

// module has the suites.
const module = "github.com/containernetworking/plugins"

// Suite is one plugin's test suite.
type Suite struct {
	// Name is the plugin's, as expected.txt calls it.
	Name string
	// Theirs is the folder of the suite in its module, Ours that of what stands beside it, in this package's suite folder.
	Theirs, Ours string
}

// Suites are all of them.
func Suites() []Suite {
	return []Suite{
		{Name: "macvlan", Theirs: "plugins/main/macvlan", Ours: "macvlan"},
		{Name: "host-device", Theirs: "plugins/main/host-device", Ours: "hostdevice"},
	}
}

// Bench is where suites are compiled and run. Its methods may be called for several suites at once.
type Bench struct {
	// Suites is the folder of the module suite, Work one for what is built.
	Suites, Work string
	// Railyard is the binary under test, built with the tag failpoint.
	Railyard string
	// Dummy says that the kernel has the driver of that name.
	Dummy bool
}

// NewBench builds railyard, from the module that holds the folder suites, and the IPAM plugins that the suites delegate to.
func NewBench(ctx context.Context, suites, work string) (*Bench, error) {
	dummy, err := hasDummy()
	if err != nil {
		return nil, err
	}
	suites, err = filepath.Abs(suites)
	if err != nil {
		return nil, err
	}
	b := &Bench{Suites: suites, Work: work, Railyard: filepath.Join(work, "railyard"), Dummy: dummy}
	_, err = goTool(ctx, filepath.Dir(suites), "build", "-tags", "failpoint", "-o", b.Railyard, "github.com/railyard-net/railyard/cmd/railyard")
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(b.ipam(), 0o755); err != nil {
		return nil, err
	}
	_, err = goTool(ctx, suites, "build", "-o", b.ipam()+"/", module+"/plugins/ipam/host-local", module+"/plugins/ipam/static")
	return b, err
}

func (b *Bench) ipam() string { return filepath.Join(b.Work, "ipam") }

// Build compiles the suite and returns its binary.
func (b *Bench) Build(ctx context.Context, s Suite) (string, error) {
	from, err := b.download(ctx)
	if err != nil {
		return "", err
	}
	tests, err := filepath.Glob(filepath.Join(from, s.Theirs, "*_test.go"))
	if err != nil {
		return "", err
	}
	if len(tests) == 0 {
		return "", fmt.Errorf("%s has no tests in %s", module, s.Theirs)
	}
	copies := filepath.Join(b.Work, s.Ours+".src")
	if err := os.Mkdir(copies, 0o755); err != nil {
		return "", err
	}
	replace := map[string]string{}
	for _, file := range tests {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		if !b.Dummy {
			text = bytes.ReplaceAll(text, []byte("netlink.Dummy{"), []byte("netlink.Ifb{"))
		}
		name := filepath.Base(file)
		if err := os.WriteFile(filepath.Join(copies, name), text, 0o644); err != nil {
			return "", err
		}
		replace[filepath.Join(b.Suites, s.Ours, name)] = filepath.Join(copies, name)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	list := filepath.Join(b.Work, s.Ours+".overlay.json")
	if err := os.WriteFile(list, overlay, 0o644); err != nil {
		return "", err
	}
	binary := filepath.Join(b.Work, s.Ours+".test")
	// Static, so that it runs on any machine.
	_, err = goTool(ctx, b.Suites, "test", "-c", "-vet=off", "-overlay="+list, "-o", binary, "./"+s.Ours)
	return binary, err
}

// download makes sure that the module of the suites is in the module cache, and gives its folder.
func (b *Bench) download(ctx context.Context) (string, error) {
	version, err := goTool(ctx, b.Suites, "list", "-m", "-f", "{{.Version}}", module)
	if err != nil {
		return "", err
	}
	out, err := goTool(ctx, b.Suites, "mod", "download", "-json", module+"@"+strings.TrimSpace(version))
	if err != nil {
		return "", err
	}
	var m struct{ Dir string }
	if err := json.Unmarshal([]byte(out), &m); err != nil || m.Dir == "" {
		return "", fmt.Errorf("where %s was downloaded to: %w: %s", module, err, out)
	}
	return m.Dir, nil
}

// Run runs the suite and gives its cases in the order in which they ran. That cases fail is no error.
func (b *Bench) Run(ctx context.Context, s Suite, binary string) ([]Case, error) {
	report := binary + ".json"
	cmd := exec.CommandContext(ctx, binary, "-ginkgo.json-report="+report, "-ginkgo.no-color", "-ginkgo.seed=1")
	cmd.Dir = b.Work
	cmd.Env = []string{"PATH=" + b.ipam(), "RAILYARD_PEERS_BINARY=" + b.Railyard, "TMPDIR=" + os.TempDir()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread() // the kernel ends the child with the thread that started it
	defer runtime.UnlockOSThread()
	said, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return nil, fmt.Errorf("run the suite %s: %w", s.Name, err)
	}
	text, err := os.ReadFile(report)
	if err != nil {
		return nil, fmt.Errorf("the suite %s ended without a report: %w\n%s", s.Name, err, said)
	}
	cases, err := parseReport(text)
	if err != nil {
		return nil, fmt.Errorf("the suite %s: %w\n%s", s.Name, err, said)
	}
	return cases, nil
}

// goTool runs go in a folder and gives its stdout.
func goTool(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(slices.Clip(os.Environ()), "CGO_ENABLED=0", "GOWORK=off")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go %s in %s: %w\n%s", strings.Join(args, " "), dir, err, &stderr)
	}
	return stdout.String(), nil
}

// hasDummy tries it out in a namespace that ends with it.
func hasDummy() (bool, error) {
	a := netlink.NewLinkAttrs()
	a.Name = "try0"
	ns, err := thread.NewNetNS(func() error { return netlink.LinkAdd(&netlink.Dummy{LinkAttrs: a}) })
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, ns.Close()
}
