//go:build e2e

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/test/cluster"
	"github.com/railyard-net/railyard/test/cluster/image"
)

const (
	nextTag = "e2e-next"
	binDir  = "/opt/cni/bin"
)

// plugins are what the installer puts on nodes.
var plugins = []string{"railyard", "railyard-ipam"}

// TestUpgrade: another version of the agents and plugins comes, and the old one again, while pods start and stop. None of them fails to,
// and those that run notice nothing.
func TestUpgrade(t *testing.T) {
	l := newLab(t)
	next := l.buildNext()
	l.importImage(next.image)
	agents := &appsv1.DaemonSet{}
	agents.Name, agents.Namespace = "railyard-agent", cluster.AgentNamespace
	l.get(agents)
	first := agents.Spec.Template.Spec.Containers[0].Image
	t.Cleanup(func() { l.setImage(first) })

	stillPings := l.pinger()
	kept := l.ready("target", 1)
	maps.Copy(kept, l.ready("pinger", 1))
	churn := l.churn(l.rails(kept))
	for _, v := range []struct{ image, bin string }{{image.RailyardName + ":" + nextTag, next.bin}, {first, binaries(t)}} {
		before := churn.rounds.Load()
		l.setImage(v.image)
		l.await("the agents run "+v.image, func(ctx context.Context) error { return l.rolledOut(ctx, agents) })
		for _, node := range l.nodes {
			for _, p := range plugins {
				l.sameFile(node, filepath.Join(binDir, p), filepath.Join(v.bin, p))
			}
		}
		l.await("pods come and go with "+v.image, func(context.Context) error {
			if churn.failed() || churn.rounds.Load() > before+1 {
				return nil
			}
			return errors.New("not yet")
		})
	}
	churn.end()
	stillPings()
	l.leasesAre(l.rails(kept))
	l.noneFailedToStart()
}

// binaries is the folder of our programs.
func binaries(t *testing.T) string {
	t.Helper()
	root, err := cluster.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "bin")
}

// built is another version of our programs, and its image.
type built struct{ bin, image string }

// buildNext builds the programs of the nodes as "make build" does, but for the version.
func (l *lab) buildNext() built {
	l.Helper()
	dir := l.TempDir()
	b := built{bin: filepath.Join(dir, "bin"), image: filepath.Join(dir, "image.tar")}
	build := exec.CommandContext(l.Context(), "go", "build", "-buildvcs=false", "-tags=grpcnotrace", "-trimpath", "-o", b.bin+"/",
		"-ldflags=-s -w -X github.com/railyard-net/railyard/cmd/internal/daemon.version="+nextTag, "./cmd/...")
	build.Dir = filepath.Dir(binaries(l.T))
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		l.Fatalf("%v\n%s", err, out)
	}
	// The plugins have no version of their own: an ELF file may be followed by anything.
	for _, p := range plugins {
		f, err := os.OpenFile(filepath.Join(b.bin, p), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			l.Fatal(err)
		}
		if _, err := f.WriteString(nextTag); err != nil {
			l.Fatal(err)
		}
		if err := f.Close(); err != nil {
			l.Fatal(err)
		}
	}
	if err := image.Railyard(b.bin, nextTag).Write(b.image); err != nil {
		l.Fatal(err)
	}
	return b
}

// enter runs a command in a node, as a person does by the script that "make cluster" names.
func (l *lab) enter(node string, command ...string) (string, error) {
	cmd := exec.CommandContext(l.Context(), filepath.Join(*state, "enter"), append([]string{node}, command...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s on %s: %w\n%s", strings.Join(command, " "), node, err, out)
	}
	return string(out), err
}

func (l *lab) importImage(file string) {
	l.Helper()
	tools, err := cluster.FindTools()
	if err != nil {
		l.Fatal(err)
	}
	for _, node := range l.nodes {
		if _, err := l.enter(node, filepath.Join(string(tools), "containerd", "ctr"), "--namespace=k8s.io", "images", "import", file); err != nil {
			l.Fatal(err)
		}
	}
}

// setImage has the agents' pods run another image.
func (l *lab) setImage(name string) {
	l.Helper()
	out, err := kubectl(context.Background(), "-n", cluster.AgentNamespace, "set", "image", "daemonset/railyard-agent", "install="+name, "agent="+name).CombinedOutput()
	if err != nil {
		l.Fatalf("%v\n%s", err, out)
	}
}

func (l *lab) get(obj client.Object) {
	l.Helper()
	if err := l.client.Get(l.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
		l.Fatal(err)
	}
}

// rolledOut is nil when each node has a ready pod of the DaemonSet as it is now.
func (l *lab) rolledOut(ctx context.Context, ds *appsv1.DaemonSet) error {
	if err := l.client.Get(ctx, client.ObjectKeyFromObject(ds), ds); err != nil {
		return err
	}
	s := ds.Status
	if s.ObservedGeneration < ds.Generation || int(s.UpdatedNumberScheduled) < len(l.nodes) || int(s.NumberReady) < len(l.nodes) {
		return fmt.Errorf("%d pods are new, %d are ready", s.UpdatedNumberScheduled, s.NumberReady)
	}
	return nil
}

func (l *lab) sameFile(node, path, want string) {
	l.Helper()
	if _, err := l.enter(node, "cmp", path, want); err != nil {
		l.Error(err)
	}
}

// churn is pods that come and go until end.
type churn struct {
	rounds atomic.Int64
	stop   atomic.Bool
	done   chan error
	over   atomic.Bool
	lab    *lab
}

// churn starts pods on all nodes and deletes them, again and again. None may have an address of others.
func (l *lab) churn(others map[netip.Addr]string) *churn {
	c := &churn{done: make(chan error, 1), lab: l}
	go func() {
		err := c.run(l.Context(), others)
		c.over.Store(err != nil)
		c.done <- err
	}()
	return c
}

func (c *churn) failed() bool { return c.over.Load() }

// end lets the round that is under way come to its end, and fails the test with what went wrong.
func (c *churn) end() {
	c.lab.Helper()
	c.stop.Store(true)
	if err := <-c.done; err != nil {
		c.lab.Error(err)
	}
	c.lab.Logf("%d rounds", c.rounds.Load())
}

func (c *churn) run(ctx context.Context, others map[netip.Addr]string) error {
	for !c.stop.Load() {
		round := int(c.rounds.Load())
		seen := maps.Clone(others)
		for i, node := range c.lab.nodes {
			p := c.pod(fmt.Sprintf("churn-%d-%d", round, i), node)
			if err := c.lab.client.Create(ctx, p); err != nil {
				return err
			}
		}
		for i := range c.lab.nodes {
			if err := c.comes(ctx, fmt.Sprintf("churn-%d-%d", round, i), seen); err != nil {
				return err
			}
		}
		for i := range c.lab.nodes {
			p := &corev1.Pod{}
			p.Name, p.Namespace = fmt.Sprintf("churn-%d-%d", round, i), c.lab.ns
			if err := c.lab.client.Delete(ctx, p); err != nil {
				return err
			}
		}
		c.rounds.Add(1)
	}
	return nil
}

func (c *churn) pod(name, node string) *corev1.Pod {
	t := template(name)
	t.Name, t.Namespace, t.Labels = name, c.lab.ns, map[string]string{"churn": "yes"}
	t.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	return &corev1.Pod{ObjectMeta: t.ObjectMeta, Spec: t.Spec}
}

// comes waits until a pod is ready, with a rail that nobody else has.
func (c *churn) comes(ctx context.Context, name string, seen map[netip.Addr]string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p := &corev1.Pod{}
	for {
		if err := c.lab.client.Get(ctx, client.ObjectKey{Namespace: c.lab.ns, Name: name}, p); err != nil {
			return err
		}
		if usable(*p) == nil {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not come: %w", name, usable(*p))
		case <-time.After(50 * time.Millisecond):
		}
	}
	addrs, err := rail(*p)
	for _, a := range addrs {
		if other, taken := seen[a]; taken {
			return fmt.Errorf("%s and %s both have %s", name, other, a)
		}
		seen[a] = name
	}
	return err
}

// noneFailedToStart: no pod of the namespace needed a second try for its network.
func (l *lab) noneFailedToStart() {
	l.Helper()
	var events corev1.EventList
	if err := l.client.List(l.Context(), &events, client.InNamespace(l.ns)); err != nil {
		l.Fatal(err)
	}
	for _, e := range events.Items {
		if strings.HasPrefix(e.Reason, "FailedCreatePodSandBox") || strings.HasPrefix(e.Reason, "FailedKillPod") {
			l.Errorf("%s: %s: %s", e.InvolvedObject.Name, e.Reason, e.Message)
		}
	}
}

// TestUninstall: the plugins go from each node when no pod of it has a rail, and not before. Then they can be installed again.
func TestUninstall(t *testing.T) {
	l := newLab(t)
	l.leasesIn = patience // no agent shows them in between
	busy, idle := l.nodes[0], l.nodes[1]
	l.pod("last", busy)
	pods := l.ready("last", 1)
	l.leasesAre(l.rails(pods))
	manifests := filepath.Join(filepath.Dir(binaries(t)), "manifests")
	agents := &appsv1.DaemonSet{}
	agents.Name, agents.Namespace = "railyard-agent", cluster.AgentNamespace
	t.Cleanup(func() {
		l.kubectl("delete", "--ignore-not-found", "-k", filepath.Join(manifests, "uninstall"))
		l.kubectl("apply", "--server-side", "--force-conflicts", "-k", filepath.Join(manifests, "install"))
		l.await("the agents are back", func(ctx context.Context) error { return l.rolledOut(ctx, agents) })
	})
	l.kubectl("-n", cluster.AgentNamespace, "delete", "daemonset", "railyard-agent", "--cascade=foreground")
	l.kubectl("apply", "--server-side", "-k", filepath.Join(manifests, "uninstall"))
	l.await("the idle node has none", func(context.Context) error { return l.plugins(idle, false) })
	l.await("the busy node says who is in the way", func(ctx context.Context) error { return l.uninstallSays(ctx, busy, "@net1: delete the pods") })
	if err := l.plugins(busy, true); err != nil {
		t.Error(err)
	}
	last := pods["last"]
	if err := l.client.Delete(t.Context(), &last); err != nil {
		t.Fatal(err)
	}
	// At once, not when the kubelet's pause is over.
	l.kubectl("-n", "railyard-uninstall", "delete", "pods", "--all", "--wait=false")
	l.await("the busy node has none", func(context.Context) error { return l.plugins(busy, false) })
	l.kubectl("-n", "railyard-uninstall", "rollout", "status", "--timeout=2m", "daemonset/railyard-uninstall")
	l.kubectl("delete", "-k", filepath.Join(manifests, "uninstall"))

	l.kubectl("apply", "--server-side", "--force-conflicts", "-k", filepath.Join(manifests, "install"))
	l.await("the agents are back", func(ctx context.Context) error { return l.rolledOut(ctx, agents) })
	l.newPodsWork("again", map[netip.Addr]string{})
}

func (l *lab) kubectl(args ...string) {
	l.Helper()
	if out, err := kubectl(context.Background(), args...).CombinedOutput(); err != nil {
		l.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// plugins is nil if a node has our plugins or has none of them, as is wanted.
func (l *lab) plugins(node string, wanted bool) error {
	for _, p := range plugins {
		if _, err := l.enter(node, "test", "-e", filepath.Join(binDir, p)); (err == nil) != wanted {
			return fmt.Errorf("%s on %s: there: %v", p, node, err == nil)
		}
	}
	return nil
}

// uninstallSays is nil if the pod that uninstalls on the node has failed with that text.
func (l *lab) uninstallSays(ctx context.Context, node, want string) error {
	var pods corev1.PodList
	if err := l.client.List(ctx, &pods, client.InNamespace("railyard-uninstall")); err != nil {
		return err
	}
	var said string
	for _, p := range pods.Items {
		for _, s := range p.Status.InitContainerStatuses {
			for _, term := range []*corev1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
				if p.Spec.NodeName == node && term != nil {
					said += term.Message
				}
			}
		}
	}
	if !strings.Contains(said, want) {
		return fmt.Errorf("it says %q", said)
	}
	return nil
}
