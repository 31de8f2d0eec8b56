// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/railyard-net/railyard/plugins/device/config"
	"github.com/railyard-net/railyard/plugins/device/pool"
	"github.com/railyard-net/railyard/rdma/inventory"
	"github.com/railyard-net/railyard/rdma/ledger"
)

// state is the folder of what outlives the process and ends with the boot. Each file is an object with a version; a later version adds fields and keeps
// these, so that the version before reads it.
type state struct{ dir string }

const (
	recordsFile = "ledger.json"
	configFile  = "config.json"
	infoFile    = "device-info.json"
	version     = 1
)

type recordsJSON struct {
	Version int             `json:"version"`
	Records []ledger.Record `json:"records"`
}

type configJSON struct {
	Version int            `json:"version"`
	Sources config.Sources `json:"sources"`
}

type infoJSON struct {
	Version int      `json:"version"`
	Files   []string `json:"files"`
}

func (s state) load(name string, into any) error {
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(s.dir, name), err)
	}
	return nil
}

// save writes only what is new.
func (s state) save(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return replace(filepath.Join(s.dir, name), b)
}

func replace(path string, content []byte) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == string(content) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return renameio.WriteFile(path, content, 0o644)
}

func (s state) loadRecords() ([]ledger.Record, error) {
	var f recordsJSON
	err := s.load(recordsFile, &f)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f.Records, err
}

func (s state) saveRecords(r []ledger.Record) error {
	return s.save(recordsFile, recordsJSON{version, r})
}

func (s state) loadConfig() (config.Sources, error) {
	var f configJSON
	err := s.load(configFile, &f)
	return f.Sources, err
}

func (s state) saveConfig(c config.Sources) error { return s.save(configFile, configJSON{version, c}) }

// deviceInfo is a file of the device-info-spec 1.1.0, which Multus hands to the CNI plugin.
type deviceInfo struct {
	Type    string  `json:"type"`
	Version string  `json:"version"`
	PCI     pciInfo `json:"pci"`
}

type pciInfo struct {
	Address string `json:"pci-address"`
	PF      string `json:"pf-pci-address,omitempty"`
	RDMA    string `json:"rdma-device,omitempty"`
}

// writeDeviceInfo writes a file for each function that is offered, and removes those that it wrote before for functions that are gone. What it
// writes is listed first, so that after a crash it is known whose it is.
func (p *Plugin) writeDeviceInfo(built []pool.Resource, s inventory.Snapshot) error {
	if p.o.DevInfoDir == "" {
		return nil
	}
	files := map[string]deviceInfo{}
	for _, r := range built {
		for _, d := range r.Devices {
			n, ok := s.NIC(d.NIC())
			if !ok || d.ID != string(n.Addr) || !n.Addr.IsPCI() { // a slot; or what the spec has no type for
				continue
			}
			info := deviceInfo{Type: "pci", Version: "1.1.0", PCI: pciInfo{Address: string(n.Addr), RDMA: strings.Join(n.RDMANames(), ",")}}
			if n.Kind == inventory.Virtual {
				info.PCI.PF = string(n.PF)
			}
			name := strings.ReplaceAll(r.Name, "/", "-") + "-" + d.ID + "-device.json"
			if old, err := os.ReadFile(filepath.Join(p.o.DevInfoDir, name)); err == nil && info.PCI.RDMA == "" {
				var was deviceInfo // its RDMA device is in a pod: the name by which it went there stays
				if json.Unmarshal(old, &was) == nil && was.PCI.Address == info.PCI.Address {
					info.PCI.RDMA = was.PCI.RDMA
				}
			}
			files[name] = info
		}
	}
	var owned infoJSON
	if err := p.state.load(infoFile, &owned); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	names := owned.Files
	for name := range files {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	errs := []error{p.state.save(infoFile, infoJSON{version, names})}
	names = slices.DeleteFunc(names, func(name string) bool {
		path := filepath.Join(p.o.DevInfoDir, name)
		info, ok := files[name]
		if !ok {
			err := os.Remove(path)
			return err == nil || errors.Is(err, fs.ErrNotExist)
		}
		b, err := json.Marshal(info)
		if err == nil {
			err = replace(path, b)
		}
		errs = append(errs, err)
		return false
	})
	return errors.Join(append(errs, p.state.save(infoFile, infoJSON{version, names}))...)
}
