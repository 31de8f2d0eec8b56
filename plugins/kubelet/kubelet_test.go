// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/railyard-net/railyard/plugins/cni"
	fake "github.com/railyard-net/railyard/test/podresources"
)

func start(t *testing.T) (k *fake.Kubelet, socket string) {
	t.Helper()
	k, socket = fake.New(), filepath.Join(t.TempDir(), "kubelet.sock")
	t.Cleanup(k.Stop)
	if err := errors.Join(
		k.Run("default", "a", map[string][]string{"example.com/nic": {"0000:3b:00.1", "mlx5_core.sf.4"}}),
		k.Run("kube-system", "static-node", nil),
		k.Start(socket),
	); err != nil {
		t.Fatal(err)
	}
	return k, socket
}

func TestRunning(t *testing.T) {
	k, socket := start(t)
	got, err := Running(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	want := cni.Running{
		Pods:    map[cni.PodName]bool{{Namespace: "default", Name: "a"}: true, {Namespace: "kube-system", Name: "static-node"}: true},
		Devices: map[string]bool{"0000:3b:00.1": true, "mlx5_core.sf.4": true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Running (-want +got):\n%s", diff)
	}

	devices, err := Devices(t.Context(), socket)
	a := Container{"default", "a", "main"}
	if diff := cmp.Diff(map[Device]Container{{"example.com/nic", "0000:3b:00.1"}: a, {"example.com/nic", "mlx5_core.sf.4"}: a}, devices); diff != "" || err != nil {
		t.Errorf("Devices: %v (-want +got):\n%s", err, diff)
	}

	k.End("default", "a")
	k.End("kube-system", "static-node")
	if _, err := Running(t.Context(), socket); !errors.Is(err, errNone) {
		t.Errorf("a kubelet that has no pods: %v", err)
	}
	k.Fail(errors.New("not today"))
	if _, err := Running(t.Context(), socket); err == nil || !strings.Contains(err.Error(), "not today") {
		t.Errorf("a kubelet that fails: %v", err)
	}
	k.Stop()
	if _, err := Running(t.Context(), socket); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a kubelet that has ended: %v", err)
	}
	if _, err := Running(t.Context(), socket+"x"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), socket) {
		t.Errorf("no kubelet: %v", err)
	}
}

func TestClaims(t *testing.T) {
	list := &podresources.ListPodResourcesResponse{PodResources: []*podresources.PodResources{{
		Namespace: "default", Name: "a", Containers: []*podresources.ContainerResources{{DynamicResources: []*podresources.DynamicResource{{
			ClaimResources: []*podresources.ClaimResource{{CdiDevices: []*podresources.CDIDevice{{Name: "example.com/nic=0000:3b:00.1"}}}, {DeviceName: "vf4"}},
		}}}},
	}}}
	if diff := cmp.Diff(map[string]bool{"0000:3b:00.1": true, "vf4": true}, read(list).Devices); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
}

const hiddenEnv = "RAILYARD_KUBELET_SOCKET_OF_ANOTHER"

// TestHidden asks from a PID namespace of its own, as a container does that does not have the host's.
func TestHidden(t *testing.T) {
	if socket := os.Getenv(hiddenEnv); socket != "" {
		_, err := Running(t.Context(), socket)
		fmt.Println(errors.Is(err, ErrHidden), err)
		return
	}
	_, socket := start(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestHidden$")
	cmd.Env = append(os.Environ(), hiddenEnv+"="+socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.HasPrefix(out, []byte("true ")) {
		t.Errorf("from another PID namespace: %v: %s", err, out)
	}
}
