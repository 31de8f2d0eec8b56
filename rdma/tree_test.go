// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"testing/fstest"
)

// tree is a sysfs. Its files may refuse to be read.
type tree fstest.MapFS

// refuses is the content of a file that answers with an error.
func refuses(err syscall.Errno) string { return fmt.Sprintf("\x00%d", int(err)) }

func (t tree) file(name, content string) { t[name] = &fstest.MapFile{Data: []byte(content)} }

func (t tree) files(dir string, contents map[string]string) {
	for name, content := range contents {
		t.file(path.Join(dir, name), content)
	}
}

func (t tree) mkdir(name string) { t[name] = &fstest.MapFile{Mode: fs.ModeDir | 0o755} }

// link makes a link with a relative target, as the kernel does.
func (t tree) link(name, target string) {
	up := strings.Repeat("../", strings.Count(name, "/"))
	t[name] = &fstest.MapFile{Data: []byte(up + target), Mode: fs.ModeSymlink}
}

func (t tree) ReadLink(name string) (string, error)   { return fstest.MapFS(t).ReadLink(name) }
func (t tree) Lstat(name string) (fs.FileInfo, error) { return fstest.MapFS(t).Lstat(name) }
func (t tree) Open(name string) (fs.File, error) {
	f, err := fstest.MapFS(t).Open(name)
	if err != nil {
		return nil, err
	}
	if s, err := f.Stat(); err == nil && !s.IsDir() {
		return attr{f, name}, nil
	}
	return f, nil
}

type attr struct {
	fs.File
	name string
}

func (a attr) Read(b []byte) (int, error) {
	n, err := a.File.Read(b)
	var errno int
	if _, scanErr := fmt.Sscanf(string(b[:n]), "\x00%d", &errno); scanErr == nil {
		return 0, &fs.PathError{Op: "read", Path: a.name, Err: syscall.Errno(errno)}
	}
	return n, err
}

// function adds a piece of hardware at a place below devices; the last part of that is its address.
func (t tree) function(place, numa string) {
	t.mkdir(place)
	bus := "pci"
	if !BusAddr(path.Base(place)).IsPCI() {
		bus = "auxiliary"
	}
	t.link(path.Join("bus", bus, "devices", path.Base(place)), place)
	if numa != "" {
		t.file(path.Join(place, "numa_node"), numa+"\n")
	}
}

// netdev adds an interface, on hardware or (place is empty) on none.
func (t tree) netdev(place, name string, devPort int) {
	dir := "devices/virtual/net/" + name
	if place != "" {
		dir = path.Join(place, "net", name)
		t.link(path.Join(dir, "device"), place)
	}
	t.link("class/net/"+name, dir)
	t.file(path.Join(dir, "dev_port"), fmt.Sprintf("%d\n", devPort))
}

// rdma adds an RDMA device, on hardware or (place is empty) on none.
func (t tree) rdma(place, name, guid string) (dir string) {
	dir = "devices/virtual/infiniband/" + name
	if place != "" {
		dir = path.Join(place, "infiniband", name)
		t.link(path.Join(dir, "device"), place)
	}
	t.link("class/infiniband/"+name, dir)
	t.file(path.Join(dir, "node_guid"), guid+"\n")
	return dir
}

// port adds a port with a table of GIDs. Those not given are empty.
func (t tree) port(dir string, number int, layer LinkLayer, state string, size int, gids map[int][3]string) {
	dir = fmt.Sprintf("%s/ports/%d", dir, number)
	t.files(dir, map[string]string{"link_layer": string(layer) + "\n", "state": state + "\n"})
	for i := range size {
		g, ok := gids[i]
		if !ok {
			g = [3]string{"0000:0000:0000:0000:0000:0000:0000:0000", refuses(syscall.EINVAL), refuses(syscall.EINVAL)}
		}
		for at, name := range []string{"gids", "gid_attrs/types", "gid_attrs/ndevs"} {
			t.file(fmt.Sprintf("%s/%s/%d", dir, name, i), g[at]+"\n")
		}
	}
}

// chars adds the character devices of a device with so many ports.
func (t tree) chars(name string, number, ports int) {
	t.file("class/infiniband_verbs/abi_version", "6\n")
	t.file("class/infiniband_mad/abi_version", "5\n")
	t.mkdir("class/misc/rdma_cm")
	t.file(fmt.Sprintf("class/infiniband_verbs/uverbs%d/ibdev", number), name+"\n")
	for i := range ports {
		for _, kind := range []string{"umad", "issm"} {
			t.file(fmt.Sprintf("class/infiniband_mad/%s%d/ibdev", kind, number+i), name+"\n")
		}
	}
}

const (
	pf0 = "devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0"
	pf1 = "devices/pci0000:3a/0000:3a:00.0/0000:3b:00.1"
	vf0 = "devices/pci0000:3a/0000:3a:00.0/0000:3b:00.2"

	active = "4: ACTIVE"
	down   = "1: DOWN"

	v1, v2 = string(RoCEv1), string(RoCEv2)
)

// card adds a two-port card: its physical functions, RoCE both, and a virtual one. The names are those of the two.
func (t tree) card(names [2]string) {
	for i, place := range []string{pf0, pf1} {
		netdev := fmt.Sprintf("ens1f%dnp%d", i, i)
		t.function(place, "1")
		t.netdev(place, netdev, 0)
		t.netdev(place, fmt.Sprintf("eth_rep%d", i), 0) // a representor
		dir := t.rdma(place, names[i], fmt.Sprintf("b83f:d203:00aa:bb0%d", i))
		t.port(dir, 1, Ethernet, active, 16, map[int][3]string{
			0: {"fe80:0000:0000:0000:ba3f:d2ff:feaa:bb00", v1, netdev},
			1: {"fe80:0000:0000:0000:ba3f:d2ff:feaa:bb00", v2, netdev},
			4: {fmt.Sprintf("0000:0000:0000:0000:0000:ffff:0a00:000%d", i+1), v1, netdev},
			5: {fmt.Sprintf("0000:0000:0000:0000:0000:ffff:0a00:000%d", i+1), v2, netdev},
			7: {"fd00:0000:0000:0000:0000:0000:0000:0001", v2, "net1"},
		})
		t.chars(names[i], i, 1)
	}
	t.function(vf0, "1")
	t.netdev(vf0, "ens1f0v0", 0)
	t.link(vf0+"/physfn", pf0)
	t.link(pf0+"/virtfn0", vf0)
	dir := t.rdma(vf0, "mlx5_2", "0000:0000:0000:0000")
	// The interface of the port is in a pod.
	t.port(dir, 1, Ethernet, down, 4, map[int][3]string{0: {"fe80:0000:0000:0000:0000:00ff:fe00:0001", v1, "net1"}})
	t.chars("mlx5_2", 2, 1)
}

// port1 is a device's only port.
func port1(layer LinkLayer, state PortState, netdevs ...string) []Port {
	return []Port{{Number: 1, LinkLayer: layer, State: state, NetDevs: netdevs}}
}

func chars(number int) CharDevs {
	n := fmt.Sprint(number)
	return CharDevs{
		Verbs: "/dev/infiniband/uverbs" + n, CM: "/dev/infiniband/rdma_cm",
		UMAD: []string{"/dev/infiniband/umad" + n}, ISSM: []string{"/dev/infiniband/issm" + n},
	}
}
