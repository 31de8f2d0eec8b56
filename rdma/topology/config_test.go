// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"syscall"
	"testing"
)

func TestParseConfig(t *testing.T) {
	known, absent := Presence(Present), ACS{Presence: Absent}
	isolated := ACS{known, 0x5f, 0x1d}
	full := configSpace(t, 6, options{"acs": "1d", "ats": "on"})
	patch := func(words ...uint32) []byte { // offsets and values
		b := bytes.Clone(full)
		for i := 0; i < len(words); i += 2 {
			binary.LittleEndian.PutUint32(b[words[i]:], words[i+1])
		}
		return b
	}
	for name, tt := range map[string]struct {
		config  []byte
		want    space
		wantErr string
	}{
		"downstream port":  {full, space{Downstream, isolated, ATS{known, true}}, ""},
		"root port":        {configSpace(t, 4, options{"acs": "0"}), space{RootPort, ACS{known, 0x5f, 0}, ATS{Presence: Absent}}, ""},
		"upstream port":    {configSpace(t, 5, options{}), space{Upstream, absent, ATS{Presence: Absent}}, ""},
		"bridge":           {configSpace(t, 7, options{}), space{Bridge, absent, ATS{Presence: Absent}}, ""},
		"ATS off":          {configSpace(t, 0, options{"ats": "off"}), space{Endpoint, absent, ATS{known, false}}, ""},
		"without list":     {patch(regStatus, 0), space{acs: absent, ats: ATS{Presence: Absent}}, ""},
		"conventional PCI": {patch(0x40, 0x01), space{acs: absent, ats: ATS{Presence: Absent}}, ""},
		"unprivileged":     {full[:64], space{}, ""},
		"cut in a list":    {full[:0x61], space{}, ""},
		"256 bytes":        {full[:256], space{Downstream, ACS{}, ATS{}}, ""},
		"cut before ATS":   {full[:0x150], space{Downstream, isolated, ATS{}}, ""},
		"cut in ACS":       {full[:0x14e], space{Downstream, ACS{}, ATS{}}, ""},
		"empty":            {nil, space{}, ""},
		"no extended ones": {patch(extended, 0), space{Downstream, absent, ATS{Presence: Absent}}, ""},
		"gone":             {bytes.Repeat([]byte{0xff}, 4096), space{}, "the function does not answer"},
		"circle":           {patch(0x40, 0x01|0x40<<8), space{}, "the list of capabilities runs in a circle"},
		"extended circle":  {patch(extended, 0x0001|1<<16|extended<<20), space{port: Downstream}, "the list of extended capabilities runs in a circle"},
		"points to header": {patch(regCapPtr, 0x10, 0x10, capExpress|6<<20), space{acs: absent, ats: ATS{Presence: Absent}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseConfig(bytes.NewReader(tt.config))
			if got != tt.want || (err == nil) != (tt.wantErr == "") || err != nil && err.Error() != tt.wantErr {
				t.Errorf("%+v, %v; want %+v, %s", got, err, tt.want, tt.wantErr)
			}
		})
	}
}

func TestParseConfigFails(t *testing.T) {
	broken := io.ReaderAt(readerAt(func([]byte, int64) (int, error) { return 0, syscall.EIO }))
	if got, err := parseConfig(broken); !errors.Is(err, syscall.EIO) || got != (space{}) {
		t.Errorf("%+v, %v; want nothing and EIO", got, err)
	}
}

type readerAt func([]byte, int64) (int, error)

func (r readerAt) ReadAt(b []byte, off int64) (int, error) { return r(b, off) }

// TestParseConfigReadsLittle keeps to what hardware is known to bear.
func TestParseConfigReadsLittle(t *testing.T) {
	full := bytes.NewReader(configSpace(t, 6, options{"acs": "1d", "ats": "on"}))
	wanted := map[int64]bool{0x00: true, 0x04: true, 0x34: true, 0x40: true, 0x60: true, 0x100: true, 0x148: true, 0x14c: true, 0x180: true, 0x184: true}
	_, err := parseConfig(readerAt(func(b []byte, off int64) (int, error) {
		// The word after the header of a capability is read with it.
		if !wanted[off] && off != 0x104 {
			t.Errorf("read at %#x, where nothing is that we need", off)
		}
		return full.ReadAt(b, off)
	}))
	if err != nil {
		t.Fatal(err)
	}
}

func TestACSRedirects(t *testing.T) {
	for name, tt := range map[string]struct {
		acs  ACS
		want bool
	}{
		"kernel's default":  {ACS{Present, 0x5f, 0x1d}, true},
		"requests alone":    {ACS{Present, 0x5f, 0x04}, true},
		"answers alone":     {ACS{Present, 0x5f, 0x08}, true},
		"validation alone":  {ACS{Present, 0x5f, 0x01}, false},
		"upstream alone":    {ACS{Present, 0x5f, 0x10}, false},
		"absent, not known": {ACS{Unknown, 0x5f, 0x1d}, false},
	} {
		if got := tt.acs.Redirects(); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// FuzzConfig holds whatever a function may answer to what parseConfig promises.
func FuzzConfig(f *testing.F) {
	full := configSpace(f, 6, options{"acs": "1d", "ats": "on"})
	for _, n := range []int{0, 3, 64, 256, 0x14e, len(full)} {
		f.Add(full[:n])
	}
	circle := bytes.Clone(full)
	binary.LittleEndian.PutUint32(circle[extended:], 0x0001|1<<16|extended<<20)
	f.Add(circle)
	f.Fuzz(func(t *testing.T, config []byte) {
		reads := 0
		got, err := parseConfig(readerAt(func(b []byte, off int64) (int, error) {
			reads++
			if off < 0 || off > configEnd-4 || off%4 != 0 || len(b) != 4 {
				t.Errorf("read of %d bytes at %#x", len(b), off)
			}
			return bytes.NewReader(config).ReadAt(b, off)
		}))
		if reads > 3+maxCap+1+2*maxExtended {
			t.Errorf("%d reads", reads)
		}
		if len(config) < 0x104 && (got.acs.Presence == Present || got.ats.Presence == Present) {
			t.Errorf("%+v of %d bytes", got, len(config))
		}
		if got.acs.Presence != Present && (got.acs.Supported != 0 || got.acs.Enabled != 0) || got.acs.Presence == Unknown && got.acs.Redirects() {
			t.Errorf("ACS is %+v", got.acs)
		}
		if again, err2 := parseConfig(bytes.NewReader(config)); again != got || (err == nil) != (err2 == nil) {
			t.Errorf("%+v, %v; then %+v, %v", got, err, again, err2)
		}
	})
}

func FuzzVPD(f *testing.F) {
	f.Add([]byte(vpd("serial")))
	f.Add([]byte("\x82\xff\xff"))
	f.Add([]byte("\x90\x03\x00V3\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		v := vpdKeyword(data, "V3")
		if !bytes.Contains(data, []byte(v)) || v != "" && !bytes.Contains(data, append([]byte{'V', '3', byte(len(v))}, v...)) {
			t.Errorf("%q is not in %q", v, data)
		}
	})
}

func TestVPDKeyword(t *testing.T) {
	for name, tt := range map[string]struct{ data, want string }{
		"whole":                {vpd("d1e2"), "d1e2"},
		"other keyword":        {"\x90\x05\x00PN\x02ab\x78", ""},
		"empty":                {"", ""},
		"after the end":        {"\x78" + vpd("d1e2"), ""},
		"small resource first": {"\x0a12" + vpd("d1e2"), "d1e2"},
		"longer than the data": {"\x90\xff\x00V3\x02ab", ""},
		"value too long":       {"\x90\x05\x00V3\x09ab\x78", ""},
		"header cut":           {"\x90\x05", ""},
	} {
		if got := vpdKeyword([]byte(tt.data), "V3"); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
