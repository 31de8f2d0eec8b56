// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ConfigFS is where configfs is mounted as a rule.
const ConfigFS = "/sys/kernel/config"

// DefaultRoCEToS returns the type of service (the byte in the IP header) of connections that a program makes on the port through
// rdma_cm without asking for another. The kernel begins with 0. Errors are as for SetDefaultRoCEToS.
func DefaultRoCEToS(configfs, device string, port int) (uint8, error) {
	return kernelGroups(configfs).tos(device, port)
}

// SetDefaultRoCEToS sets it and returns what it was, to be set again later. It holds for the device in all namespaces and for
// connections made from then on, until the device is moved or its driver loaded anew. configfs is where that is mounted:
// ConfigFS.
//
// It is an ErrUnsupported if rdma_cm is not loaded, one that is an ErrNotMounted too if configfs is not mounted, and an ErrNotFound if
// there is no such device or port.
func SetDefaultRoCEToS(configfs, device string, port int, tos uint8) (old uint8, err error) {
	return kernelGroups(configfs).setToS(device, port, tos)
}

func tosFile(dir string, port int) string {
	return filepath.Join(dir, "ports", strconv.Itoa(port), "default_roce_tos")
}

func readToS(file string) (uint8, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 8)
	if err != nil {
		return 0, damaged(file, string(data), "a number up to 255")
	}
	return uint8(n), nil
}

// groups are the directories of rdma_cm in configfs. Making one is asking for a device's files, removing it is giving up on them;
// the values are the device's and stay (drivers/infiniband/core/cma_configfs.c).
type groups struct {
	dir           string
	mkdir, remove func(string) error
}

func kernelGroups(configfs string) groups {
	return groups{
		dir:    filepath.Join(configfs, "rdma_cm"),
		mkdir:  func(dir string) error { return os.Mkdir(dir, 0o755) },
		remove: os.Remove,
	}
}

func (g groups) tos(device string, port int) (tos uint8, err error) {
	err = g.with(device, func(dir string) (err error) {
		tos, err = readToS(tosFile(dir, port))
		return err
	})
	return tos, err
}

func (g groups) setToS(device string, port int, tos uint8) (old uint8, err error) {
	err = g.with(device, func(dir string) (err error) {
		file := tosFile(dir, port)
		if old, err = readToS(file); err != nil || old == tos {
			return err
		}
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(strconv.Itoa(int(tos)))
		return errors.Join(err, f.Close())
	})
	return old, err
}

// missing says why the directory of rdma_cm is not there.
func (g groups) missing() error {
	const magic = 0x62656570 // CONFIGFS_MAGIC in fs/configfs/mount.c
	mount := filepath.Dir(g.dir)
	var s unix.Statfs_t
	if err := unix.Statfs(mount, &s); err != nil || s.Type != magic {
		return fmt.Errorf("%w: %w at %s: mount it (mount -t configfs none %s)", ErrUnsupported, ErrNotMounted, mount, mount)
	}
	return fmt.Errorf("%w: %s is not there: load rdma_cm (modprobe rdma_cm)", ErrUnsupported, g.dir)
}

// groupAttempts is how often another process may remove the directory that it made while we use it.
const groupAttempts = 10

// with calls f with the directory of the device, and removes that afterwards if it was not there before.
func (g groups) with(device string, f func(dir string) error) error {
	if _, err := deviceDir(device); err != nil {
		return err
	}
	switch _, err := os.Stat(g.dir); {
	case errors.Is(err, fs.ErrNotExist):
		return g.missing()
	case err != nil:
		return err
	}
	dir := filepath.Join(g.dir, device)
	var err error
	for range groupAttempts {
		err = g.mkdir(dir)
		made := err == nil
		if err != nil && !errors.Is(err, fs.ErrExist) {
			if errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("rdma device %s: %w: %w", device, ErrNotFound, err)
			}
			return err
		}
		err = f(dir)
		if made {
			if removed := g.remove(dir); removed != nil && !errors.Is(removed, fs.ErrNotExist) {
				err = errors.Join(err, removed)
			}
		}
		if made || !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("rdma device %s: %w: %w", device, ErrNotFound, err)
	}
	return err
}
