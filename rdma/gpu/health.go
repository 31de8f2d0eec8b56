// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package gpu

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// ErrNotReady: there is no driver to ask.
var ErrNotReady = errors.New("no NVIDIA driver runs here")

// Event is a fault that the driver reports.
type Event struct {
	UUID string // of the physical GPU; empty: it is not known which, and may be any
	// GPUInstance and ComputeInstance are -1 where the fault is the whole GPU's.
	GPUInstance, ComputeInstance int
	XID                          uint64
}

// needReset are XIDs after which a GPU works again only when it was reset, by NVIDIA's catalogue: double-bit ECC, retired pages, NVLink, off the bus,
// contained and uncontained errors, the GSP. It counts for drivers that do not say themselves what is needed.
func needReset(xid uint64) bool {
	return slices.Contains([]uint64{48, 62, 64, 74, 79, 92, 95, 119, 120, 140, 143}, xid)
}

// Health keeps which GPUs and MIG instances are sick. What is sick recovers when it has been quiet for a while, the driver lists it, and says that
// nothing is needed. Where the driver does not know what is needed, and the fault is one that needs a reset, the driver must have been started anew
// meanwhile. Methods may be called concurrently.
type Health struct {
	ignore []uint64
	quiet  time.Duration

	mu   sync.Mutex
	sick map[place]fault
}

// place is a physical GPU, or an instance on it.
type place struct {
	uuid   string
	gi, ci int
}

type fault struct {
	xid      uint64
	at       time.Time
	reloaded bool // the driver was started anew since
}

// NewHealth makes one on which everything is well. XIDs to ignore are those that say nothing of the GPU.
func NewHealth(ignore []uint64, quiet time.Duration) *Health {
	return &Health{ignore: ignore, quiet: quiet, sick: map[place]fault{}}
}

// Configure changes what NewHealth was given. What is sick stays so.
func (h *Health) Configure(ignore []uint64, quiet time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ignore, h.quiet = ignore, quiet
}

// Report takes an event in, and returns whether anything is sick that was not.
func (h *Health) Report(e Event, all Inventory, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if slices.Contains(h.ignore, e.XID) {
		return false
	}
	changed := false
	for _, p := range places(e, all) {
		_, was := h.sick[p]
		h.sick[p] = fault{xid: e.XID, at: now}
		changed = changed || !was
	}
	return changed
}

// places are what an event is about. A fault whose GPU is not known is everybody's.
func places(e Event, all Inventory) []place {
	if e.UUID != "" {
		return []place{{e.UUID, e.GPUInstance, e.ComputeInstance}}
	}
	var every []place
	for _, g := range all.GPUs {
		every = append(every, place{g.UUID, -1, -1})
	}
	return every
}

// Reloaded says that the driver was started anew.
func (h *Health) Reloaded() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for p, f := range h.sick {
		f.reloaded = true
		h.sick[p] = f
	}
}

// Look says why GPUs and instances are sick, by UUID, and forgets those that are well again.
func (h *Health) Look(all Inventory, now time.Time) map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	sick := map[string]string{}
	for p, f := range h.sick {
		i := slices.IndexFunc(all.GPUs, func(g GPU) bool { return g.UUID == p.uuid })
		if i >= 0 && h.recovered(f, all.GPUs[i], now) {
			delete(h.sick, p)
			continue
		}
		reason := fmt.Sprintf("XID %d at %s", f.xid, f.at.UTC().Format(time.RFC3339))
		sick[instanceUUID(p, all)] = reason
	}
	return sick
}

// instanceUUID is that of the instance, or of the GPU where it is none, or none that is known.
func instanceUUID(p place, all Inventory) string {
	for _, g := range all.GPUs {
		if g.UUID != p.uuid {
			continue
		}
		for _, i := range g.Instances {
			if i.GPUInstance == p.gi && (p.ci < 0 || i.ComputeInstance == p.ci) {
				return i.UUID
			}
		}
	}
	return p.uuid
}

func (h *Health) recovered(f fault, g GPU, now time.Time) bool {
	switch {
	case now.Sub(f.at) < h.quiet, g.Recovery == RecoveryNeeded:
		return false
	case g.Recovery == RecoveryNone:
		return true
	}
	return f.reloaded || !needReset(f.xid)
}
