// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package gpu

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func two(recovery Recovery) Inventory {
	return Inventory{State: Ready, GPUs: []GPU{
		{UUID: "GPU-0", Recovery: recovery},
		{UUID: "GPU-1", Recovery: recovery, MIG: true, Instances: []Instance{{UUID: "MIG-a", GPUInstance: 1}, {UUID: "MIG-b", GPUInstance: 2}}},
	}}
}

func TestHealth(t *testing.T) {
	start := time.Unix(1000, 0)
	for name, tt := range map[string]struct {
		event    Event
		recovery Recovery
		after    time.Duration
		reload   bool
		want     map[string]string
	}{
		"ignored":                                       {Event{"GPU-0", -1, -1, 13}, RecoveryNone, 0, false, map[string]string{}},
		"fresh":                                         {Event{"GPU-0", -1, -1, 94}, RecoveryNone, 59 * time.Second, false, map[string]string{"GPU-0": "XID 94 at 1970-01-01T00:16:40Z"}},
		"quiet, and nothing needed":                     {Event{"GPU-0", -1, -1, 79}, RecoveryNone, time.Minute, false, map[string]string{}},
		"quiet, and a reset needed":                     {Event{"GPU-0", -1, -1, 94}, RecoveryNeeded, time.Hour, true, map[string]string{"GPU-0": "XID 94 at 1970-01-01T00:16:40Z"}},
		"the driver does not know, a mild one":          {Event{"GPU-0", -1, -1, 63}, RecoveryUnknown, time.Minute, false, map[string]string{}},
		"the driver does not know, one for a reset":     {Event{"GPU-0", -1, -1, 79}, RecoveryUnknown, time.Hour, false, map[string]string{"GPU-0": "XID 79 at 1970-01-01T00:16:40Z"}},
		"the driver does not know, and was loaded anew": {Event{"GPU-0", -1, -1, 79}, RecoveryUnknown, time.Hour, true, map[string]string{}},
		"an instance":                                   {Event{"GPU-1", 2, 0, 94}, RecoveryNone, 0, false, map[string]string{"MIG-b": "XID 94 at 1970-01-01T00:16:40Z"}},
		"nobody knows whose":                            {Event{"", -1, -1, 79}, RecoveryNone, 0, false, map[string]string{"GPU-0": "XID 79 at 1970-01-01T00:16:40Z", "GPU-1": "XID 79 at 1970-01-01T00:16:40Z"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := NewHealth([]uint64{13}, time.Minute)
			inv := two(tt.recovery)
			if changed := h.Report(tt.event, inv, start); changed != (tt.event.XID != 13) {
				t.Errorf("changed: %v", changed)
			}
			if tt.reload {
				h.Reloaded()
			}
			if diff := cmp.Diff(tt.want, h.Look(inv, start.Add(tt.after))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What the driver does not list stays sick: who fell off the bus is not well because it is quiet.
func TestHealthOfTheLost(t *testing.T) {
	h := NewHealth(nil, time.Minute)
	h.Report(Event{"GPU-0", -1, -1, 79}, two(RecoveryNone), time.Unix(0, 0))
	if got := h.Look(Inventory{State: Ready}, time.Unix(1e6, 0)); len(got) != 1 {
		t.Errorf("sick are %v", got)
	}
	if got := h.Look(two(RecoveryNone), time.Unix(1e6, 0)); len(got) != 0 {
		t.Errorf("back and well, but sick are %v", got)
	}
}
