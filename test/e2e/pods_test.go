//go:build e2e

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/test/cluster/image"
)

// template is a pod on the shared network. Without arguments its program waits.
func template(app string, args ...string) corev1.PodTemplateSpec {
	grace := int64(2)
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{
			Labels:      map[string]string{"app": app},
			Annotations: map[string]string{nadv1.NetworkAttachmentAnnot: metav1.NamespaceDefault + "/" + network},
		},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers:                    []corev1.Container{{Name: "pod", Image: image.PodImage, Args: args}},
		},
	}
}

// pod creates a pod on a node.
func (l *lab) pod(name, node string, args ...string) {
	l.Helper()
	t := template(name, args...)
	t.Name, t.Namespace = name, l.ns
	t.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	l.create(&corev1.Pod{ObjectMeta: t.ObjectMeta, Spec: t.Spec})
}

// deployment creates a Deployment whose pods are spread over the nodes.
func (l *lab) deployment(app string, replicas int32) *appsv1.Deployment {
	l.Helper()
	t := template(app)
	t.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
		LabelSelector: &metav1.LabelSelector{MatchLabels: t.Labels},
	}}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: app, Namespace: l.ns},
		Spec:       appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: t.Labels}, Template: t},
	}
	l.create(d)
	return d
}

// ready waits until just n pods of an app are there, all ready and with a rail, and returns them by name. ok may ask for more.
func (l *lab) ready(app string, n int, ok ...func(corev1.Pod) error) map[string]corev1.Pod {
	l.Helper()
	var found map[string]corev1.Pod
	l.await(fmt.Sprintf("%d pods of %s are ready", n, app), func(ctx context.Context) error {
		var list corev1.PodList
		if err := l.client.List(ctx, &list, client.InNamespace(l.ns), client.MatchingLabels{"app": app}); err != nil {
			return err
		}
		found = map[string]corev1.Pod{}
		for _, p := range list.Items {
			if err := usable(p); err != nil {
				return err
			}
			for _, more := range ok {
				if err := more(p); err != nil {
					return err
				}
			}
			found[p.Name] = p
		}
		if len(found) != n {
			return fmt.Errorf("there are %d", len(found))
		}
		return nil
	})
	return found
}

// usable says what a pod lacks.
func usable(p corev1.Pod) error {
	if p.DeletionTimestamp != nil {
		return fmt.Errorf("%s is being deleted", p.Name)
	}
	i := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady })
	if i < 0 || p.Status.Conditions[i].Status != corev1.ConditionTrue {
		return fmt.Errorf("%s on %q is not ready: %s", p.Name, p.Spec.NodeName, p.Status.Phase)
	}
	addrs, err := rail(p)
	if err != nil {
		return fmt.Errorf("the rail of %s: %w", p.Name, err)
	}
	if len(addrs) != 2 {
		return fmt.Errorf("%s has addresses %v on its rail, want two", p.Name, addrs)
	}
	return nil
}

// rail gives the addresses of a pod's rail, as Multus says them in its status.
func rail(p corev1.Pod) ([]netip.Addr, error) {
	var status []nadv1.NetworkStatus
	if err := json.Unmarshal([]byte(p.Annotations[nadv1.NetworkStatusAnnot]), &status); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(status, func(s nadv1.NetworkStatus) bool { return s.Interface == railLink })
	if i < 0 {
		return nil, fmt.Errorf("no interface %s in %s", railLink, p.Annotations[nadv1.NetworkStatusAnnot])
	}
	var addrs []netip.Addr
	for _, text := range status[i].IPs {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// rails gives the pod of each address. Two pods with one address fail the test.
func (l *lab) rails(pods map[string]corev1.Pod) map[netip.Addr]string {
	l.Helper()
	owner := map[netip.Addr]string{}
	for name, p := range pods {
		addrs, err := rail(p)
		if err != nil {
			l.Fatalf("pod %s: %v", name, err)
		}
		for _, a := range addrs {
			if other, taken := owner[a]; taken {
				l.Fatalf("%s and %s both have %s", other, name, a)
			}
			owner[a] = name
		}
	}
	return owner
}

// leasesAre waits until the leases of this namespace are just these, as the API shows them.
func (l *lab) leasesAre(want map[netip.Addr]string) {
	l.Helper()
	l.awaitIn(l.leasesIn, "the leases of "+l.ns, func(ctx context.Context) error {
		var blocks ipamv1alpha1.IPBlockList
		if err := l.client.List(ctx, &blocks); err != nil {
			return err
		}
		got := map[netip.Addr]string{}
		for _, b := range blocks.Items {
			for _, lease := range b.Status.Leases {
				if lease.Namespace != l.ns {
					continue
				}
				a, err := netip.ParseAddr(lease.Address)
				if err != nil {
					return err
				}
				got[a] = lease.Pod
			}
		}
		if !maps.Equal(got, want) {
			return fmt.Errorf("the API shows %v, the pods have %v", got, want)
		}
		return nil
	})
}

// everyoneHearsFrom pings all others from one pod of each node.
func (l *lab) everyoneHearsFrom(pods map[string]corev1.Pod) {
	l.Helper()
	done := map[string]bool{}
	for name, p := range pods {
		if done[p.Spec.NodeName] {
			continue
		}
		done[p.Spec.NodeName] = true
		var others []netip.Addr
		for a, owner := range l.rails(pods) {
			if owner != name {
				others = append(others, a)
			}
		}
		if err := l.ping(p, others...); err != nil {
			l.Error(err)
		}
	}
	if len(done) < 2 {
		l.Errorf("all pods are on one node: %v", done)
	}
}

// restarts is how often containers of a pod were started again.
func restarts(p corev1.Pod) int {
	n := 0
	for _, s := range p.Status.ContainerStatuses {
		n += int(s.RestartCount)
	}
	return n
}
