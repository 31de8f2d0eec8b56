// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestTrafficClass(t *testing.T) {
	sys := t.TempDir()
	file := filepath.Join(sys, "class/infiniband/mlx5_0/tc/1/traffic_class")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int{
		"": NoTrafficClass, "Global tclass=106\n": 106, "Global tclass=0\n": 0, "Global tclass=255\nsrc_ip=10.0.0.1,tclass=4\n": 255,
		"src_ip=10.0.0.1,tclass=4\n": NoTrafficClass,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := TrafficClass(os.DirFS(sys), "mlx5_0", 1); got != want || err != nil {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"Global tclass=256\n", "Global tclass=\n", "Global tclass=-1\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := TrafficClass(os.DirFS(sys), "mlx5_0", 1); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
	for class, want := range map[int]string{106: "106", 0: "0", NoTrafficClass: "-1"} {
		if err := SetTrafficClass(sys, "mlx5_0", 1, class); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(file); string(got) != want || err != nil {
			t.Errorf("set %d: the file holds %q, %v", class, got, err)
		}
	}
	for _, class := range []int{-2, 256} {
		if err := SetTrafficClass(sys, "mlx5_0", 1, class); err == nil {
			t.Errorf("%d was set", class)
		}
	}
	if _, err := TrafficClass(os.DirFS(sys), "mlx5_0", 2); !errors.Is(err, ErrUnsupported) {
		t.Errorf("another port: %v", err)
	}
	if err := SetTrafficClass(sys, "mlx5_1", 1, 4); !errors.Is(err, ErrUnsupported) {
		t.Errorf("another device: %v", err)
	}
	if err := SetTrafficClass(sys, "../x", 1, 4); err == nil || errors.Is(err, ErrUnsupported) {
		t.Errorf("what is no name: %v", err)
	}
}
