// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// rdmaCM is configfs as rdma_cm has it: making a device's directory fills it, and the value outlives it.
type rdmaCM struct {
	groups
	tos    map[string]string
	mkdirs int
}

func newRDMACM(t *testing.T) *rdmaCM {
	c := &rdmaCM{tos: map[string]string{"mlx5_0": "0\n"}}
	c.groups = groups{dir: filepath.Join(t.TempDir(), "rdma_cm"), mkdir: c.mkdir, remove: c.remove}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *rdmaCM) file(device string) string {
	return filepath.Join(c.dir, device, "ports", "1", "default_roce_tos")
}

func (c *rdmaCM) mkdir(dir string) error {
	c.mkdirs++
	device := filepath.Base(dir)
	tos, ok := c.tos[device]
	if !ok {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: unix.ENODEV}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(c.file(device)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(c.file(device), []byte(tos), 0o600)
}

func (c *rdmaCM) remove(dir string) error {
	device := filepath.Base(dir)
	data, err := os.ReadFile(c.file(device))
	if err != nil {
		return err
	}
	c.tos[device] = string(data)
	return os.RemoveAll(dir)
}

func TestToS(t *testing.T) {
	c := newRDMACM(t)
	for _, step := range []struct{ set, old uint8 }{{106, 0}, {106, 106}, {255, 106}, {0, 255}} {
		if old, err := c.setToS("mlx5_0", 1, step.set); old != step.old || err != nil {
			t.Fatalf("set %d: got %d, %v, want %d", step.set, old, err, step.old)
		}
		if tos, err := c.groups.tos("mlx5_0", 1); tos != step.set || err != nil {
			t.Fatalf("set %d: then it is %d, %v", step.set, tos, err)
		}
		if entries, err := os.ReadDir(c.dir); len(entries) > 0 || err != nil {
			t.Fatalf("left behind: %v, %v", entries, err)
		}
	}
	for what, err := range map[string]error{
		"device": second(c.setToS("mlx5_1", 1, 1)), "port": second(c.setToS("mlx5_0", 2, 1)),
	} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("no such %s: got %v, want ErrNotFound", what, err)
		}
	}
	if _, err := c.setToS("../x", 1, 1); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("got %v for what is no name", err)
	}
	if err := os.Remove(c.dir); err != nil {
		t.Fatal("left behind:", err)
	}
	if _, err := c.setToS("mlx5_0", 1, 1); !errors.Is(err, ErrUnsupported) {
		t.Errorf("got %v without rdma_cm, want ErrUnsupported", err)
	}
}

func second(_ uint8, err error) error { return err }

// TestToSOthersDirectory uses a directory that somebody else made, and leaves it.
func TestToSOthersDirectory(t *testing.T) {
	c := newRDMACM(t)
	if err := c.mkdir(filepath.Join(c.dir, "mlx5_0")); err != nil {
		t.Fatal(err)
	}
	root := filepath.Dir(c.dir)
	if old, err := SetDefaultRoCEToS(root, "mlx5_0", 1, 26); old != 0 || err != nil {
		t.Fatalf("got %d, %v", old, err)
	}
	if tos, err := DefaultRoCEToS(root, "mlx5_0", 1); tos != 26 || err != nil {
		t.Fatalf("got %d, %v", tos, err)
	}
	for _, text := range []string{"256\n", "-1\n", "", "high\n"} {
		if err := os.WriteFile(c.file("mlx5_0"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := DefaultRoCEToS(root, "mlx5_0", 1); err == nil || !strings.Contains(err.Error(), "default_roce_tos") {
			t.Errorf("%q: got %v, want an error that names the file", text, err)
		}
	}
}

// TestToSRemovedMeanwhile loses the directory to its maker, who is done with it.
func TestToSRemovedMeanwhile(t *testing.T) {
	c := newRDMACM(t)
	dir := filepath.Join(c.dir, "mlx5_0")
	if err := c.mkdir(dir); err != nil {
		t.Fatal(err)
	}
	g := c.groups
	g.mkdir = func(dir string) error {
		err := c.mkdir(dir)
		if errors.Is(err, fs.ErrExist) {
			if removed := c.remove(dir); removed != nil {
				return fmt.Errorf("the other's removal: %w", removed)
			}
		}
		return err
	}
	if old, err := g.setToS("mlx5_0", 1, 104); old != 0 || err != nil {
		t.Fatalf("got %d, %v", old, err)
	}
	if got := c.tos["mlx5_0"]; !strings.HasPrefix(got, "104") {
		t.Errorf("it is %q", got)
	}
}
