// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mutantEnv names the mutant that a broken binary is to be.
const mutantEnv = "RAILYARD_SIM_MUTANT"

// mutant is one way to break the code: in a file, one place becomes another. No program has it: the test lays the broken
// files over the build of a binary of its own, in which broken("name") says whether it is this one's turn.
type mutant struct {
	what string
	file string
	old  string
	new  string
	// job catches it, where seeds seldom do.
	job *Job
	// within is how many seeds it may take to catch it.
	within uint64
}

// mutants are the mistakes that the design is there to prevent.
var mutants = map[string]mutant{
	"answer-before-write": {
		what: "a lease is answered, and written a moment later",
		file: "ipam/agent/lease.go",
		old:  "	return a.store.Lease(ctx, req)\n",
		new: "	l, err := a.store.Lease(ctx, req)\n	if err == nil && broken(`answer-before-write`) {\n		_ = a.store.Release(ctx, req.Key)\n" +
			"		time.AfterFunc(5*time.Millisecond, func() { _, _ = a.store.Lease(context.WithoutCancel(ctx), req) })\n	}\n	return l, err\n",
		within: 20,
	},
	"ignore-session": {
		what: "a share of an earlier store is leased from before this one's session is in it",
		file: "ipam/agent/settle.go",
		old:  "	b, err := a.claims.Adopt(ctx, v.me, obj.Name)\n	if err != nil {\n		return taken{}, err\n	}\n	t :=",
		new: "	adopt := a.claims.Adopt\n	if broken(`ignore-session`) {\n		adopt = func(context.Context, ipam.Owner, string) (ipam.Block, error) { return obj.Block() }\n	}\n" +
			"	b, err := adopt(ctx, v.me, obj.Name)\n	if err != nil {\n		return taken{}, err\n	}\n	t :=",
		within: 40,
	},
	"no-look-at-recovery": {
		what:   "a share of an earlier store is leased from without a look into the namespaces",
		file:   "ipam/agent/takeover.go",
		old:    "	var errs []error\n	for _, t := range shares {",
		new:    "	if broken(`no-look-at-recovery`) {\n		inUse = nil\n	}\n	var errs []error\n	for _, t := range shares {",
		within: 40,
	},
	"gc-by-name": {
		what: "the collector ends every lease of a pod's name when one of its namespaces is gone",
		file: "ipam/agent/collect.go",
		old:  "	if err := a.store.End(l.Key, l.NetNS); err != nil {",
		new: "	if all, err := a.store.Leases(); err == nil && broken(`gc-by-name`) {\n		for _, x := range all {\n			if x.Pod.Name == l.Pod.Name {\n" +
			"				_ = a.store.End(x.Key, x.NetNS)\n			}\n		}\n	}\n	if err := a.store.End(l.Key, l.NetNS); err != nil {",
		within: 40,
	},
	"no-retire-mark": {
		what: "an empty block is given back to the API before the store has marked it as retired",
		file: "ipam/agent/stock.go",
		old:  "				retired, err := a.store.Retire(block, minIdle)\n",
		new: "				if me, err := a.owner(ctx); err == nil && broken(`no-retire-mark`) {\n					_ = a.claims.Release(ctx, me, block)\n				}\n" +
			"				retired, err := a.store.Retire(block, minIdle)\n",
		within: 20,
	},
	"grant-without-answer": {
		what:   "a claim whose write failed is granted as if it had been acknowledged",
		file:   "ipam/claim/settle.go",
		old:    "	if err != nil {\n		return ipam.Block{}, again, err\n	}\n	b, err := obj.Block()\n	if err != nil {\n		return ipam.Block{}, settled, &unreadableError{err}\n	}\n	return b, acknowledged, nil",
		new:    "	if err != nil && !broken(`grant-without-answer`) {\n		return ipam.Block{}, again, err\n	}\n	b, err := obj.Block()\n	if err != nil {\n		return ipam.Block{}, settled, &unreadableError{err}\n	}\n	return b, acknowledged, nil",
		within: 20,
	},
	"update-without-version": {
		what: "a block is written whatever has become of it since it was read",
		file: "ipam/claim/settle.go",
		old:  "	return answer(next, c.api.Update(ctx, next))",
		new: "	err := c.api.Update(ctx, next)\n	for apierrors.IsConflict(err) && broken(`update-without-version`) {\n		var is v1alpha1.IPBlock\n" +
			"		if err := c.api.Get(ctx, client.ObjectKeyFromObject(next), &is); err != nil {\n			return ipam.Block{}, again, err\n		}\n		next.ResourceVersion, next.UID = is.ResourceVersion, is.UID\n" +
			"		err = c.api.Update(ctx, next)\n	}\n	return answer(next, err)",
		within: 150,
	},
	"delete-without-precondition": {
		what: "a block is deleted by its name",
		file: "ipam/claim/settle.go",
		old:  "		err := c.api.Delete(ctx, obj, client.Preconditions{UID: &obj.UID, ResourceVersion: &obj.ResourceVersion})",
		new: "		pre := client.Preconditions{UID: &obj.UID, ResourceVersion: &obj.ResourceVersion}\n		if broken(`delete-without-precondition`) {\n			pre = client.Preconditions{}\n		}\n" +
			"		err := c.api.Delete(ctx, obj, pre)",
		within: 150,
	},
	"trust-the-watch": {
		what:   "what the watch cache says of a block is acted on without a live read",
		file:   "ipam/agent/settle.go",
		old:    "	switch err := a.cfg.Client.Get(ctx, types.NamespacedName{Name: block}, &obj); {",
		new:    "	get := a.cfg.Client.Get\n	if broken(`trust-the-watch`) {\n		get = a.cfg.Cache.Get\n	}\n	switch err := get(ctx, types.NamespacedName{Name: block}, &obj); {",
		within: 150,
	},
	"two-answers": {
		what:   "ADD repeated under its key leases again",
		file:   "ipam/store/lease.go",
		old:    "		if ok {\n			l, err = t.again(rec, req)",
		new:    "		if ok && broken(`two-answers`) {\n			if err := t.release(leaseKey(req.Key)); err != nil {\n				return err\n			}\n			ok = false\n		}\n		if ok {\n			l, err = t.again(rec, req)",
		within: 40,
	},
	"cut-in-two": {
		what:   "a share under live pods is granted before their addresses are leased again, in two transactions",
		file:   "ipam/agent/takeover.go",
		old:    "	restored, err := a.store.GrantInUse(",
		new:    "	if broken(`cut-in-two`) {\n		if err := a.store.Grant(t.holding); err != nil {\n			return 0, err\n		}\n	}\n	restored, err := a.store.GrantInUse(",
		within: 200,
	},
}

// TestMutants: every mutant is caught.
func TestMutants(t *testing.T) {
	broken := buildBroken(t)
	for name, m := range mutants {
		t.Run(name, func(t *testing.T) {
			began, n := time.Now(), 0
			var caught *Report
			f := Fleet{Binary: broken, Env: []string{mutantEnv + "=" + name}, Workers: fleet().Workers}
			if m.job != nil {
				if r, err := f.Do(*m.job); err != nil || len(r.Invariants) == 0 {
					t.Errorf("not caught by %+v (%v): %s", *m.job, err, m.what)
				}
				if !survives(t, broken, *m.job) {
					t.Errorf("%+v fails without the mutant too, and so proves nothing", *m.job)
				}
				return
			}
			err := f.Run(t.Context(), 0, m.within, func(r Report) bool {
				n++
				if len(r.Invariants) > 0 && survives(t, broken, r.Job) {
					caught = &r
				}
				return caught != nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if caught == nil {
				t.Fatalf("not caught by %d seeds: %s", n, m.what)
			}
			first, _, _ := strings.Cut(caught.Failure, "\n")
			t.Logf("caught by seed %d, the %d., after %v: %s", caught.Seed, n, time.Since(began).Round(time.Millisecond), first)
		})
	}
	t.Run("shrunk", func(t *testing.T) {
		shrinks(t, Fleet{Binary: broken, Env: []string{mutantEnv + "=two-answers"}, Workers: 1})
	})
}

// survives says that the code does the job without a failure when no mutant is on: so what fails with one, it has broken.
func survives(t *testing.T, binary string, j Job) bool {
	r, err := Fleet{Binary: binary}.Do(j)
	if err != nil {
		t.Error(err)
	}
	return r.Failure == ""
}

// shrinks: what is left of a plan that fails is little, and fails again in the same way, step by step.
func shrinks(t *testing.T, f Fleet) {
	var r Report
	if err := f.Run(t.Context(), 0, 20, func(x Report) bool { r = x; return r.Failure != "" }); err != nil || r.Failure == "" {
		t.Fatalf("no seed fails (%v)", err)
	}
	small := f.Shrink(t.Context(), r)
	if len(small.Keep) == 0 || len(small.Keep) > 6 || !small.Calm {
		t.Errorf("of %d actions %d are left, and the faults: %v; want a few, and no faults", len(r.Plan().Actions), len(small.Keep), !small.Calm)
	}
	again, err := f.Do(small.Job)
	if err != nil || again.Sum != small.Sum || again.Failure != small.Failure {
		t.Errorf("again it is %x: %s (%v); want %x: %s", again.Sum, again.Failure, err, small.Sum, small.Failure)
	}
	t.Logf("%s: %s", small.Command(), small.Failure)
}

// buildBroken makes a test binary that is whichever mutant its environment names, and says where it is.
func buildBroken(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := map[string]string{}
	for name, m := range mutants {
		text, ok := files[m.file]
		if !ok {
			data, err := os.ReadFile(filepath.Join(root, m.file))
			if err != nil {
				t.Fatal(err)
			}
			text = string(data)
		}
		if n := strings.Count(text, m.old); n != 1 {
			t.Fatalf("mutant %s: what it breaks is %d times in %s: the code has changed, change the mutant too", name, n, m.file)
		}
		files[m.file] = strings.Replace(text, m.old, m.new, 1)
	}
	overlay := map[string]string{}
	lay := func(path, text string) {
		to := filepath.Join(dir, fmt.Sprintf("%d.go", len(overlay)))
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay[filepath.Join(root, path)] = to
	}
	packages := map[string]bool{}
	for path, text := range files {
		lay(path, text)
		packages[filepath.Dir(path)] = true
	}
	for p := range packages {
		lay(filepath.Join(p, "zz_broken.go"), fmt.Sprintf("package %s\n\nimport \"os\"\n\nvar mutant = os.Getenv(%q)\n\nfunc broken(name string) bool { return mutant == name }\n",
			filepath.Base(p), mutantEnv))
	}
	data, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		t.Fatal(err)
	}
	list, binary := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "broken.test")
	if err := os.WriteFile(list, data, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", list, "-o", binary, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the mutants: %v\n%s", err, out)
	}
	return binary
}
