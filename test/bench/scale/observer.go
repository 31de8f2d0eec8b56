// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
)

// observer watches all objects of a kind, as they are sent, to see how large they get and how often they change.
type observer struct {
	url     string
	web     *http.Client
	changes atomic.Int64
	largest atomic.Int64 // bytes of JSON, with everything that etcd stores too
}

// envelope is what a watch event has around its object: {"type":"MODIFIED","object":...} and a newline.
const envelope = len(`{"type":"MODIFIED","object":}`) + 1

// observe begins to watch, until ctx ends.
func observe(ctx context.Context, cfg *rest.Config, resource string) (*observer, error) {
	web, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, err
	}
	o := &observer{url: cfg.Host + "/apis/ipam.railyard.dev/v1alpha1/" + resource, web: web}
	go func() {
		version := ""
		for ctx.Err() == nil {
			if err := o.follow(ctx, version); err == nil {
				version = "" // of what happened while there was no watch only the outcome is seen
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	return o, nil
}

func (o *observer) follow(ctx context.Context, version string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.url+"?watch=1&resourceVersion="+version, nil)
	if err != nil {
		return err
	}
	resp, err := o.web.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("watch %s: %s", o.url, resp.Status)
	}
	lines := bufio.NewReaderSize(resp.Body, 1<<16)
	for {
		size := 0
		part, err := lines.ReadSlice('\n')
		for size += len(part); errors.Is(err, bufio.ErrBufferFull); size += len(part) {
			part, err = lines.ReadSlice('\n')
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		o.changes.Add(1)
		o.largest.Store(max(o.largest.Load(), int64(size-envelope)))
	}
}
