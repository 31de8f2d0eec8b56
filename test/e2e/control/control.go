// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package control is how tests find a cluster that another process keeps, and do to it what happens to clusters: a machine is switched
// off, a kubelet dies, the API server is away. The process that keeps it serves requests on a socket that only root can use.
package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// Info is what a cluster says about itself, in the file InfoFile of its state folder.
type Info struct {
	Kubeconfig string   `json:"kubeconfig"`
	Kubectl    string   `json:"kubectl"`
	Socket     string   `json:"socket"`
	Machines   []string `json:"machines"`
}

// InfoFile is the name of that file.
const InfoFile = "cluster.json"

// Read reads the Info of the cluster that is kept in a state folder.
func Read(state string) (Info, error) {
	var i Info
	data, err := os.ReadFile(filepath.Join(state, InfoFile))
	if err != nil {
		return i, fmt.Errorf("no cluster is kept in %s (\"make cluster\" starts one): %w", state, err)
	}
	return i, json.Unmarshal(data, &i)
}

// Write is for whoever keeps the cluster.
func (i Info) Write(state string) error {
	data, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(state, InfoFile), data, 0o600)
}

// Cluster is what can be done to a cluster. Each call returns when the deed is done, not when its effects are over.
type Cluster interface {
	// Machine does a deed to a machine: off, on or reboot.
	Machine(name, deed string) error
	// Program gives an order (stop, start or kill) about a program of a machine (containerd or kubelet).
	Program(machine, order, program string) error
	// API stops or starts the API server.
	API(ctx context.Context, deed string) error
}

// Serve serves c on the socket until ctx ends.
func Serve(ctx context.Context, socket string, c Cluster) error {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	handle := func(pattern string, f func(*http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := f(r); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	handle("POST /machines/{machine}/{deed}", func(r *http.Request) error {
		return c.Machine(r.PathValue("machine"), r.PathValue("deed"))
	})
	handle("POST /machines/{machine}/{order}/{program}", func(r *http.Request) error {
		return c.Program(r.PathValue("machine"), r.PathValue("order"), r.PathValue("program"))
	})
	handle("POST /api/{deed}", func(r *http.Request) error { return c.API(r.Context(), r.PathValue("deed")) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(l); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// Client asks the process that keeps a cluster. It implements Cluster.
type Client struct{ http *http.Client }

// NewClient makes a client for the socket of an Info.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Client{http: &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Machine implements Cluster.
func (c *Client) Machine(name, deed string) error {
	return c.Do(context.Background(), "machines/"+name+"/"+deed)
}

// Program implements Cluster.
func (c *Client) Program(machine, order, program string) error {
	return c.Do(context.Background(), "machines/"+machine+"/"+order+"/"+program)
}

// API implements Cluster.
func (c *Client) API(ctx context.Context, deed string) error { return c.Do(ctx, "api/"+deed) }

// Do asks for what a path says: machines/NAME/DEED, machines/NAME/ORDER/PROGRAM or api/DEED, as the methods of Cluster have them.
func (c *Client) Do(ctx context.Context, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://cluster/"+path, nil)
	if err != nil {
		return err
	}
	reply, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the cluster's keeper: %w", err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		return err
	}
	if reply.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", path, reply.Status, bytes.TrimSpace(text))
	}
	return nil
}
