//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const pciDevices = "/sys/bus/pci/devices"

// adapter is a PCI function that is an InfiniBand adapter of the module ryfab. Its interface is IPoIB's.
type adapter struct {
	host     *space
	pci, dir string
}

// newAdapter makes one of the machine's second NIC, until the test ends.
func newAdapter(t testing.TB) adapter {
	t.Helper()
	n := nics(t)[1]
	quiet(t)
	t.Cleanup(func() { // the NIC's own driver again
		drive(t, n.pci, "")
		must(t, theOnly(filepath.Join(n.dir, "net"), &n.name))
	})
	return infiniBand(t, n.host, n.pci)
}

// infiniBand makes an adapter of a PCI function.
func infiniBand(t testing.TB, host *space, pci string) adapter {
	t.Helper()
	drive(t, pci, "ryfab")
	return adapter{host, pci, filepath.Join(pciDevices, pci)}
}

// drive takes a PCI function from its driver and gives it the named one, or if there is no name the one that claims it.
func drive(t testing.TB, pci, driver string) {
	t.Helper()
	dir := filepath.Join(pciDevices, pci)
	if _, err := os.Stat(filepath.Join(dir, "driver")); err == nil {
		must(t, os.WriteFile(filepath.Join(dir, "driver/unbind"), []byte(pci), 0))
	}
	must(t, os.WriteFile(filepath.Join(dir, "driver_override"), []byte(driver+"\n"), 0))
	must(t, os.WriteFile("/sys/bus/pci/drivers_probe", []byte(pci), 0))
}

// theOnly gives the one name that a folder has.
func theOnly(dir string, name *string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) != 1 {
		return fmt.Errorf("%s has %d entries, want 1", dir, len(entries))
	}
	*name = entries[0].Name()
	return nil
}

// link is the adapter's interface, as long as it is in the machine's namespace. Each move of the RDMA device makes it anew.
func (a adapter) link(t testing.TB) (name string) {
	t.Helper()
	must(t, theOnly(filepath.Join(a.dir, "net"), &name))
	return name
}

// rdma is the adapter's RDMA device.
func (a adapter) rdma(t testing.TB) (name string) {
	t.Helper()
	must(t, theOnly(filepath.Join(a.dir, "infiniband"), &name))
	return name
}

// virtual gives the adapter virtual functions without a driver, until the test ends.
func (a adapter) virtual(t testing.TB, count int) []string {
	t.Helper()
	probe := filepath.Join(a.dir, "sriov_drivers_autoprobe")
	must(t, os.WriteFile(probe, []byte("0"), 0))
	t.Cleanup(func() {
		must(t, os.WriteFile(filepath.Join(a.dir, "sriov_numvfs"), []byte("0"), 0))
		must(t, os.WriteFile(probe, []byte("1"), 0))
	})
	must(t, os.WriteFile(filepath.Join(a.dir, "sriov_numvfs"), []byte(strconv.Itoa(count)), 0))
	var out []string
	for i := range count {
		dir, err := filepath.EvalSymlinks(filepath.Join(a.dir, fmt.Sprint("virtfn", i)))
		must(t, err)
		out = append(out, filepath.Base(dir))
	}
	return out
}

// subfunctions are auxiliary devices, each with an Ethernet interface and an RDMA device, until the test ends.
func (a adapter) subfunctions(t testing.TB, count int) []string {
	t.Helper()
	file := filepath.Join(a.dir, "sf_num")
	t.Cleanup(func() { must(t, os.WriteFile(file, []byte("0"), 0)) })
	must(t, os.WriteFile(file, []byte(strconv.Itoa(count)), 0))
	found, err := filepath.Glob(filepath.Join(a.dir, "ryfab.sf.*"))
	must(t, err)
	if len(found) != count {
		t.Fatalf("%s has %d subfunctions, want %d", a.pci, len(found), count)
	}
	for i := range found {
		found[i] = filepath.Base(found[i])
	}
	return found
}

func modprobe(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("modprobe", args...).CombinedOutput(); err != nil {
		t.Fatalf("modprobe %v: %v\n%s", args, err, out)
	}
}

// quiet makes sure that the kernel has warned of nothing when the test has ended.
func quiet(t testing.TB) {
	t.Helper()
	count := func() string {
		text, err := os.ReadFile("/sys/kernel/warn_count")
		must(t, err)
		return strings.TrimSpace(string(text))
	}
	before := count()
	t.Cleanup(func() {
		if after := count(); after != before {
			log, err := exec.Command("dmesg").Output()
			t.Errorf("the kernel has warned of something (%s, before %s): %s %v", after, before, log, err)
		}
	})
}
