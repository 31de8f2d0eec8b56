//go:build e2e

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/test/cluster"
	"github.com/railyard-net/railyard/test/cluster/image"
)

// simulated is a server with two sockets. The kernel of the machines knows none of it: what pods get are null devices by the names of real ones, and the library of
// NVIDIA's driver is one of ours (test/sysfs/nvml). The kubelet, containerd, CDI and the plugin are real.
const simulated = `
pci0000:10 numa=0
  0000:10:00.0 root
    0000:11:00.0 up
      0000:12:00.0 down
        0000:18:00.0 nic NIC0 speed=400000
        0000:18:00.1 vf VF0 of=0000:18:00.0
        0000:18:00.2 vf VF1 of=0000:18:00.0
        0000:18:00.3 vf VF2 of=0000:18:00.0
      0000:12:01.0 down
        0000:1b:00.0 gpu GPU0
pci0000:80 numa=1
  0000:80:00.0 root
    0000:81:00.0 up
      0000:82:00.0 down
        0000:88:00.0 nic NIC1 speed=400000
      0000:82:01.0 down
        0000:8b:00.0 gpu GPU1
pci0000:a0 numa=1
  0000:a0:00.0 root
    0000:ab:00.0 gpu GPU2
`

const devicesConfig = `
version: v1
shared: {configList: [{resourceName: hca, rdmaHcaMax: 4, selectors: {ifNames: [nic0]}}]}
sriov: {resourceList: [{resourceName: vfs, resourcePrefix: railyard.dev, selectors: {pfNames: [nic0]}}]}
gpu: {}
pair: {numaResourceName: "", nics: {isRdma: true}, inject: {env: [NCCL_IB_HCA]}}
`

// offered is what the config makes of the machine: two pairs, of which one takes a virtual function, and the GPU that has no NIC.
func offered() map[corev1.ResourceName]int64 {
	return map[corev1.ResourceName]int64{"railyard.dev/gpu-nic": 2, "railyard.dev/gpu": 1, "railyard.dev/vfs": 2, "rdma/hca": 4}
}

// TestDevices: the real kubelet gives pods what the plugin offers, and whoever is restarted, kubelet or plugin, with pods running, it stays as it was.
func TestDevices(t *testing.T) {
	l := newLab(t)
	l.devicePlugin()
	l.allocatable(offered())
	first := l.deviceUser("first", "railyard.dev/gpu-nic")
	same := func(when string) {
		t.Helper()
		l.allocatable(offered())
		if again := l.look("first"); again != first {
			t.Errorf("%s the first pod has\n%s\nand had\n%s", when, again, first)
		}
	}
	l.restartPlugin()
	same("after a restart of the plugin")
	if err := l.keeper.Program(l.nodes[0], "kill", "kubelet"); err != nil {
		t.Fatal(err)
	}
	same("after a restart of the kubelet")
	second := l.deviceUser("second", "railyard.dev/gpu-nic")
	seen := map[string]bool{}
	pairs := map[string]string{"PCIDEVICE_RAILYARD_DEV_GPU_NIC=0000:18:00.1": "/dev/nvidia0", "PCIDEVICE_RAILYARD_DEV_GPU_NIC=0000:88:00.0": "/dev/nvidia1"}
	others := map[string]string{"/dev/nvidia0": "/dev/nvidia1", "/dev/nvidia1": "/dev/nvidia0"}
	for _, pod := range []string{first, second} {
		lines := strings.Split(pod, "\n")
		for want, gpu := range pairs {
			if slices.Contains(lines, want) {
				seen[want] = true
				if !slices.Contains(lines, gpu) || slices.Contains(lines, others[gpu]) || !strings.Contains(pod, "NCCL_IB_HCA==mlx5_") || strings.Count(pod, "\n/dev/infiniband/uverbs") != 1 {
					t.Errorf("a pod with %s has\n%s", want, pod)
				}
			}
		}
	}
	if len(seen) != 2 {
		t.Errorf("two pods have one pair:\n%s\n%s", first, second)
	}
	l.refused("third", "railyard.dev/gpu-nic")
	if vf := l.deviceUser("vf", "railyard.dev/vfs"); strings.Count(vf, "\n/dev/infiniband/uverbs") != 1 || !strings.Contains(vf, "PCIDEVICE_RAILYARD_DEV_VFS=0000:18:00.") {
		t.Errorf("a pod with a virtual function has\n%s", vf)
	}
	if gpu := l.deviceUser("gpu", "railyard.dev/gpu"); !strings.Contains(gpu, "/dev/nvidia2") || strings.Contains(gpu, "/dev/infiniband") {
		t.Errorf("a pod with a GPU has\n%s", gpu)
	}
	if hca := l.deviceUser("hca", "rdma/hca"); !strings.Contains(hca, "/dev/infiniband/uverbs0") || strings.Contains(hca, "umad") || strings.Contains(hca, "uverbs1") {
		t.Errorf("a pod with a slot has\n%s", hca)
	}
	l.restartPlugin()
	if err := l.keeper.Program(l.nodes[0], "kill", "kubelet"); err != nil {
		t.Fatal(err)
	}
	same("after both, with pods everywhere,")
}

// buildLibrary compiles what stands in for NVIDIA's.
func (l *lab) buildLibrary() []byte {
	l.Helper()
	file := filepath.Join(l.TempDir(), "libnvidia-ml.so.1")
	if out, err := exec.CommandContext(l.Context(), "gcc", "-O1", "-shared", "-fPIC", "-o", file, "../sysfs/nvml/nvml.c", "-ldl").CombinedOutput(); err != nil {
		l.Fatalf("compile the simulated NVML: %v\n%s", err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		l.Fatal(err)
	}
	return b
}

// devicePlugin runs a plugin on the first node, on simulated hardware.
func (l *lab) devicePlugin() {
	l.Helper()
	l.create(&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "hardware", Namespace: l.ns},
		Data:       map[string]string{"drawing": simulated, "config.yaml": devicesConfig}, BinaryData: map[string][]byte{"libnvidia-ml.so.1": l.buildLibrary()},
	})
	var agents appsv1.DaemonSet
	if err := l.client.Get(l.Context(), client.ObjectKey{Namespace: cluster.AgentNamespace, Name: "railyard-agent"}, &agents); err != nil {
		l.Fatal(err)
	}
	l.create(l.pluginPod(agents.Spec.Template.Spec.Containers[0].Image))
	l.Cleanup(func() { l.allocatable(map[corev1.ResourceName]int64{"railyard.dev/gpu-nic": 0}) })
	l.Cleanup(l.deleteNamespace)
}

func (l *lab) pluginPod(railyard string) *corev1.Pod {
	const sim = "/var/lib/railyard-simulated"
	root, grace := int64(0), int64(1)
	dirs := map[string]string{
		"sim": sim, "plugins": "/var/lib/kubelet/device-plugins", "pods": "/var/lib/kubelet/pod-resources", "cdi": "/etc/cdi", // where the plugin of the installation does not write
		"info": "/var/run/k8s.cni.cncf.io/devinfo/dp", "state": "/run/railyard/devices-" + l.ns,
	}
	kind := corev1.HostPathDirectoryOrCreate
	spec := corev1.PodSpec{
		NodeSelector: map[string]string{corev1.LabelHostname: l.nodes[0]}, HostPID: true, TerminationGracePeriodSeconds: &grace,
		Volumes: []corev1.Volume{{Name: "from", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "hardware"}}}}},
	}
	mounts := []corev1.VolumeMount{{Name: "from", MountPath: "/from"}}
	for name, dir := range dirs {
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir, Type: &kind}}})
		mounts = append(mounts, corev1.VolumeMount{Name: name, MountPath: dir})
	}
	user := &corev1.SecurityContext{RunAsUser: &root}
	spec.InitContainers = []corev1.Container{{Name: "hardware", Image: image.PodImage, Args: []string{"simulate", sim, "/from"}, SecurityContext: user, VolumeMounts: mounts}}
	spec.Containers = []corev1.Container{{
		Name: "plugin", Image: railyard, Command: []string{"/usr/local/bin/railyard-device-plugin"}, SecurityContext: user, VolumeMounts: mounts,
		Args: []string{
			"--config=/from/config.yaml", "--sys-root=" + sim + "/sys", "--dev-root=" + sim, "--driver-root=" + sim + "/driver",
			"--state-dir=" + dirs["state"], "--cdi-dir=" + dirs["cdi"], "--metrics-address=", "--log-format=text",
		},
	}}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "plugin", Namespace: l.ns, Labels: map[string]string{"app": "plugin"}}, Spec: spec}
}

// restartPlugin kills the plugin without a word before, and starts another.
func (l *lab) restartPlugin() {
	l.Helper()
	var p corev1.Pod
	key := client.ObjectKey{Namespace: l.ns, Name: "plugin"}
	if err := l.client.Get(l.Context(), key, &p); err != nil {
		l.Fatal(err)
	}
	if err := l.client.Delete(l.Context(), &p, client.GracePeriodSeconds(0)); err != nil {
		l.Fatal(err)
	}
	l.await("the plugin's pod is gone", func(ctx context.Context) error {
		err := l.client.Get(ctx, key, &p)
		if err == nil {
			return errors.New("it is there")
		}
		return client.IgnoreNotFound(err)
	})
	l.create(l.pluginPod(p.Spec.Containers[0].Image))
}

// allocatable waits until the first node says so, and the plugin runs if there is anything.
func (l *lab) allocatable(want map[corev1.ResourceName]int64) {
	l.Helper()
	l.await(fmt.Sprintf("allocatable is %v", want), func(ctx context.Context) error {
		var n corev1.Node
		if err := l.client.Get(ctx, client.ObjectKey{Name: l.nodes[0]}, &n); err != nil {
			return err
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
				return fmt.Errorf("the node is not ready: %s", c.Message)
			}
		}
		for name, value := range want {
			if q := n.Status.Allocatable[name]; q.Value() != value {
				return fmt.Errorf("%s is %d", name, q.Value())
			}
		}
		return nil
	})
}

// deviceUser runs a pod with one device of a resource, and returns what it sees.
func (l *lab) deviceUser(name, want string) string {
	l.Helper()
	l.create(l.userPod(name, want))
	l.await("pod "+name+" runs", func(ctx context.Context) error {
		var p corev1.Pod
		if err := l.client.Get(ctx, client.ObjectKey{Namespace: l.ns, Name: name}, &p); err != nil {
			return err
		}
		if p.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("it is %s: %s %+v", p.Status.Phase, p.Status.Message, p.Status.Conditions)
		}
		return nil
	})
	return l.look(name)
}

func (l *lab) userPod(name, want string) *corev1.Pod {
	t := template(name)
	t.Name, t.Namespace, t.Annotations = name, l.ns, nil
	t.Spec.NodeSelector = map[string]string{corev1.LabelHostname: l.nodes[0]}
	t.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceName(want): resource.MustParse("1")}
	return &corev1.Pod{ObjectMeta: t.ObjectMeta, Spec: t.Spec}
}

// refused creates a pod for which there is no device, and waits until the scheduler says so.
func (l *lab) refused(name, want string) {
	l.Helper()
	l.create(l.userPod(name, want))
	l.await("pod "+name+" finds no node", func(ctx context.Context) error {
		var p corev1.Pod
		if err := l.client.Get(ctx, client.ObjectKey{Namespace: l.ns, Name: name}, &p); err != nil {
			return err
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && strings.Contains(c.Message, want) {
				return nil
			}
		}
		return fmt.Errorf("it is %s on %q", p.Status.Phase, p.Spec.NodeName)
	})
}

// look is what a pod has: its environment and its device files.
func (l *lab) look(name string) string {
	l.Helper()
	var text string
	l.await("pod "+name+" says what it has", func(ctx context.Context) error {
		out, err := kubectl(ctx, "-n", l.ns, "exec", name, "--", "/pod", "look").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		text = string(out)
		return nil
	})
	return text
}
