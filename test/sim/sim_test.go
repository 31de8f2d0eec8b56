// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"testing"
	"testing/synctest"
	"time"
	"fmt"
	"os"
	"strconv"
)

func TestOne(t *testing.T) {
	from, _ := strconv.Atoi(os.Getenv("FROM"))
	many, _ := strconv.Atoi(os.Getenv("MANY"))
	for seed := uint64(from); seed < uint64(from+many); seed++ {
		var r Result
		b := time.Now()
		synctest.Test(t, func(*testing.T) { r = Run(NewPlan(seed), Options{}) })
		fmt.Printf("seed %d: %v %+v %x %.400v\n", seed, time.Since(b).Round(time.Millisecond), r.Stats, r.Sum, r.Err)
		if os.Getenv("TRACE") != "" { for _, l := range r.Trace { fmt.Println(l) } }
	}
}
