// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Program runs path as a runtime runs a CNI plugin: stdin through a pipe, both outputs collected. The processor time is
// the program's and that of all whom it waited for.
func Program(ctx context.Context, path string, args, env []string, stdin []byte) (stdout []byte, cpu time.Duration, err error) {
	cmd := exec.CommandContext(ctx, path, args...)
	var out, errs bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, bytes.NewReader(stdin), &out, &errs
	err = cmd.Run()
	if cmd.ProcessState != nil {
		cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	if err != nil {
		said := strings.TrimSpace(out.String() + " " + errs.String())
		return nil, cpu, fmt.Errorf("%s: %w: %s", path, err, said)
	}
	return out.Bytes(), cpu, nil
}
