// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

func hostLinks(t *testing.T) []string {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	slices.Sort(names)
	return names
}

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestNodeIsIsolated(t *testing.T) {
	before := hostLinks(t)
	nodes := NewNodes(t, nil, "a", "b")
	a, b := nodes[0], nodes[1]
	if diff := cmp.Diff(before, hostLinks(t)); diff != "" {
		t.Errorf("links of the host changed (-before +after):\n%s", diff)
	}
	for _, n := range nodes {
		links, err := n.Links()
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(links)
		if diff := cmp.Diff([]string{"lo", RailLink}, links); diff != "" {
			t.Errorf("links of node %s (-want +got):\n%s", n.Name(), diff)
		}
		if got := output(t, n.Command(t.Context(), "ls", "/sys/class/net")); got != "lo\n"+RailLink {
			t.Errorf("/sys/class/net of node %s is %q", n.Name(), got)
		}
		if got := output(t, n.Command(t.Context(), "uname", "-n")); got != n.Name() {
			t.Errorf("host name of node %s is %q", n.Name(), got)
		}
	}
	marker := "/run/railyard-marker"
	output(t, a.Command(t.Context(), "touch", marker))
	if err := b.Do(func() error { _, err := os.Stat(marker); return err }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file in /run of one node is seen in another: %v", err)
	}
	if _, err := os.Stat(marker); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file in /run of a node is seen on the host: %v", err)
	}
	if x, y := bootID(t, a), bootID(t, b); x == y || len(x) != 36 {
		t.Errorf("boot ids are %q and %q", x, y)
	}
}

func bootID(t *testing.T, n *Node) string {
	t.Helper()
	return output(t, n.Command(t.Context(), "cat", "/proc/sys/kernel/random/boot_id"))
}

func TestNodesReachEachOther(t *testing.T) {
	t.Parallel()
	nodes := NewNodes(t, nil, "a", "b")
	for i, n := range nodes {
		if err := n.Do(func() error { return setAddr(RailLink, fmt.Sprintf("192.0.2.%d/24", i+1)) }); err != nil {
			t.Fatal(err)
		}
	}
	var l net.Listener
	if err := nodes[0].Do(func() (err error) { l, err = net.Listen("tcp", "192.0.2.1:7"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err := nodes[1].Do(func() error {
		c, err := net.DialTimeout("tcp", "192.0.2.1:7", 10*time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		t.Errorf("node b can't reach node a over the fabric: %v", err)
	}
}

func setAddr(link, cidr string) error {
	return exec.Command("ip", "addr", "add", cidr, "dev", link).Run()
}

func TestPodNetNS(t *testing.T) {
	t.Parallel()
	n := NewNodes(t, nil, "a")[0]
	path, err := n.NewPodNetNS("p1")
	if err != nil {
		t.Fatal(err)
	}
	if path != "/run/netns/p1" {
		t.Errorf("path is %q", path)
	}
	if _, err := n.NewPodNetNS("p1"); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second namespace of that name: %v", err)
	}
	if got := output(t, n.PodCommand(t.Context(), "p1", "ip", "-br", "link")); !strings.HasPrefix(got, "lo ") || strings.Contains(got, "\n") {
		t.Errorf("links of the pod: %q", got)
	}
	if err := n.InPod("p1", func() error {
		links, err := net.Interfaces()
		if err == nil && (len(links) != 1 || links[0].Flags&net.FlagUp == 0) {
			err = fmt.Errorf("links are %v, want lo, up", links)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := n.RemovePodNetNS("p1"); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := n.PodNetNSs(); err != nil || len(names) != 0 {
		t.Errorf("namespaces left: %v, %v", names, err)
	}
}

func TestReboot(t *testing.T) {
	t.Parallel()
	n := NewNodes(t, nil, "a")[0]
	before := bootID(t, n)
	if _, err := n.NewPodNetNS("p1"); err != nil {
		t.Fatal(err)
	}
	p, err := n.Start(nil, "/usr/bin/sleep", "infinity")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Reboot(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		t.Error("a process outlived the reboot of its node")
	}
	if bootID(t, n) == before {
		t.Error("the boot id is the same after a reboot")
	}
	if names, err := n.PodNetNSs(); err != nil || len(names) != 0 {
		t.Errorf("namespaces left by the reboot: %v, %v", names, err)
	}
	if links, err := n.Links(); err != nil || !slices.Contains(links, RailLink) {
		t.Errorf("links after the reboot: %v, %v", links, err)
	}
}

func TestTwoClusters(t *testing.T) {
	for _, name := range []string{"one", "two"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := NewAPI(t)
			n := NewNodes(t, api, "n1")[0]
			path, err := n.Kubeconfig(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			// Through the forwarder: the connection is made in the node.
			cfg, err := clientcmd.BuildConfigFromFlags("", path)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Dial = func(ctx context.Context, network, addr string) (c net.Conn, err error) {
				err = n.Do(func() error { c, err = new(net.Dialer).DialContext(ctx, network, addr); return err })
				return c, err
			}
			c, err := kubernetes.NewForConfig(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Discovery().ServerVersion(); err != nil {
				t.Errorf("API through the forwarder: %v", err)
			}
			nodes, err := api.Client().CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
			if err != nil || len(nodes.Items) != 1 {
				t.Errorf("nodes: %v, %v; want one", nodes.Items, err)
			}
		})
	}
}

const victimEnv = "RAILYARD_CLUSTER_VICTIM"

// TestVictim is the process that TestKillLeavesNothing kills; by itself it does nothing.
func TestVictim(t *testing.T) {
	if os.Getenv(victimEnv) == "" {
		return
	}
	api := NewAPI(t)
	n := NewNodes(t, api, "n1")[0]
	p, err := n.Start(nil, "/usr/bin/sleep", "infinity")
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(n.space.net.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	fmt.Println("victim", api.Dir(), api.server.Pid(), api.etcd.Pid(), p.Pid())
	select {}
}

func TestKillLeavesNothing(t *testing.T) {
	links := hostLinks(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestVictim$")
	cmd.Env = append(os.Environ(), victimEnv+"=1", "TMPDIR="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	var fields []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "victim "); ok {
			fields = strings.Fields(rest)
			break
		}
		t.Log(lines.Text())
	}
	if len(fields) != 4 {
		t.Fatalf("the victim said %q", fields)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for _, f := range fields[1:] {
		pid, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		awaitDeath(t, pid)
	}
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), fields[0]) {
		t.Errorf("a mount is left, or: %v", err)
	}
	if entries, err := os.ReadDir(filepath.Join(fields[0], "etcd")); err != nil || len(entries) != 0 {
		t.Errorf("etcd's data is left on the host: %v, %v", entries, err)
	}
	if diff := cmp.Diff(links, hostLinks(t)); diff != "" {
		t.Errorf("links of the host changed (-before +after):\n%s", diff)
	}
	sweep(filepath.Dir(fields[0]))
	if _, err := os.Stat(fields[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the next start leaves the folder of the killed process: %v", err)
	}
}

// awaitDeath returns when no process has that id.
func awaitDeath(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n == 0 || err != nil {
			t.Errorf("process %d outlived its parent's SIGKILL (%v)", pid, err)
		}
		return
	}
}
