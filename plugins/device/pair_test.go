// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/railyard-net/railyard/plugins/device/cdi"
	"github.com/railyard-net/railyard/plugins/device/config"
	"github.com/railyard-net/railyard/test/sysfs"
)

const (
	pairName = "railyard.dev/gpu-nic"
	numaName = "railyard.dev/gpu-nic-numa"
	gpuName  = "railyard.dev/gpu"
)

const pairYAML = `
version: v1
gpu: {}
pair:
  nics: {isRdma: true}
  inject: {env: [NCCL_IB_HCA]}
`

const dynamicYAML = pairYAML + "  accounting: dynamic\n"

// withoutVFs is the server with whole NICs to give away.
func withoutVFs(m *sysfs.Machine) {
	for _, vf := range []string{"VF0", "VF1", "VF2"} {
		m.At(vf).Gone = true
	}
}

func TestPairs(t *testing.T) {
	l := newLab(t, server)
	l.change(withoutVFs)
	l.sources = config.Sources{Railyard: []byte(pairYAML)}
	l.start()
	l.healthy(pairName, 2)
	l.healthy(numaName, 0)
	l.healthy(gpuName, 0) // all are in pairs
	nic := map[string]string{"0000:18:00.0": "GPU-0", "0000:88:00.0": "GPU-1"}
	for _, pod := range []string{"a", "b"} {
		got := l.admit(pod, map[string]int{pairName: 1})[pairName]
		id := got.IDs[0]
		if cdiNames(got) != "railyard.dev/gpu="+nic[id] || got.GetEnvs()["PCIDEVICE_RAILYARD_DEV_GPU_NIC"] != id || got.GetEnvs()["NCCL_IB_HCA"] == "" {
			t.Errorf("%s comes with %s and %v", id, cdiNames(got), got.GetEnvs())
		}
	}
	if _, err := l.kubelet.Admit(t.Context(), "default", "c", map[string]int{pairName: 1}); err == nil {
		t.Error("a third pair is given")
	}
	var spec cdi.Spec
	b, err := os.ReadFile(l.path("cdi", "railyard.dev-pair.json"))
	if err == nil {
		err = json.Unmarshal(b, &spec)
	}
	if err != nil || len(spec.Devices) != 2 || len(spec.Devices[0].ContainerEdits.DeviceNodes) != 3 {
		t.Errorf("the CDI spec of pairs: %v, %s", err, b)
	}
}

// Virtual functions are where their physical one is: a pair takes one, the rest stays in its pool.
func TestPairsOfVFs(t *testing.T) {
	l := newLab(t, server)
	l.sources = config.Sources{Railyard: []byte(pairYAML), SRIOV: []byte(sriovJSON)}
	l.start()
	l.healthy(pairName, 2)
	l.healthy(vfs, 2)
	if got := l.kubelet.Healthy(pairName); !slices.Equal(got, []string{"0000:18:00.1", "0000:88:00.0"}) {
		t.Errorf("pairs are %v", got)
	}
}

// A GPU that is far from every NIC is no pair of the first class.
func TestFarPairs(t *testing.T) {
	l := newLab(t, `
pci0000:10 numa=0
  0000:10:00.0 root
    0000:18:00.0 nic NIC0 speed=400000
pci0000:20 numa=0
  0000:20:00.0 root
    0000:2b:00.0 gpu GPU0
pci0000:80 numa=1
  0000:80:00.0 root
    0000:8b:00.0 gpu GPU1
`)
	l.sources = config.Sources{Railyard: []byte(pairYAML)}
	l.start()
	l.healthy(pairName, 0)
	l.healthy(numaName, 1)
	l.healthy(gpuName, 1) // the one without a NIC is of use all the same
	got := l.admit("a", map[string]int{numaName: 1})[numaName]
	if cdiNames(got) != "railyard.dev/gpu=GPU-0" {
		t.Errorf("the pair comes with %s", cdiNames(got))
	}
}

// With dynamic accounting hardware is offered under both names, and withdrawn under the other when it is given.
func TestDynamic(t *testing.T) {
	l := newLab(t, server)
	l.change(withoutVFs)
	l.sources = config.Sources{Railyard: []byte(dynamicYAML), Shared: []byte(sharedJSON)}
	l.start()
	l.healthy(pairName, 2)
	l.healthy(gpuName, 2)
	l.healthy("rdma/hca_shared", 6)
	got := l.admit("a", map[string]int{pairName: 1})[pairName].IDs[0]
	l.healthy(gpuName, 1)
	l.healthy("rdma/hca_shared", 3)
	l.admit("b", map[string]int{gpuName: 1})
	l.healthy(pairName, 1) // the one that pod a has
	if left := l.kubelet.Healthy(pairName); left[0] != got {
		t.Errorf("healthy is %v, want %s, which is in use", left, got)
	}
	l.restart()
	l.healthy(pairName, 1)
	l.healthy(gpuName, 1)
	l.end("a")
	l.healthy(gpuName, 2)
	l.healthy("rdma/hca_shared", 6)
	l.healthy(pairName, 1)
	l.end("b")
	l.healthy(pairName, 2)
	if err := l.plugin.ledger.Check(); err != nil {
		t.Error(err)
	}
}

// A pod keeps the GPU that it got with its NIC, though the hardware would be paired otherwise by now, across restarts too.
func TestPairInPodKeepsItsGPU(t *testing.T) {
	l := newLab(t, `
pci0000:10 numa=0
  0000:10:00.0 root
    0000:11:00.0 up
      0000:12:00.0 down
        0000:18:00.0 nic NIC0 speed=400000
      0000:12:01.0 down
        0000:1b:00.0 gpu GPU0
      0000:12:02.0 down
        0000:1c:00.0 gpu GPU1
      0000:12:03.0 down
        0000:1d:00.0 nic NIC1 speed=400000
`)
	l.change(func(m *sysfs.Machine) { m.At("GPU0").Gone = true })
	l.sources = config.Sources{Railyard: []byte(pairYAML)}
	l.start()
	l.healthy(pairName, 1)
	got := l.admit("a", map[string]int{pairName: 1})[pairName]
	if got.IDs[0] != "0000:18:00.0" || cdiNames(got) != "railyard.dev/gpu=GPU-1" {
		t.Fatalf("%v with %s", got.IDs, cdiNames(got))
	}
	// Now the first NIC would be with the first GPU.
	l.change(func(m *sysfs.Machine) { m.At("GPU0").Gone = false })
	l.healthy(pairName, 2)
	l.restart()
	l.healthy(pairName, 2)
	other := l.admit("b", map[string]int{pairName: 1})[pairName]
	if other.IDs[0] != "0000:1d:00.0" || cdiNames(other) != "railyard.dev/gpu=GPU-0" {
		t.Errorf("the second pod got %v with %s, want what the first has not", other.IDs, cdiNames(other))
	}
}

// The config takes a GPU from one resource to the other while a pod has it: it moves when the pod has ended.
func TestConfigMovesWhatIsInUse(t *testing.T) {
	l := newLab(t, server)
	l.change(withoutVFs)
	l.sources = config.Sources{Railyard: []byte("version: v1\ngpu: {}\n")}
	l.start()
	l.healthy(gpuName, 2)
	l.admit("a", map[string]int{gpuName: 1})
	l.set(config.Sources{Railyard: []byte(pairYAML)})
	l.healthy(pairName, 1)
	l.healthy(gpuName, 1)
	l.restart()
	l.healthy(pairName, 1)
	l.end("a")
	l.healthy(pairName, 2)
	l.healthy(gpuName, 0)
}
