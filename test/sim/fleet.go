// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/test/sim/check"
)

// workerEnv makes a test binary of this package a worker: it does jobs from its input.
const workerEnv = "RAILYARD_SIM_WORKER"

// workerDebug has a worker draw the same random numbers in every run, see [Run].
const workerDebug = "randseednop=0"

// Job is a run to be done.
type Job struct {
	Seed uint64
	// Keep are the numbers of the actions to do; all of them if nil.
	Keep []int
	// Calm leaves out the faults of requests.
	Calm bool
	// Whole has the report tell all that happened, and not the last of what led to a failure.
	Whole bool `json:",omitempty"`
}

// Plan is the seed's, or what the job leaves of it.
func (j Job) Plan() Plan {
	p := NewPlan(j.Seed)
	if j.Keep != nil {
		p.Actions = slices.DeleteFunc(p.Actions, func(a Action) bool { return !slices.Contains(j.Keep, a.N) })
	}
	if j.Calm {
		p.Faults = faults{}
	}
	return p
}

// Command is how a person repeats the job.
func (j Job) Command() string {
	cmd := fmt.Sprintf("make sim SEED=%d", j.Seed)
	if j.Keep != nil {
		var list []string
		for _, n := range j.Keep {
			list = append(list, fmt.Sprint(n))
		}
		if len(list) == 0 {
			list = []string{"-1"} // none
		}
		cmd += " ACTIONS=" + strings.Join(list, ",")
	}
	if j.Calm {
		cmd += " CALM=1"
	}
	return cmd
}

// Report is what became of a job.
type Report struct {
	Job
	// Failure says what went wrong, if anything did; Invariants which.
	Failure    string `json:",omitempty"`
	Invariants []int  `json:",omitempty"`
	Sum        uint64
	Trace      []string `json:",omitempty"`
	Stats      Stats
}

func report(j Job, r Result) Report {
	out := Report{Job: j, Sum: r.Sum, Stats: r.Stats}
	if j.Whole {
		out.Trace = r.Trace
	}
	if r.Err == nil {
		return out
	}
	out.Failure, out.Trace = r.Err.Error(), r.Trace
	for _, err := range flat(r.Err) {
		if v, ok := errors.AsType[*check.Violation](err); ok {
			out.Invariants = append(out.Invariants, v.Invariant)
		}
	}
	return out
}

func flat(err error) []error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()
	}
	return []error{err}
}

// Work does the jobs that come from in, one after the other.
func Work(in io.Reader, out io.Writer, run func(Plan, bool) Result) error {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var j Job
		if err := json.Unmarshal(lines.Bytes(), &j); err != nil {
			return err
		}
		if err := json.NewEncoder(out).Encode(report(j, run(j.Plan(), j.Whole))); err != nil {
			return err
		}
	}
	return lines.Err()
}

// worker is a process that does jobs: whatever kills it is a finding about one of them, and no run shares what a process has
// but once, such as the source of random numbers.
type worker struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	errs *os.File
}

func startWorker(binary string, env ...string) (*worker, error) {
	errs, err := os.CreateTemp("", "railyard-sim-worker-")
	if err != nil {
		return nil, err
	}
	_ = os.Remove(errs.Name())
	w := &worker{cmd: exec.Command(binary, "-test.run=^TestWork$", "-test.timeout=0"), errs: errs}
	w.cmd.Env = append(os.Environ(), workerEnv+"=1", "GODEBUG="+workerDebug, "GOGC=400")
	w.cmd.Env = append(w.cmd.Env, env...)
	w.cmd.Stderr = errs
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.out = bufio.NewReader(out)
	return w, w.cmd.Start()
}

// stop ends the process.
func (w *worker) stop() {
	_ = w.in.Close()
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
	_ = w.errs.Close()
}

// jobLimit is how long one job may take, of real time, on the slowest machine: longer, and it does not end.
const jobLimit = 10 * time.Minute

// do has the worker do a job. If it dies of that, the report says of what.
func (w *worker) do(j Job) Report {
	hangs := time.AfterFunc(jobLimit, func() { _ = w.cmd.Process.Signal(unix.SIGQUIT) }) // Go's answer is the stacks of all goroutines
	defer hangs.Stop()
	if err := json.NewEncoder(w.in).Encode(j); err != nil {
		return Report{Job: j, Failure: fmt.Sprintf("the worker died: %v\n%s", err, w.said())}
	}
	line, err := w.out.ReadBytes('\n')
	var r Report
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	if err != nil {
		_ = w.cmd.Wait()
		return Report{Job: j, Failure: fmt.Sprintf("the worker died: %v\n%s%s", err, line, w.said())}
	}
	return r
}

// said is the beginning of what the process wrote as it died.
func (w *worker) said() string {
	text := make([]byte, 6000)
	n, _ := w.errs.ReadAt(text, 0)
	return string(text[:n])
}

// Fleet does jobs in worker processes.
type Fleet struct {
	// Binary is a test binary of this package, and Env what its processes get beside this process's.
	Binary string
	Env    []string
	// Workers is how many there are.
	Workers int
	// Whole has every report tell all that happened.
	Whole bool
}

// Run does the jobs of the seeds from first on, and calls done about each, one at a time, until there are no more, or done says
// stop, or ctx ends.
func (f Fleet) Run(ctx context.Context, first, seeds uint64, done func(Report) (stop bool)) error {
	var next atomic.Uint64
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	stopped := errors.New("stopped")
	for range f.Workers {
		g.Go(func() error {
			w, err := startWorker(f.Binary, f.Env...)
			if err != nil {
				return err
			}
			defer w.stop()
			for ctx.Err() == nil {
				n := next.Add(1) - 1
				if n >= seeds {
					return nil
				}
				r := w.do(Job{Seed: first + n, Whole: f.Whole})
				mu.Lock()
				stop := ctx.Err() != nil || done(r)
				mu.Unlock()
				if stop {
					return stopped
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil && !errors.Is(err, stopped) {
		return err
	}
	return nil
}

// Do does one job.
func (f Fleet) Do(j Job) (Report, error) {
	w, err := startWorker(f.Binary, f.Env...)
	if err != nil {
		return Report{}, err
	}
	defer w.stop()
	return w.do(j), nil
}

// Shrink gives the report of a smaller job that fails too: it leaves out the faults, and action after action, until none can be
// left out any more, or the time is over.
func (f Fleet) Shrink(ctx context.Context, r Report) Report {
	small := r
	if small.Keep == nil {
		for _, a := range small.Plan().Actions {
			small.Keep = append(small.Keep, a.N)
		}
	}
	try := func(j Job) bool {
		if ctx.Err() != nil {
			return false
		}
		got, err := f.Do(j)
		if err != nil || got.Failure == "" {
			return false
		}
		small = got
		return true
	}
	if !small.Calm {
		try(Job{Seed: small.Seed, Keep: small.Keep, Calm: true})
	}
	for size := max(1, len(small.Keep)/2); ctx.Err() == nil; size = max(1, size/2) {
		left := false
		for end := len(small.Keep); end > 0; end -= size { // the last first: what comes after the failure goes at once
			begin := max(0, end-size)
			without := slices.Concat(small.Keep[:begin], small.Keep[min(end, len(small.Keep)):])
			left = try(Job{Seed: small.Seed, Keep: append([]int{}, without...), Calm: small.Calm}) || left
		}
		if size == 1 && !left {
			break
		}
	}
	return small
}
