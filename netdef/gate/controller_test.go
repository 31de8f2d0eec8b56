// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/railyard-net/railyard/test/cluster"
)

// TestController runs it with the rights that it is installed with, on a real API server; the test is the kubelet.
func TestController(t *testing.T) {
	t.Parallel()
	api := cluster.NewAPI(t, "manifests/install")
	cfg, err := api.ServiceAccountConfig(t.Context(), cluster.AgentNamespace, cluster.ControllerServiceAccount)
	if err != nil {
		t.Fatal(err)
	}
	mayBeTwo := true
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Metrics: server.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: &mayBeTwo},
	})
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"app": "agent"}
	if err := Setup(t.Context(), mgr, Options{Mode: Boot, Namespace: cluster.AgentNamespace, Labels: labels}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	w := kubeletOf{t, api.Client()}
	w.register("n", Taint, "other")
	w.register("another", Taint)
	w.agent("n", labels)
	w.agent("another", map[string]string{"app": "another"})
	w.says("n", "boot-1", "run-1", corev1.ConditionFalse)
	w.says("another", "boot-1", "run-1", corev1.ConditionTrue)
	w.says("n", "boot-1", "run-1", corev1.ConditionTrue)
	w.becomes("n", []string{"other"}, "boot-1 run-1")
	w.boots("n", "boot-2") // and the pod's status is still the old one
	w.becomes("n", []string{"other", Taint}, "boot-1 run-1")
	w.says("n", "boot-2", "run-2", corev1.ConditionFalse)
	w.says("n", "boot-2", "run-2", corev1.ConditionTrue)
	w.becomes("n", []string{"other"}, "boot-2 run-2")
	w.becomes("another", []string{Taint}, "")
}

// kubeletOf writes what the kubelets of nodes do.
type kubeletOf struct {
	*testing.T
	api kubernetes.Interface
}

func (k kubeletOf) register(node string, taints ...string) {
	k.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}
	for _, key := range taints {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
	}
	if _, err := k.api.CoreV1().Nodes().Create(k.Context(), n, metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	k.boots(node, "boot-1")
}

func (k kubeletOf) boots(node, boot string) {
	k.Helper()
	n, err := k.api.CoreV1().Nodes().Get(k.Context(), node, metav1.GetOptions{})
	if err != nil {
		k.Fatal(err)
	}
	n.Status.NodeInfo.BootID = boot
	if _, err := k.api.CoreV1().Nodes().UpdateStatus(k.Context(), n, metav1.UpdateOptions{}); err != nil {
		k.Fatal(err)
	}
}

// agent creates a pod on the node, of its name.
func (k kubeletOf) agent(node string, labels map[string]string) {
	k.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: node, Labels: labels},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "agent", Image: "agent"}}},
	}
	if _, err := k.api.CoreV1().Pods(cluster.AgentNamespace).Create(k.Context(), p, metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
}

// says that the pod of a node is ready or not, in that run.
func (k kubeletOf) says(node, boot, run string, ready corev1.ConditionStatus) {
	k.Helper()
	k.boots(node, boot)
	pods := k.api.CoreV1().Pods(cluster.AgentNamespace)
	p, err := pods.Get(k.Context(), node, metav1.GetOptions{})
	if err != nil {
		k.Fatal(err)
	}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "agent", ContainerID: run}}
	if _, err := pods.UpdateStatus(k.Context(), p, metav1.UpdateOptions{}); err != nil {
		k.Fatal(err)
	}
}

func (k kubeletOf) becomes(node string, taints []string, note string) {
	k.Helper()
	cluster.Eventually(k.T, node+" has the taints "+fmt.Sprint(taints), func() error {
		n, err := k.api.CoreV1().Nodes().Get(k.Context(), node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		var keys []string
		for _, taint := range n.Spec.Taints {
			if taint.Key != corev1.TaintNodeNotReady { // an admission plugin sets it
				keys = append(keys, taint.Key)
			}
		}
		slices.Sort(keys)
		want := slices.Sorted(slices.Values(taints))
		if !slices.Equal(keys, want) || n.Annotations[Annotation] != note {
			return errors.New(fmt.Sprint("it has ", keys, " and ", n.Annotations))
		}
		return nil
	})
}
