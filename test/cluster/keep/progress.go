// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package keep

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Progress writes what is done, with the time since the start.
type Progress struct {
	mu    sync.Mutex
	w     io.Writer
	began time.Time
}

// NewProgress starts the clock.
func NewProgress(w io.Writer) *Progress { return &Progress{w: w, began: time.Now()} }

// Step says what was done.
func (p *Progress) Step(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.w, "[%5.1fs] %s\n", time.Since(p.began).Seconds(), fmt.Sprintf(format, args...))
}

// Text writes something as it is.
func (p *Progress) Text(s string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprint(p.w, s)
}
