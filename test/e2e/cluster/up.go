// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/railyard-net/railyard/test/cluster"
	"github.com/railyard-net/railyard/test/cluster/keep"
)

const (
	upLimit = 5 * time.Minute // on a machine that others load

	multusManifests   = "manifests/install/multus"
	railyardManifests = "manifests/install"
)

// world is a running cluster.
type world struct {
	o   options
	out *keep.Progress

	api     *cluster.API
	lan     *cluster.LAN
	fabric  *cluster.Fabric
	control *cluster.ControlPlane

	mu       sync.Mutex // of what is done to the machines and the API server
	machines []*cluster.Machine
}

// start brings everything up, and returns when Railyard is ready on every node.
func (w *world) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, upLimit)
	defer cancel()
	if err := w.startControlPlane(ctx); err != nil {
		return err
	}
	if err := w.startMachines(ctx); err != nil {
		return err
	}
	if err := w.api.Apply(ctx, multusManifests); err != nil {
		return err
	}
	if err := w.await(ctx, "Multus", w.daemonSetReady("kube-system", "multus")); err != nil {
		return err
	}
	w.out.Step("Multus is ready on every node (kubectl apply --server-side -k %s)", multusManifests)
	if err := w.api.Apply(ctx, railyardManifests); err != nil {
		return err
	}
	// The tests look into the mirror at every turn, much more often than what it may cost by default would show them.
	if out, err := w.api.Kubectl(ctx, "--namespace="+cluster.AgentNamespace, "set", "env", "daemonset/railyard-agent", "--containers=agent",
		"RAILYARD_MIRROR_INTERVAL=300ms").CombinedOutput(); err != nil {
		return fmt.Errorf("set how often agents mirror: %w: %s", err, out)
	}
	for what, ready := range map[string]check{
		"the agents":     w.daemonSetReady(cluster.AgentNamespace, "railyard-agent"),
		"the controller": w.deploymentReady(cluster.AgentNamespace, "railyard-controller"),
	} {
		if err := w.await(ctx, what, ready); err != nil {
			return err
		}
	}
	w.out.Step("Railyard is ready on every node (kubectl apply --server-side -k %s)", railyardManifests)
	return nil
}

func (w *world) startControlPlane(ctx context.Context) (err error) {
	if w.lan, err = cluster.NewLAN(); err != nil {
		return err
	}
	if w.fabric, err = cluster.NewFabric(); err != nil {
		return err
	}
	if w.api, err = cluster.StartAPI(ctx, cluster.APIOptions{LAN: w.lan}); err != nil {
		return err
	}
	w.out.Step("etcd and kube-apiserver run, %s for this host", w.api.URL())
	if w.control, err = cluster.StartControlPlane(w.api); err != nil {
		return err
	}
	w.out.Step("kube-controller-manager and kube-scheduler run")
	return nil
}

func (w *world) startMachines(ctx context.Context) error {
	images, err := w.writeImages(ctx)
	if err != nil {
		return err
	}
	w.out.Step("%d images are built", len(images.archives))
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for i := range w.o.nodes {
		m, err := cluster.NewMachine(cluster.MachineOptions{
			Name: fmt.Sprintf("node-%d", i+1), Number: i + 1, API: w.api, LAN: w.lan, Fabric: w.fabric,
			Images: images.archives, Sandbox: images.sandbox, Boot: []string{self, "boot"},
		})
		if err != nil {
			return err
		}
		w.machines = append(w.machines, m)
	}
	w.out.Step("%d machines are on: containerd starts and imports the images", len(w.machines))
	if err := w.await(ctx, "the nodes", w.nodesReady); err != nil {
		return err
	}
	w.out.Step("%d nodes are Ready", len(w.machines))
	return nil
}

// check returns nil when what it looks at is as it should be.
type check func(context.Context, kubernetes.Interface) error

func (w *world) nodesReady(ctx context.Context, c kubernetes.Interface) error {
	nodes, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	ready := 0
	for _, n := range nodes.Items {
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
				ready++
			}
		}
	}
	if ready < len(w.machines) {
		return fmt.Errorf("%d of %d are ready", ready, len(w.machines))
	}
	return nil
}

func (w *world) daemonSetReady(namespace, name string) check {
	return func(ctx context.Context, c kubernetes.Interface) error {
		ds, err := c.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		s := ds.Status
		if s.ObservedGeneration < ds.Generation || int(s.DesiredNumberScheduled) < len(w.machines) || min(s.UpdatedNumberScheduled, s.NumberReady) < s.DesiredNumberScheduled {
			return fmt.Errorf("%d of %d pods of %s are ready%s", s.NumberReady, len(w.machines), name, why(ctx, c, namespace, ds.Spec.Selector))
		}
		return nil
	}
}

func (w *world) deploymentReady(namespace, name string) check {
	return func(ctx context.Context, c kubernetes.Interface) error {
		d, err := c.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if s := d.Status; s.ObservedGeneration < d.Generation || s.ReadyReplicas < wanted(d) {
			return fmt.Errorf("%d of %d pods of %s are ready%s", s.ReadyReplicas, wanted(d), name, why(ctx, c, namespace, d.Spec.Selector))
		}
		return nil
	}
}

func wanted(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

// why says what the pods of a selector wait for.
func why(ctx context.Context, c kubernetes.Interface, namespace string, selector *metav1.LabelSelector) string {
	pods, err := c.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(selector)})
	if err != nil {
		return ""
	}
	var text string
	for _, p := range pods.Items {
		for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
			if waiting := s.State.Waiting; waiting != nil {
				text += fmt.Sprintf("; %s on %s: %s %s", p.Name, p.Spec.NodeName, waiting.Reason, waiting.Message)
			}
		}
	}
	return text
}

// await repeats ready until it is nil; it fails when something has died, or with what ready said last when the time is up.
func (w *world) await(ctx context.Context, what string, ready check) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx, w.api.Client())
		if err == nil {
			return nil
		}
		if died := w.died(); died != nil {
			return died
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w", what, ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// died says what has ended by itself that should not have.
func (w *world) died() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	errs := []error{w.control.Err()}
	for _, m := range w.machines {
		errs = append(errs, m.Err())
	}
	return errors.Join(errs...)
}

// close ends everything at once, whatever state it is in; with keepLogs it says where they are.
func (w *world) close(keepLogs bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	if keepLogs {
		for _, m := range w.machines {
			errs = append(errs, m.SaveLogs())
		}
	}
	var all sync.WaitGroup
	closed := make([]error, len(w.machines))
	for i, m := range w.machines {
		all.Go(func() { closed[i] = m.Close() })
	}
	all.Wait()
	errs = append(errs, closed...)
	if w.control != nil {
		w.control.Stop()
	}
	if w.api != nil {
		stop := w.api.Stop
		if keepLogs {
			w.out.Step("logs are kept in %s", w.api.Dir())
			stop = w.api.StopKeepingLogs
		}
		errs = append(errs, stop())
	}
	if w.fabric != nil {
		errs = append(errs, w.fabric.Close())
	}
	if w.lan != nil {
		errs = append(errs, w.lan.Close())
	}
	return errors.Join(errs...)
}

// dir is a folder for what the cluster needs as long as it runs.
func (w *world) dir(name string) (string, error) {
	path := filepath.Join(w.api.Dir(), name)
	return path, os.MkdirAll(path, 0o755)
}
