//go:build e2e

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/railyard-net/railyard/ipam/api/v1alpha1"
	netdefv1alpha1 "github.com/railyard-net/railyard/netdef/api/v1alpha1"
	"github.com/railyard-net/railyard/test/cluster"
	"github.com/railyard-net/railyard/test/e2e/control"
)

const (
	// patience is for what a kubelet tries again after pauses that double: a pod that failed twice waits for most of a minute.
	patience = 4 * time.Minute
	// soon is less than the agents' --gc-grace: in that time a lease ends by its pod's DEL, or not at all.
	soon = 45 * time.Second

	network   = "e2e"
	railLink  = "net1"
	podSubnet = "10.77.0.0/16"
)

var state = flag.String("state", "../../build/cluster", "state folder of the cluster to test on")

// shared is what all tests use.
var shared struct {
	info   control.Info
	keeper *control.Client
	client client.WithWatch
}

func TestMain(m *testing.M) {
	flag.Parse()
	if err := connect(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func connect() error {
	dir, err := filepath.Abs(*state)
	if err != nil {
		return err
	}
	if shared.info, err = control.Read(dir); err != nil {
		return err
	}
	shared.keeper = control.NewClient(shared.info.Socket)
	cfg, err := clientcmd.BuildConfigFromFlags("", shared.info.Kubeconfig)
	if err != nil {
		return err
	}
	cfg.QPS = -1
	scheme := runtime.NewScheme()
	err = errors.Join(clientgoscheme.AddToScheme(scheme), ipamv1alpha1.AddToScheme(scheme), netdefv1alpha1.AddToScheme(scheme))
	if err != nil {
		return err
	}
	shared.client, err = client.NewWithWatch(cfg, client.Options{Scheme: scheme})
	return err
}

// lab is a namespace for one test, on the cluster and the network that all share.
type lab struct {
	*testing.T
	client client.Client
	keeper *control.Client
	nodes  []string
	ns     string
	// leasesIn is how long leases may take to become what they are to be: soon, unless what would end them is what fails.
	leasesIn time.Duration
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{
		T: t, client: shared.client, keeper: shared.keeper, nodes: shared.info.Machines, leasesIn: soon,
		ns: "e2e-" + strings.ToLower(strings.TrimPrefix(t.Name(), "Test")),
	}
	if len(l.nodes) < 2 {
		t.Fatal("these tests need a cluster of two nodes: make cluster NODES=2")
	}
	l.sharedNetwork()
	l.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: l.ns}})
	t.Cleanup(l.close)
	return l
}

// close deletes the namespace, and looks that nothing in it has left a lease.
func (l *lab) close() {
	if l.Failed() {
		for _, args := range [][]string{
			{"get", "pods", "-A", "-o", "wide"}, {"-n", l.ns, "get", "events", "--sort-by=.lastTimestamp"}, {"get", "nodes"},
			{"-n", cluster.AgentNamespace, "logs", "-l", "app.kubernetes.io/name=railyard-agent", "--prefix", "--tail=20"},
		} {
			out, _ := kubectl(context.Background(), args...).CombinedOutput()
			l.Logf("kubectl %s\n%s", strings.Join(args, " "), out)
		}
	}
	l.deleteNamespace()
}

func (l *lab) deleteNamespace() {
	l.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: l.ns}}
	if err := l.client.Delete(context.Background(), ns); err != nil && !apierrors.IsNotFound(err) {
		l.Fatal(err)
	}
	l.await("the namespace is gone", func(ctx context.Context) error {
		err := l.client.Get(ctx, client.ObjectKeyFromObject(ns), ns)
		if err == nil {
			return fmt.Errorf("it is there: %+v", ns.Status.Conditions)
		}
		return client.IgnoreNotFound(err)
	})
	l.leasesAre(nil)
}

// sharedNetwork makes the network of all tests, if it is not there.
func (l *lab) sharedNetwork() {
	l.Helper()
	pool := &ipamv1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: network}}
	pool.Spec.IPv4 = &ipamv1alpha1.Subnet{Subnet: podSubnet}
	pool.Spec.IPv6 = &ipamv1alpha1.Subnet{Subnet: "fd00:77::/64"}
	mn := &netdefv1alpha1.MacvlanNetwork{ObjectMeta: metav1.ObjectMeta{Name: network}}
	mn.Spec.NetworkNamespace = metav1.NamespaceDefault
	mn.Spec.Master = cluster.RailLink
	mn.Spec.Pool = &netdefv1alpha1.PoolReference{Name: network}
	l.create(pool)
	l.create(mn)
	l.await("the network is ready", func(ctx context.Context) error {
		if err := l.client.Get(ctx, client.ObjectKeyFromObject(mn), mn); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(mn.Status.Conditions, netdefv1alpha1.ConditionReady) {
			return fmt.Errorf("conditions %+v", mn.Status.Conditions)
		}
		return nil
	})
}

// create creates obj if it is not there.
func (l *lab) create(obj client.Object) {
	l.Helper()
	if err := l.client.Create(l.Context(), obj); err != nil && !apierrors.IsAlreadyExists(err) {
		l.Fatal(err)
	}
}

// await repeats check until it returns nil. It fails with what it returned last.
func (l *lab) await(what string, check func(context.Context) error) {
	l.Helper()
	l.awaitIn(patience, what, check)
}

func (l *lab) awaitIn(limit time.Duration, what string, check func(context.Context) error) {
	l.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.Context()), limit)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			l.Fatalf("not in time: %s: %v", what, last)
		case <-tick.C:
		}
	}
}

func kubectl(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, shared.info.Kubectl, append([]string{"--kubeconfig=" + shared.info.Kubeconfig}, args...)...)
}

// ping pings from a pod, by the program that all pods of tests have.
func (l *lab) ping(from corev1.Pod, to ...netip.Addr) error {
	args := []string{"-n", from.Namespace, "exec", from.Name, "--", "/pod", "ping"}
	for _, a := range to {
		args = append(args, a.String())
	}
	ctx, cancel := context.WithTimeout(l.Context(), time.Minute)
	defer cancel()
	if out, err := kubectl(ctx, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ping %v from %s: %w\n%s", to, from.Name, err, out)
	}
	return nil
}
