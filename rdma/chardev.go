// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"errors"
	"io/fs"
	"path"
	"strings"
)

// devDir is where udev and the kernel's devtmpfs put them (uverbs_devnode, umad_devnode, ucma_misc.nodename).
const devDir = "/dev/infiniband/"

// CharDevsOf returns the character devices of the device that has this name, in whichever namespace: sysfs does not hide those of
// a device that was moved away. A device that has none, or is not there, has empty ones.
func CharDevsOf(sys fs.FS, device string) (CharDevs, error) {
	files, err := charDevs(sys)
	return files.of(device), err
}

// charFiles has the character devices by the names of their devices.
type charFiles struct {
	cm                 string
	verbs, umads, isms map[string][]string
}

func (f charFiles) of(device string) CharDevs {
	c := CharDevs{CM: f.cm, UMAD: f.umads[device], ISSM: f.isms[device]}
	if verbs := f.verbs[device]; len(verbs) > 0 {
		c.Verbs = verbs[0]
	}
	return c
}

func charDevs(sys fs.FS) (charFiles, error) {
	var f charFiles
	var errs [4]error
	f.verbs, errs[0] = charClass(sys, "class/infiniband_verbs", "uverbs")
	f.umads, errs[1] = charClass(sys, "class/infiniband_mad", "umad")
	f.isms, errs[2] = charClass(sys, "class/infiniband_mad", "issm")
	if _, err := fs.Stat(sys, "class/misc/rdma_cm"); err == nil {
		f.cm = devDir + "rdma_cm"
	} else if !errors.Is(err, fs.ErrNotExist) {
		errs[3] = err
	}
	return f, errors.Join(errs[:]...)
}

// charClass reads a class. Beside the devices it holds files of its own, such as abi_version.
func charClass(sys fs.FS, class, prefix string) (map[string][]string, error) {
	names, err := list(sys, class)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // no module, no files: a map that is only read may be nil
	}
	if err != nil {
		return nil, err
	}
	files := map[string][]string{}
	var errs []error
	for _, name := range names {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		device, err := attribute(sys, path.Join(class, name, "ibdev"))
		switch {
		case err == nil:
			files[device] = append(files[device], devDir+name)
		case !absent(err):
			errs = append(errs, err)
		}
	}
	return files, errors.Join(errs...)
}
