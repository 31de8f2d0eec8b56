// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	establishTimeout = 30 * time.Second
	deleteTimeout    = 30 * time.Second
)

// Kubectl makes a kubectl command with the administrator's access.
func (a *API) Kubectl(ctx context.Context, args ...string) *exec.Cmd {
	full := append([]string{"kubectl", "--kubeconfig=" + a.Kubeconfig(), "--cache-dir=" + filepath.Join(a.Dir(), "kubectl-cache")}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(string(a.tools), "kube"), full...)
	cmd.Env = a.env()
	return cmd
}

// Apply applies files and folders as kubectl does on a user's machine: server-side, a folder with a kustomization by kustomize, any
// other folder file by file. A path that is not absolute is taken from the module's root. All of them go in one request order, and
// when Apply returns, every CustomResourceDefinition of the cluster is established.
func (a *API) Apply(ctx context.Context, paths ...string) error {
	for _, path := range paths {
		how, path, err := fileArgs(path)
		if err != nil {
			return err
		}
		if err := a.apply(ctx, nil, how, path); err != nil {
			return err
		}
	}
	return a.AwaitCRDs(ctx)
}

// ApplyYAML is Apply for objects in a string.
func (a *API) ApplyYAML(ctx context.Context, yaml string) error {
	if err := a.apply(ctx, []byte(yaml), "-f", "-"); err != nil {
		return err
	}
	return a.AwaitCRDs(ctx)
}

// Delete deletes what Apply made of the paths, and returns when it is gone. What is gone already is no error.
func (a *API) Delete(ctx context.Context, paths ...string) error {
	for _, path := range paths {
		how, path, err := fileArgs(path)
		if err != nil {
			return err
		}
		out, err := a.Kubectl(ctx, "delete", "--ignore-not-found", "--timeout="+deleteTimeout.String(), how, path).CombinedOutput()
		if err != nil {
			return fmt.Errorf("kubectl delete %s %s: %w\n%s", how, path, err, out)
		}
	}
	return nil
}

// fileArgs says how kubectl is told of a file or folder.
func fileArgs(path string) (how, abs string, err error) {
	if !filepath.IsAbs(path) {
		root, err := ModuleRoot()
		if err != nil {
			return "", "", err
		}
		path = filepath.Join(root, path)
	}
	if _, err := os.Stat(filepath.Join(path, "kustomization.yaml")); err == nil {
		return "-k", path, nil
	}
	return "-f", path, nil
}

func (a *API) apply(ctx context.Context, stdin []byte, how, path string) error {
	// A folder may hold both a CRD and its objects: these find their kind only when the CRD is established.
	for attempt := 1; ; attempt++ {
		cmd := a.Kubectl(ctx, "apply", "--server-side", "--force-conflicts", how, path)
		if stdin != nil {
			cmd.Stdin = bytes.NewReader(stdin)
		}
		out, err := cmd.CombinedOutput()
		if err == nil {
			return nil
		}
		if attempt == 3 || !strings.Contains(string(out), "no matches for kind") {
			return fmt.Errorf("kubectl apply %s %s: %w\n%s", how, path, err, out)
		}
		if err := a.AwaitCRDs(ctx); err != nil {
			return err
		}
	}
}

// crdList is the part of a CustomResourceDefinitionList that says whether they are served.
type crdList struct {
	Items []struct {
		Metadata struct{ Name string }
		Status   struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
}

// AwaitCRDs returns when all CustomResourceDefinitions are established.
func (a *API) AwaitCRDs(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, establishTimeout)
	defer cancel()
	return a.await(ctx, func(ctx context.Context) error {
		data, err := a.client.RESTClient().Get().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").DoRaw(ctx)
		if err != nil {
			return err
		}
		var list crdList
		if err := json.Unmarshal(data, &list); err != nil {
			return err
		}
		for _, crd := range list.Items {
			established := false
			for _, c := range crd.Status.Conditions {
				established = established || (c.Type == "Established" && c.Status == "True")
			}
			if !established {
				return fmt.Errorf("CRD %s is not established: %v", crd.Metadata.Name, crd.Status.Conditions)
			}
		}
		return nil
	})
}
