// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package sysfs writes the /sys of machines that are not there, for tests of what reads one: PCI functions, network interfaces, RDMA devices and their character
// devices. It is simulated hardware: nothing behind it moves a packet.
//
// A drawing is that of rdma/topology/testdata: a line a function, indented below its bridge. What this package knows beside that:
//
//	0000:18:00.0 nic NIC0 numa=0 speed=400000 ib down nordma driver=none
//	0000:18:00.1 vf VF0 of=0000:18:00.0
//
// Interfaces are called as the function is, in small letters, and RDMA devices mlx5_0, mlx5_1, ... in the order of the lines.
package sysfs

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/railyard-net/railyard/rdma/gpu"

	"github.com/railyard-net/railyard/rdma"
)

// Machine is simulated hardware. Its fields may be changed, and take effect with the next Write.
type Machine struct {
	Functions []*Function
	roots     map[string]map[string]string // options of host bridges
	writes    int
}

// Function is a PCI function.
type Function struct {
	Addr, Kind, Name string
	Options          map[string]string
	// Away: its interface and RDMA device are in a pod's namespace. Gone: it was unplugged.
	Away, Gone bool

	place []string // from the host bridge down, with its own address
	rdma  int      // number of mlx5_N
}

// Draw reads a drawing.
func Draw(drawing string) (*Machine, error) {
	m := &Machine{roots: map[string]map[string]string{}}
	var stack []string
	devices := 0
	for line := range strings.Lines(drawing) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		depth := (len(line) - len(strings.TrimLeft(line, " "))) / 2
		if depth > len(stack) {
			return nil, fmt.Errorf("%q is indented too far", line)
		}
		stack = append(stack[:depth], fields[0])
		if depth == 0 {
			m.roots[fields[0]] = options(fields[1:])
			continue
		}
		if len(fields) < 2 {
			return nil, fmt.Errorf("%q does not say what it is", line)
		}
		f := &Function{Addr: fields[0], Kind: fields[1], place: slices.Clone(stack), Options: options(fields[2:])}
		if len(fields) > 2 && !strings.Contains(fields[2], "=") {
			f.Name = fields[2]
		}
		if f.isNIC() {
			f.rdma = devices
			devices++
		}
		m.Functions = append(m.Functions, f)
	}
	return m, nil
}

func options(words []string) map[string]string {
	o := map[string]string{}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		o[key] = value
	}
	return o
}

func (f *Function) isNIC() bool { return f.Kind == "nic" || f.Kind == "vf" }

func (f *Function) has(option string) bool { _, ok := f.Options[option]; return ok }

// At returns the function of that address or name. It panics if there is none: the test is wrong.
func (m *Machine) At(name string) *Function {
	for _, f := range m.Functions {
		if f.Addr == name || f.Name == name {
			return f
		}
	}
	panic("no function " + name + " in the drawing")
}

// GPUs are what a driver would list of the drawing's, with UUIDs GPU-0, GPU-1, ...
func (m *Machine) GPUs() gpu.Inventory {
	inv := gpu.Inventory{State: gpu.Ready, Driver: "simulated"}
	n := 0
	for _, f := range m.Functions {
		if f.Kind != "gpu" {
			continue
		}
		if !f.Gone {
			inv.GPUs = append(inv.GPUs, gpu.GPU{
				Addr: rdma.BusAddr(f.Addr), UUID: fmt.Sprintf("GPU-%d", n), Name: "Simulated GPU", Minor: n, Memory: 80 << 30, NUMA: -1,
				NVSwitch: 18, C2C: f.has("c2c"),
			})
		}
		n++
	}
	return inv
}

// Write writes the machine to DIR/sys, in one step for whoever reads there.
func (m *Machine) Write(dir string) error {
	m.writes++
	version := fmt.Sprintf("sys-%d-%d", os.Getpid(), m.writes)
	w := &writer{root: filepath.Join(dir, version)}
	w.dir("bus/pci/devices")
	for _, f := range m.Functions {
		if !f.Gone {
			m.function(w, f)
		}
	}
	if w.err != nil {
		return w.err
	}
	link := filepath.Join(dir, "sys")
	old, _ := os.Readlink(link)
	if err := os.Symlink(version, link+".new"); err != nil {
		return err
	}
	if err := os.Rename(link+".new", link); err != nil {
		return err
	}
	if old != "" {
		return os.RemoveAll(filepath.Join(dir, old))
	}
	return nil
}

type writer struct {
	root string
	err  error
}

func (w *writer) dir(name string) {
	if w.err == nil {
		w.err = os.MkdirAll(filepath.Join(w.root, name), 0o755)
	}
}

func (w *writer) file(name, content string) {
	w.dir(path.Dir(name))
	if w.err == nil {
		w.err = os.WriteFile(filepath.Join(w.root, name), []byte(content+"\n"), 0o644)
	}
}

func (w *writer) link(name, target string) {
	w.dir(path.Dir(name))
	if w.err == nil {
		w.err = os.Symlink(strings.Repeat("../", strings.Count(name, "/"))+target, filepath.Join(w.root, name))
	}
}

// ids are vendor, device and class.
func (f *Function) ids() (vendor, device, class string) {
	switch {
	case f.Kind == "vf" && f.has("ib"):
		return "0x15b3", "0x101e", "0x020700"
	case f.Kind == "vf":
		return "0x15b3", "0x101e", "0x020000"
	case f.Kind == "nic" && f.has("ib"):
		return "0x15b3", "0x1021", "0x020700"
	case f.Kind == "nic":
		return "0x15b3", "0x1021", "0x020000"
	case f.Kind == "dma": // the Data Direct function of a ConnectX-8
		return "0x15b3", "0x2100", "0x088000"
	case f.Kind == "gpu":
		return "0x10de", "0x2330", "0x030200"
	case slices.Contains([]string{"root", "up", "down", "pci"}, f.Kind):
		return "0x1000", "0xc030", "0x060400"
	}
	return "0x144d", "0xa80a", "0x010802"
}

func (m *Machine) function(w *writer, f *Function) {
	dir := path.Join(append([]string{"devices"}, f.place...)...)
	w.link("bus/pci/devices/"+f.Addr, dir)
	vendor, device, class := f.ids()
	w.file(dir+"/vendor", vendor)
	w.file(dir+"/device", device)
	w.file(dir+"/class", class)
	numa := "-1"
	for _, o := range []map[string]string{m.roots[f.place[0]], f.Options} {
		if n, ok := o["numa"]; ok {
			numa = n
		}
		if cpus, ok := o["cpus"]; ok {
			w.file(dir+"/local_cpulist", cpus)
			break
		}
	}
	w.file(dir+"/numa_node", numa)
	if group, ok := f.Options["group"]; ok {
		w.link(dir+"/iommu_group", "kernel/iommu_groups/"+group)
	}
	if card := f.Options["card"]; card != "" {
		fields := "V3" + string(rune(len(card))) + card
		w.file(dir+"/vpd", "\x90"+string([]byte{byte(len(fields)), 0})+fields+"\x78")
	}
	if !f.isNIC() {
		return
	}
	driver := f.Options["driver"]
	if driver == "" {
		driver = "mlx5_core"
	}
	if driver != "none" {
		w.link(dir+"/driver", "bus/pci/drivers/"+driver)
	}
	if of := f.Options["of"]; of != "" {
		pf := m.At(of)
		pfDir := path.Join(append([]string{"devices"}, pf.place...)...)
		w.link(dir+"/physfn", pfDir)
		w.link(pfDir+"/virtfn"+strconv.Itoa(m.index(f)), dir)
	}
	if driver == "mlx5_core" {
		f.network(w, dir)
	}
}

// index counts virtual functions.
func (m *Machine) index(vf *Function) int {
	n := 0
	for _, f := range m.Functions {
		if f == vf {
			break
		}
		if f.Options["of"] == vf.Options["of"] {
			n++
		}
	}
	return n
}

func (f *Function) network(w *writer, dir string) {
	kind, layer, state, carrier := "1", "Ethernet", "4: ACTIVE", "1"
	if f.has("ib") {
		kind, layer = "32", "InfiniBand"
	}
	if f.has("down") {
		state, carrier = "1: DOWN", "0"
	}
	if !f.Away {
		name := strings.ToLower(f.Name)
		net := path.Join(dir, "net", name)
		w.link("class/net/"+name, net)
		w.link(net+"/device", dir)
		w.file(net+"/type", kind)
		w.file(net+"/carrier", carrier)
		if speed := f.Options["speed"]; speed != "" {
			w.file(net+"/speed", speed)
		}
	}
	if f.has("nordma") {
		return
	}
	n := strconv.Itoa(f.rdma)
	w.dir("class/misc/rdma_cm")
	w.file("class/infiniband_verbs/uverbs"+n+"/ibdev", "mlx5_"+n)
	w.file("class/infiniband_mad/umad"+n+"/ibdev", "mlx5_"+n)
	w.file("class/infiniband_mad/issm"+n+"/ibdev", "mlx5_"+n)
	w.dir(dir + "/infiniband_verbs/uverbs" + n)
	if f.Away {
		return
	}
	ib := dir + "/infiniband/mlx5_" + n
	w.link("class/infiniband/mlx5_"+n, ib)
	w.link(ib+"/device", dir)
	w.file(ib+"/node_guid", fmt.Sprintf("b83f:d203:00aa:%04x", f.rdma))
	w.file(ib+"/ports/1/link_layer", layer)
	w.file(ib+"/ports/1/state", state)
	w.file(ib+"/ports/1/pkeys/0", "0xffff")
}
