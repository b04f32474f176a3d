// Armarium is the tool of network administrators and operators: it packs and signs plugins,
// makes keys, configures images before they are written to a stick, and works with a running
// node over its API. It needs nothing of a node on the machine it runs on.
//
// Exit codes: 0 done; 1 failed, with the reason on standard error; 2 the command line is
// wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
)

const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(errs, "armarium: %v\n", err)
	var ue *usageError
	if errors.As(err, &ue) || strings.HasPrefix(err.Error(), "unknown command") {
		fmt.Fprintf(errs, "See: %s --help\n", cmd.CommandPath())
		return exitUsage
	}
	return exitFailed
}

// A usageError is a command line that cannot be understood.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

func rootCommand() *cobra.Command {
	root := group("armarium", "Plugins, keys, images and nodes of an Armarium network", `Armarium keeps libraries' collections safe: many nodes hold the same content, audit it against
each other and repair it. This tool prepares what a network needs, and works with running nodes.

  plugin   plugin definitions: pack, sign, verify, look at
  keys     key pairs that sign plugins, and the keystores nodes trust
  image    make a generic disk image one particular node
  node     a running node: status, units, crawls, polls`)
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(pluginCommand(), keysCommand(), imageCommand(), nodeCommand())
	return root
}

// group makes a command that only holds others.
func group(use, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q of %s", args[0], cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cmd.Help(); err != nil {
				return err
			}
			return usagef("name one of the commands of %s", cmd.CommandPath())
		},
	}
}

// args checks the number of arguments and names them in the message.
func args(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, a []string) error {
		if len(a) < least || most >= 0 && len(a) > most {
			return usagef("%s wants %s", cmd.Name(), what)
		}
		return nil
	}
}
