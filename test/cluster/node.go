// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
)

// NodeAPIAddress is where a node reaches the API server: its own loopback address.
const NodeAPIAddress = "127.0.0.1:6443"

const nodeAPIURL = "https://" + NodeAPIAddress

// Node is a machine of the cluster as far as networking goes: a network, a mount and a UTS namespace. Inside there is the link
// RailLink into the fabric, the API server at NodeAPIAddress, a /run of its own on tmpfs, a /sys of its own, and a boot id of its
// own. All else is the host's, so programs and temporary folders have the same paths inside as outside.
//
// The process ids are the host's, and /proc shows all of them. Methods may be called concurrently, but for Reboot and Close.
type Node struct {
	name   string
	fabric *Fabric
	api    *API
	dir    string
	own    *scratch // of dir, if there is no API whose folder it could be in

	space   *space
	forward *forwarder
}

// NewNode makes a node and joins it to the fabric, and to the API if that is not nil; the Node object is made as well then. It ends
// with Close, or with this process.
func NewNode(ctx context.Context, name string, fabric *Fabric, api *API) (_ *Node, err error) {
	n := &Node{name: name, fabric: fabric, api: api}
	defer func() {
		if err != nil {
			err = fmt.Errorf("make node %s: %w", name, errors.Join(err, n.Close()))
		}
	}()
	if api == nil {
		if n.own, err = newScratch(""); err != nil {
			return nil, err
		}
		n.dir = n.own.dir
	} else {
		if _, err := api.EnsureNode(ctx, name); err != nil {
			return nil, err
		}
		n.dir = filepath.Join(api.Dir(), "node-"+name)
		if err := os.MkdirAll(n.dir, 0o755); err != nil {
			return nil, err
		}
	}
	return n, n.boot()
}

// boot makes the namespaces and all that is in them.
func (n *Node) boot() (err error) {
	bootID := filepath.Join(n.dir, "boot_id")
	if err := os.WriteFile(bootID, []byte(newBootID()+"\n"), 0o644); err != nil {
		return err
	}
	n.space, err = newSpace(unix.CLONE_NEWNET|unix.CLONE_NEWNS|unix.CLONE_NEWUTS, func() error { return furnish(n.name, bootID) })
	if err != nil {
		return err
	}
	if err := n.fabric.plug(n.space); err != nil {
		return err
	}
	if n.api != nil {
		n.forward, err = newForwarder(n.space, NodeAPIAddress, nil, "127.0.0.1:"+strconv.Itoa(n.api.Port()))
	}
	return err
}

// furnish runs inside of a node's new namespaces.
func furnish(hostname, bootID string) error {
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := unix.Mount("run", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	// A sysfs shows the network devices of the namespace that it was mounted in.
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	if err := unix.Mount(bootID, "/proc/sys/kernel/random/boot_id", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount the boot id: %w", err)
	}
	if err := os.Mkdir(netnsDir, 0o755); err != nil {
		return err
	}
	// As ip-netns does: so that a later mount namespace sees the pods that come and go here.
	if err := unix.Mount(netnsDir, netnsDir, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return unix.Mount("", netnsDir, "", unix.MS_SHARED, "")
}

// newBootID returns a random UUID, as the kernel's boot id is one.
func newBootID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Name is the node's name and its host name.
func (n *Node) Name() string { return n.name }

// Dir is a folder for the node's logs and files; it is on the host, not in /run, and outlives a reboot.
func (n *Node) Dir() string { return n.dir }

// APIURL is the API server's address inside of the node.
func (n *Node) APIURL() string { return nodeAPIURL }

// Config returns the credential of this node's agent (see API.NodeConfig), for use from outside of the node.
func (n *Node) Config(ctx context.Context) (*rest.Config, error) {
	return n.api.NodeConfig(ctx, n.name)
}

// Kubeconfig writes the credential of this node's agent to a file, for use inside of the node.
func (n *Node) Kubeconfig(ctx context.Context) (string, error) {
	return n.api.NodeKubeconfig(ctx, n.name, nodeAPIURL)
}

// Do runs f on a thread inside of the node's namespaces; files that f opens and sockets that it makes are the node's. What f
// starts in other goroutines is outside, and t.Fatal must not be called in f.
func (n *Node) Do(f func() error) error { return n.space.do(f) }

// enterArgs is the nsenter command line that goes before a command.
func (n *Node) enterArgs() []string {
	return []string{"nsenter", "--uts=" + nsPath(n.space.uts), "--net=" + nsPath(n.space.net), "--mount=" + nsPath(n.space.mnt), "--"}
}

// EnterCommand is what a person types before a command to run it in the node, while this process lives.
func (n *Node) EnterCommand() []string { return n.enterArgs() }

// Command makes a command that runs inside of the node; its working directory there is /. Use it for programs that end soon: for
// one that stays, Start makes sure that it does not outlive us.
func (n *Node) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return n.command(ctx, n.enterArgs(), name, args)
}

// PodCommand is Command in the network namespace of a pod of the node.
func (n *Node) PodCommand(ctx context.Context, pod, name string, args ...string) *exec.Cmd {
	return n.command(ctx, append(n.enterArgs(), "nsenter", "--net="+PodNetNSPath(pod), "--"), name, args)
}

func (n *Node) command(ctx context.Context, enter []string, name string, args []string) *exec.Cmd {
	// The command line is resolved in the node, where the working directory is another.
	if filepath.Base(name) != name {
		if abs, err := filepath.Abs(name); err == nil {
			name = abs
		}
	}
	full := append(append(enter[1:], name), args...)
	return exec.CommandContext(ctx, enter[0], full...)
}

// Start runs a program inside of the node until it is stopped; its output goes to the file <program>.log in Dir. The kernel ends it
// when we die. A nil env is our own environment.
func (n *Node) Start(env []string, program string, args ...string) (*Process, error) {
	program, err := filepath.Abs(program)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, args...)
	cmd.Env = env
	cmd.Dir = n.dir
	return startIn(n.space, cmd, filepath.Join(n.dir, filepath.Base(program)+".log"))
}

// Links lists the links in the node's network namespace.
func (n *Node) Links() ([]string, error) { return linkNames(n.space) }

// Reboot ends everything in the node, at once as a power failure does, and brings it up again with an empty /run, another boot id
// and a fresh network namespace. The Node object stays as it is.
func (n *Node) Reboot() error {
	if err := n.halt(); err != nil {
		return fmt.Errorf("reboot node %s: %w", n.name, err)
	}
	if err := n.boot(); err != nil {
		return fmt.Errorf("reboot node %s: %w", n.name, err)
	}
	return nil
}

// Close ends everything in the node. Its Node object stays, as that of a lost node does. It may be called again.
func (n *Node) Close() error {
	err := n.halt()
	if n.own != nil {
		err = errors.Join(err, n.own.remove())
	}
	return err
}

func (n *Node) halt() error {
	if n.space == nil {
		return nil
	}
	var errs []error
	if n.space.mnt != nil {
		errs = append(errs, killAllIn(n.space.mnt))
	}
	if n.forward != nil {
		errs = append(errs, n.forward.close())
		n.forward = nil
	}
	return errors.Join(append(errs, n.space.close())...)
}

// killAllIn kills every process in a mount namespace, and returns when there is none.
func killAllIn(mnt *os.File) error {
	var want unix.Stat_t
	if err := unix.Fstat(int(mnt.Fd()), &want); err != nil {
		return ignoreClosed(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		pids, err := processesIn(want)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not die", pids)
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		time.Sleep(2 * time.Millisecond) // there is no event for the end of somebody else's child
	}
}

// processesIn lists the processes, but for the dead that wait for their parent, whose mount namespace is the one given.
func processesIn(mnt unix.Stat_t) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var got unix.Stat_t
		if err := unix.Stat("/proc/"+e.Name()+"/ns/mnt", &got); err != nil {
			continue // gone, or a zombie: it has no namespaces
		}
		if got.Ino == mnt.Ino && got.Dev == mnt.Dev {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
