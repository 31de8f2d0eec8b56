// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/railyard-net/railyard/rdma"
)

// machine is a sysfs that was built from a drawing, and the devices in it. A drawing has a line for each host bridge and function;
// what is below a line is indented further. A line is an address, a kind, a name for devices, and options:
//
//	pci0000:3a numa=1
//	  0000:3a:00.0 root
//	    0000:3b:00.0 nic mlx5_0 rail=0 speed=100000
//	    0000:3b:00.2 vf mlx5_2 of=0000:3b:00.0
//	  0000:3a:01.0 root acs=1d
//	    0000:3c:00.0 gpu GPU0 c2c link=x8@16/x16@32
type machine struct {
	sysfs
	gpus   []GPU
	nics   []NIC
	places map[rdma.BusAddr]string
}

// sysfs is a file system whose files may refuse to be read.
type sysfs map[string]*fstest.MapFile

// refuses is the content of a file that answers with an error.
func refuses(err syscall.Errno) string { return fmt.Sprintf("\x00%d", int(err)) }

func (s sysfs) file(name, content string) { s[name] = &fstest.MapFile{Data: []byte(content)} }

// link makes a link with a relative target, as the kernel does.
func (s sysfs) link(name, target string) {
	s[name] = &fstest.MapFile{Data: []byte(strings.Repeat("../", strings.Count(name, "/")) + target), Mode: fs.ModeSymlink}
}

func (s sysfs) ReadLink(name string) (string, error)       { return fstest.MapFS(s).ReadLink(name) }
func (s sysfs) Lstat(name string) (fs.FileInfo, error)     { return fstest.MapFS(s).Lstat(name) }
func (s sysfs) ReadDir(name string) ([]fs.DirEntry, error) { return fstest.MapFS(s).ReadDir(name) }
func (s sysfs) Open(name string) (fs.File, error) {
	f, err := fstest.MapFS(s).Open(name)
	if err != nil {
		return nil, err
	}
	if at, ok := f.(io.ReaderAt); ok {
		return attr{f, at, name}, nil
	}
	return f, nil
}

type attr struct {
	fs.File
	at   io.ReaderAt
	name string
}

func (a attr) Read(b []byte) (int, error) {
	n, err := a.File.Read(b)
	if refused := a.refusal(b[:n]); refused != nil {
		return 0, refused
	}
	return n, err
}

func (a attr) ReadAt(b []byte, off int64) (int, error) {
	var head [16]byte
	n, _ := a.at.ReadAt(head[:], 0)
	if refused := a.refusal(head[:n]); refused != nil {
		return 0, refused
	}
	return a.at.ReadAt(b, off)
}

func (a attr) refusal(head []byte) error {
	var errno int
	if n, _ := fmt.Sscanf(string(head), "\x00%d", &errno); n == 1 {
		return &fs.PathError{Op: "read", Path: a.name, Err: syscall.Errno(errno)}
	}
	return nil
}

// draw builds a machine.
func draw(t testing.TB, drawing string) *machine {
	t.Helper()
	m := &machine{sysfs: sysfs{}, places: map[rdma.BusAddr]string{}}
	type level struct {
		indent int
		place  string
		opts   options
	}
	var above []level
	for line := range strings.Lines(drawing) {
		line = strings.TrimRight(line, " \n")
		text := strings.TrimLeft(line, " ")
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		indent := len(line) - len(text)
		for len(above) > 0 && above[len(above)-1].indent >= indent {
			above = above[:len(above)-1]
		}
		words := strings.Fields(text)
		if len(above) == 0 {
			above = []level{{indent, path.Join("devices", words[0]), parseOptions(words[1:])}}
			continue
		}
		root, parent := above[0], above[len(above)-1]
		place := path.Join(parent.place, words[0])
		opts := parseOptions(words[2:])
		for _, inherited := range []string{"numa", "cpus"} {
			if opts[inherited] == "" {
				opts[inherited] = root.opts[inherited]
			}
		}
		m.function(t, place, words[1], opts)
		above = append(above, level{indent, place, opts})
	}
	return m
}

type options map[string]string

// parseOptions takes key=value and key alone; the first word without = is the name.
func parseOptions(words []string) options {
	o := options{}
	for i, w := range words {
		key, value, ok := strings.Cut(w, "=")
		if !ok && i == 0 {
			key, value = "name", w
		} else if !ok {
			value = "yes"
		}
		o[key] = value
	}
	return o
}

func (o options) number(t testing.TB, key string, absent int) int {
	t.Helper()
	if o[key] == "" {
		return absent
	}
	n, err := strconv.Atoi(o[key])
	if err != nil {
		t.Fatalf("%s=%s: %v", key, o[key], err)
	}
	return n
}

// kinds are vendor, device, class and PCI Express port type of what is drawn.
var kinds = map[string]struct {
	vendor, device, class string
	port                  uint32
}{
	"root":  {"0x8086", "0x347a", "0x060400", 4},
	"up":    {"0x1000", "0xc010", "0x060400", 5},
	"down":  {"0x1000", "0xc010", "0x060400", 6},
	"pci":   {"0x1a03", "0x1150", "0x060400", 7}, // a bridge to conventional PCI
	"gpu":   {"0x10de", "0x20b0", "0x030200", 0},
	"nic":   {"0x15b3", "0x101d", "0x020000", 0},
	"vf":    {"0x15b3", "0x101e", "0x020000", 0},
	"dma":   {"0x15b3", "0x2100", "0x080100", 0},
	"other": {"0x144d", "0xa80a", "0x010802", 0},
}

func (m *machine) function(t testing.TB, place, kind string, o options) {
	t.Helper()
	k, ok := kinds[kind]
	if !ok {
		t.Fatalf("%s: no such kind as %q", place, kind)
	}
	addr := rdma.BusAddr(path.Base(place))
	m.places[addr] = place
	m.sysfs[place] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	m.link(path.Join(devices, string(addr)), place)
	attrs := map[string]string{"vendor": k.vendor, "device": k.device, "class": k.class}
	if o["numa"] != "" {
		attrs["numa_node"] = o["numa"]
	}
	if o["cpus"] != "" {
		attrs["local_cpulist"] = o["cpus"]
	}
	if l := o["link"]; l != "" {
		var width, maxWidth int
		var rate, maxRate float64
		if _, err := fmt.Sscanf(l, "x%d@%f/x%d@%f", &width, &rate, &maxWidth, &maxRate); err != nil {
			t.Fatalf("link=%s: %v", l, err)
		}
		attrs["current_link_width"], attrs["max_link_width"] = fmt.Sprint(width), fmt.Sprint(maxWidth)
		attrs["current_link_speed"], attrs["max_link_speed"] = fmt.Sprintf("%.1f GT/s PCIe", rate), fmt.Sprintf("%.1f GT/s PCIe", maxRate)
	}
	for name, content := range attrs {
		m.file(path.Join(place, name), content+"\n")
	}
	if g := o["group"]; g != "" {
		m.link(path.Join(place, "iommu_group"), "kernel/iommu_groups/"+g)
	}
	if pf := o["of"]; pf != "" {
		m.link(path.Join(place, "physfn"), m.places[rdma.BusAddr(pf)])
	}
	if o["card"] != "" {
		m.file(path.Join(place, "vpd"), vpd(o["card"]))
	}
	space := configSpace(t, k.port, o)
	m.file(path.Join(place, "config"), string(space[:o.number(t, "config", len(space))]))
	switch kind {
	case "gpu":
		m.gpus = append(m.gpus, GPU{addr, o["name"], o.number(t, "rail", len(m.gpus)), o["c2c"] != ""})
	case "nic", "vf":
		m.nics = append(m.nics, NIC{addr, o["name"], o.number(t, "rail", NoRail), int64(o.number(t, "speed", 0))})
	}
}

// configSpace has a PCI Express capability behind one of another kind, and extended ones after it.
func configSpace(t testing.TB, port uint32, o options) []byte {
	t.Helper()
	b := make([]byte, configEnd)
	word := func(at int, v uint32) { binary.LittleEndian.PutUint32(b[at:], v) }
	word(regVendor, 0x101d15b3)
	word(regStatus, hasCapList)
	word(regCapPtr, 0x40)
	word(0x40, 0x01|0x60<<8) // power management
	word(0x60, capExpress|(2|port<<4)<<16)
	word(extended, 0x0001|1<<16|0x148<<20) // advanced error reporting
	next := uint32(0)
	if o["ats"] != "" {
		word(0x180, extATS|1<<16)
		if o["ats"] == "on" {
			word(0x184, atsEnable)
		}
		next = 0x180
	}
	word(0x148, 0x000b|1<<16|next<<20) // vendor specific
	if o["acs"] != "" {
		control, err := strconv.ParseUint(o["acs"], 16, 16)
		if err != nil {
			t.Fatalf("acs=%s: %v", o["acs"], err)
		}
		word(0x148, extACS|1<<16|next<<20)
		word(0x14c, 0x5f|uint32(control)<<16)
	}
	return b
}

// vpd has a name, then a part number and the keyword V3.
func vpd(card string) string {
	name := "ConnectX-8"
	fields := "PN\x04abcd" + "V3" + string(rune(len(card))) + card
	return "\x82" + string([]byte{byte(len(name)), 0}) + name + "\x90" + string([]byte{byte(len(fields)), 0}) + fields + "\x78"
}

// read reads the machine, which must be whole.
func (m *machine) read(t testing.TB) *Tree {
	t.Helper()
	tree, err := Read(m)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func (m *machine) named(t testing.TB, name string) (gpu *GPU, nic *NIC) {
	t.Helper()
	for i := range m.gpus {
		if m.gpus[i].Name == name {
			return &m.gpus[i], nil
		}
	}
	for i := range m.nics {
		if m.nics[i].Name == name {
			return nil, &m.nics[i]
		}
	}
	t.Fatalf("the machine has no %s", name)
	return nil, nil
}
