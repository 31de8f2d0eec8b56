// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/ipam/wire"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// plugin is the binary under test, built with failpoints.
var plugin string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the plugin:", err)
		code = 1
	}
	os.Exit(code)
}

// buildAndRun builds the plugin, unless $RAILYARD_TEST_PLUGIN names one that is built so: a virtual machine has no Go.
func buildAndRun(m *testing.M) (code int, err error) {
	if plugin = os.Getenv("RAILYARD_TEST_PLUGIN"); plugin != "" {
		return m.Run(), nil
	}
	dir, err := os.MkdirTemp("", "railyard-netns-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	plugin = filepath.Join(dir, "railyard")
	build := exec.Command("go", "build", "-tags", "failpoint", "-o", plugin, "github.com/railyard-net/railyard/cmd/railyard")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// lab is a host with a master rail0 whose other end, port0, is in the fabric.
type lab struct {
	t            testing.TB
	host, fabric *space
	dir          string // the host's state folder
	sys          string // its /sys
	bin          string // CNI_PATH
	conf         map[string]any
}

const (
	poolName = "rail0"
	gateway4 = "10.20.0.1"
	gateway6 = "fd00:20::1"
)

// newLab makes a host whose store holds one block of each family, without an agent.
func newLab(t testing.TB) *lab { return newLabOn(t, "") }

// newLabOn is newLab with its state folder on that disk.
func newLabOn(t testing.TB, disk string) *lab {
	t.Helper()
	dir, err := os.MkdirTemp(onTmpfs(), "ry")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if disk == "" {
		disk = dir
	}
	l := &lab{t: t, host: newSpace(t), fabric: newSpace(t), dir: filepath.Join(disk, "state"),
		sys: filepath.Join(dir, "sys"), bin: filepath.Join(dir, "bin")}
	must(t, os.MkdirAll(l.sys, 0o755))
	must(t, os.MkdirAll(l.bin, 0o755))
	l.addMaster("rail0", "port0", 1500)
	port := l.fabric.get("port0")
	for _, a := range []string{gateway4 + "/16", gateway6 + "/64"} {
		addr, err := netlink.ParseAddr(a)
		must(t, err)
		addr.Flags = unix.IFA_F_NODAD
		must(t, l.fabric.link.AddrAdd(port, addr))
	}
	l.conf = map[string]any{
		"cniVersion": "1.1.0", "name": "rail0", "type": "railyard", "master": "rail0", "stateDir": l.dir,
		"ipam": map[string]any{"type": "railyard-ipam", "pool": poolName},
	}
	l.withStore(func(s *store.Store) {
		grant(t, s, poolName, "10.20.1.0/24", "fd00:20::1:0/120")
		must(t, s.Recovered())
	})
	return l
}

// onTmpfs is a folder like /run, where a node's state is; the default where the machine has none that is free to use.
func onTmpfs() string {
	const shm = "/dev/shm"
	var s unix.Statfs_t
	if unix.Statfs(shm, &s) == nil && s.Type == unix.TMPFS_MAGIC {
		return shm
	}
	return ""
}

func (l *lab) addMaster(name, peer string, mtu int) {
	l.t.Helper()
	a := netlink.NewLinkAttrs()
	a.Name, a.MTU = name, mtu
	v := &netlink.Veth{LinkAttrs: a, PeerName: peer, PeerNamespace: netlink.NsFd(l.fabric.ns.Fd()), PeerMTU: uint32(mtu)}
	must(l.t, l.host.link.LinkAdd(v))
	must(l.t, l.host.link.LinkSetUp(l.host.get(name)))
	must(l.t, l.fabric.link.LinkSetUp(l.fabric.get(peer)))
}

// grant makes a pool of which this node holds one slot of each family; an empty slot leaves the family out.
func grant(t testing.TB, s *store.Store, pool, slot4, slot6 string) {
	t.Helper()
	none := time.Duration(0)
	spec := ipam.PoolSpec{Name: pool, UID: "uid-" + pool, DefaultRoute: false, Cooldown: &none}
	if slot4 != "" {
		spec.IPv4 = &ipam.SubnetSpec{Subnet: "10.20.0.0/16", Gateway: gateway4, BlockSize: 256, Reserved: []string{"10.20.255.0/24"}}
		spec.Routes = append(spec.Routes, ipam.RouteSpec{Dst: "10.99.0.0/16"})
	}
	if slot6 != "" {
		spec.IPv6 = &ipam.SubnetSpec{Subnet: "fd00:20::/64", Gateway: gateway6, BlockSize: 256}
		spec.Routes = append(spec.Routes, ipam.RouteSpec{Dst: "fd00:99::/64"})
	}
	p, err := ipam.ParsePool(spec)
	must(t, err)
	must(t, s.SetPool(p))
	for _, sub := range p.Subnets {
		text := slot6
		if sub.Is4() {
			text = slot4
		}
		slot := sub.Slot(mustAddr(text))
		must(t, s.Grant(store.Holding{Block: ipam.BlockName(pool, slot), Pool: pool, Slot: slot, Ranges: sub.LeasableIn(slot)}))
		for _, r := range sub.Reserved {
			slot := sub.Slot(r.From())
			must(t, s.Grant(store.Holding{Block: ipam.BlockName(pool, slot), Pool: pool, Slot: slot, Ranges: sub.ReservedIn(slot)}))
		}
	}
}

// withStore opens the host's store as its agent would.
func (l *lab) withStore(f func(*store.Store)) {
	l.t.Helper()
	o, err := store.SystemOptions()
	must(l.t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := store.Open(ctx, filepath.Join(l.dir, "ipam.db"), o)
	must(l.t, err)
	defer func() { must(l.t, s.Close()) }()
	f(s)
	must(l.t, s.Check())
}

// serve is an agent's socket on the host's store, until the returned function is called.
func (l *lab) serve() (stop func()) {
	l.t.Helper()
	o, err := store.SystemOptions()
	must(l.t, err)
	s, err := store.Open(context.Background(), filepath.Join(l.dir, "ipam.db"), o)
	must(l.t, err)
	ln, err := wire.Listen(filepath.Join(l.dir, "agent.sock"))
	must(l.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = wire.Serve(ctx, ln, s, slog.New(slog.DiscardHandler))
	}()
	return func() {
		cancel()
		<-done
		must(l.t, errors.Join(s.Check(), s.Close()))
	}
}

func (l *lab) leases() []ipam.Lease {
	l.t.Helper()
	var out []ipam.Lease
	l.withStore(func(s *store.Store) {
		var err error
		out, err = s.Leases()
		must(l.t, err)
	})
	return out
}

// call is one execution of the plugin.
type call struct {
	verb, id, ifName string
	netns            string
	args             string
	fail             string
	killAfter        time.Duration  // 0: it lives
	conf             map[string]any // changes of the lab's config; nil values delete
	stdin            string         // instead of a config
	env              map[string]string
}

func (c call) with(conf map[string]any) call {
	c.conf = conf
	return c
}

type answer struct {
	rc             int
	stdout, stderr string
	killed         bool
	code           uint
	msg            string
}

func (l *lab) stdin(c call) string {
	if c.stdin != "" {
		return c.stdin
	}
	all := map[string]any{}
	for _, m := range []map[string]any{l.conf, c.conf} {
		for k, v := range m {
			if all[k] = v; v == nil {
				delete(all, k)
			}
		}
	}
	b, err := json.Marshal(all)
	must(l.t, err)
	return string(b)
}

// run executes the plugin in the host's namespace.
func (l *lab) run(c call) answer {
	l.t.Helper()
	cmd := exec.Command(plugin)
	env := map[string]string{
		"CNI_COMMAND": c.verb, "CNI_CONTAINERID": c.id, "CNI_IFNAME": c.ifName, "CNI_NETNS": c.netns, "CNI_ARGS": c.args,
		"CNI_PATH": l.bin, "PATH": os.Getenv("PATH"), "RAILYARD_SYS": l.sys, "RAILYARD_FAILPOINT": c.fail,
		"RAILYARD_STATE_DIR": l.dir, "STATE": l.bin,
	}
	for k, v := range c.env {
		env[k] = v
	}
	cmd.Env = []string{}
	for k, v := range env {
		if v != "" {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(l.stdin(c)), &stdout, &stderr
	err := l.host.do(func() error {
		if err := cmd.Start(); err != nil {
			return err
		}
		if c.killAfter > 0 {
			defer time.AfterFunc(c.killAfter, func() { _ = cmd.Process.Kill() }).Stop()
		}
		return cmd.Wait()
	})
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		l.t.Fatalf("run the plugin: %v", err)
	}
	a := answer{rc: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
	a.killed = a.rc == -1
	if a.rc == 1 {
		var e struct {
			Code uint
			Msg  string
		}
		if err := json.Unmarshal(stdout.Bytes(), &e); err != nil {
			l.t.Fatalf("%s: the error on stdout is no JSON: %v: %q %q", c.verb, err, a.stdout, a.stderr)
		}
		a.code, a.msg = e.Code, e.Msg
	}
	return a
}

// mustRun is run for what has to succeed.
func (l *lab) mustRun(c call) answer {
	l.t.Helper()
	a := l.run(c)
	if a.rc != 0 {
		l.t.Fatalf("%s %s %s: rc %d: %s%s", c.verb, c.id, c.ifName, a.rc, a.stdout, a.stderr)
	}
	return a
}

// mustFail is run for what has to fail with that code, with words in its message.
func (l *lab) mustFail(code uint, words string, c call) answer {
	l.t.Helper()
	a := l.run(c)
	if a.rc != 1 || a.code != code || !strings.Contains(a.msg, words) {
		l.t.Fatalf("%s: rc %d code %d %q, want code %d with %q in it\n%s", c.verb, a.rc, a.code, a.msg, code, words, a.stderr)
	}
	return a
}

// add attaches and gives the result.
func (l *lab) add(c call) *current.Result {
	l.t.Helper()
	c.verb = "ADD"
	a := l.mustRun(c)
	r, err := dispatch.DecodeResult([]byte(a.stdout), "1.1.0")
	if err != nil {
		l.t.Fatalf("the result: %v: %s", err, a.stdout)
	}
	return r
}

// script puts another plugin into CNI_PATH.
func (l *lab) script(name, text string) {
	l.t.Helper()
	must(l.t, os.WriteFile(filepath.Join(l.bin, name), []byte("#!/bin/sh\n"+text), 0o755))
}

// files lists the state folder's journals and what else is beside them.
func (l *lab) files() []string {
	var out []string
	_ = filepath.WalkDir(filepath.Join(l.dir, "attachments"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != ".lock" {
			out = append(out, d.Name())
		}
		return nil
	})
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustAddr(s string) netip.Addr {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Addr()
	}
	return netip.MustParseAddr(s)
}
