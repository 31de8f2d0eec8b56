// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// Command describes a program's command line: flags only, no arguments.
type Command struct {
	Name string
	// Intro and Outro stand before and after the flags in --help.
	Intro, Outro string
	Sections     []Section
	// Aliases are further environment variables of a flag, read after its own.
	Aliases map[string]string
}

// Section is a heading of --help with the flags under it, in the order in which they are shown.
type Section struct {
	Title string
	Flags []string
}

// EnvName is the environment variable that stands for a flag: --gc-grace is RAILYARD_GC_GRACE.
func EnvName(flagName string) string {
	return "RAILYARD_" + strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
}

// FlagSet is an empty set for Parse. It prints nothing by itself.
func (c Command) FlagSet() *flag.FlagSet {
	fs := flag.NewFlagSet(c.Name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	return fs
}

// Parse reads flags first, then the environment for the flags that were not given, then the defaults. flag.ErrHelp:
// help was asked for. Every other error names the flag or the variable.
func (c Command) Parse(fs *flag.FlagSet, args []string, getenv func(string) string) error {
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%q is not a flag: %s takes flags only", fs.Arg(0), c.Name)
	}
	given := map[string]bool{versionFlag: true} // no setting
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var errs []error
	fs.VisitAll(func(f *flag.Flag) {
		for _, name := range []string{EnvName(f.Name), c.Aliases[f.Name]} {
			if name == "" || given[f.Name] || getenv(name) == "" {
				continue
			}
			given[f.Name] = true
			if err := fs.Set(f.Name, getenv(name)); err != nil {
				errs = append(errs, fmt.Errorf("invalid value %q for %s: %w", getenv(name), name, err))
			}
		}
	})
	return errors.Join(errs...)
}

// Help writes the grouped help, as wide as a terminal of 100 columns.
func (c Command) Help(w io.Writer, fs *flag.FlagSet) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nUsage: %s [flags]\n\nEach flag can be given in the environment instead, under the name shown; the flag wins.\n", c.Intro, c.Name)
	for _, s := range c.Sections {
		fmt.Fprintf(&b, "\n%s:\n", s.Title)
		for _, name := range s.Flags {
			f := fs.Lookup(name)
			value, usage := flag.UnquoteUsage(f)
			head := "--" + name
			if value != "" {
				head += " " + value
			}
			if name != versionFlag {
				head += " [" + EnvName(name) + "]"
			}
			if f.DefValue != "" && f.DefValue != "false" {
				usage += " (default " + f.DefValue + ")"
			}
			fmt.Fprintf(&b, "  %s\n      %s\n", head, usage)
		}
	}
	fmt.Fprintf(&b, "\n%s", c.Outro)
	_, err := io.WriteString(w, b.String())
	return err
}

// Faults collects what is wrong with the values of flags.
type Faults []error

// Add records one fault; the format names the fix.
func (f *Faults) Add(flagName, format string, args ...any) {
	*f = append(*f, fmt.Errorf("--%s (%s): %s", flagName, EnvName(flagName), fmt.Sprintf(format, args...)))
}

// Err joins them.
func (f Faults) Err() error { return errors.Join(f...) }
