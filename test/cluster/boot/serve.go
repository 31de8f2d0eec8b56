// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// restartAfter is how long a program that ended is left alone.
	restartAfter = 300 * time.Millisecond
	importLimit  = 2 * time.Minute
)

// Serve is the machine's first process, after Furnish: it runs the machine until stdin ends.
func Serve(ctx context.Context, log *slog.Logger, specPath string, stdin io.Reader) error {
	spec, err := readSpec(specPath)
	if err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	may, err := mayRaiseOOM(string(status))
	if err != nil {
		return err
	}
	if err := errors.Join(spec.configure(may), spec.configureContainers(ctx)); err != nil {
		return err
	}
	m := newMachine(log, spec)
	go m.family.reap(ctx)
	go m.run(ctx, "containerd")
	if err := m.importImages(ctx); err != nil {
		return err
	}
	go m.run(ctx, "kubelet")
	return m.obey(stdin)
}

// machine is what runs.
type machine struct {
	log      *slog.Logger
	spec     Spec
	logs     string // folder
	family   *family
	services map[string]*service
}

func newMachine(log *slog.Logger, spec Spec) *machine {
	return &machine{log: log, spec: spec, logs: "/var/log", family: newFamily(), services: map[string]*service{
		"containerd": newService(filepath.Join(spec.Containerd, "containerd"), "--config="+containerdConfig),
		"kubelet": newService(spec.Kubenode, "kubelet", "--config="+kubeletConfig, "--kubeconfig="+spec.Kubeconfig,
			"--root-dir=/var/lib/kubelet", "--cert-dir=/var/lib/kubelet/pki", "--hostname-override="+spec.Name, "--node-ip="+spec.Addr.String()),
	}}
}

// run keeps a service running, but for as long as it is to be stopped, until ctx ends.
func (m *machine) run(ctx context.Context, name string) {
	s := m.services[name]
	for ctx.Err() == nil {
		s.awaitWanted()
		child, err := m.start(name, s.argv)
		if err != nil {
			m.log.ErrorContext(ctx, "a program does not start", "program", name, "error", err)
		} else {
			s.started(child.pid)
			ended := <-child.done
			s.ended()
			m.log.InfoContext(ctx, "a program ended", "program", name, "status", int(ended))
		}
		select {
		case <-ctx.Done():
		case <-time.After(restartAfter):
		}
	}
}

// start starts a program with its output in a log.
func (m *machine) start(name string, argv []string) (*child, error) {
	log, err := os.OpenFile(filepath.Join(m.logs, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	return m.family.start(argv, m.env(), log)
}

func (m *machine) env() []string {
	return []string{"PATH=" + m.spec.Containerd + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/var/lib/kubelet", "TMPDIR=/run"}
}

// importImages imports what was not imported on an earlier boot.
func (m *machine) importImages(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, importLimit)
	defer cancel()
	if err := awaitSocket(ctx, containerdSocket); err != nil {
		return err
	}
	for _, image := range m.spec.Images {
		mark := filepath.Join(diskDir, "imported-"+filepath.Base(image))
		if _, err := os.Stat(mark); err == nil {
			continue
		}
		child, err := m.start("ctr", []string{
			filepath.Join(m.spec.Containerd, "ctr"), "--address=" + containerdSocket, "--namespace=k8s.io", "images", "import", "--local", image,
		})
		if err != nil {
			return err
		}
		if ended := <-child.done; ended.ExitStatus() != 0 {
			return fmt.Errorf("ctr images import %s ended with status %d: see /var/log/ctr.log", image, ended.ExitStatus())
		}
		if err := os.WriteFile(mark, nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// awaitSocket returns when somebody listens.
func awaitSocket(ctx context.Context, path string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w (last: %w)", path, ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// obey carries orders out until there are no more. One that is not understood is reported and has no effect.
func (m *machine) obey(orders io.Reader) error {
	lines := bufio.NewScanner(orders)
	for lines.Scan() {
		verb, name, _ := strings.Cut(lines.Text(), " ")
		if err := m.order(verb, name); err != nil {
			m.log.Error("an order was not carried out", "order", lines.Text(), "error", err)
		}
	}
	return errors.Join(lines.Err(), errors.New("the orders ended"))
}

func (m *machine) order(verb, name string) error {
	s := m.services[name]
	if s == nil {
		return errors.New("there is no such program")
	}
	switch verb {
	case "stop":
		s.want(false)
		return s.signal(unix.SIGKILL)
	case "start":
		s.want(true)
		return nil
	case "kill":
		return s.signal(unix.SIGKILL)
	default:
		return errors.New("there is no such order")
	}
}
