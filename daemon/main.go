// Command armariumd is the node daemon: it collects, keeps, audits, repairs and serves
// archival units. See package node for how its services meet.
//
// Exit codes: 0 stopped on request (SIGTERM, SIGINT); 1 a fault that the log names; 2 wrong
// usage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"armarium/daemon/node"
)

func main() { os.Exit(run(os.Args[1:], os.Stderr)) }

func run(args []string, stderr io.Writer) int {
	var opt node.Options
	fs := flag.NewFlagSet("armariumd", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(stderr, `armariumd: a LOCKSS node

usage: armariumd -g GROUPS -p URL [-p URL]... [-platform SOCKET] [-log LEVEL]

Example:
  armariumd -g prod -p http://props.example.org/lockss.xml -p /run/armarium/local.txt

Options:
`)
		fs.PrintDefaults()
	}
	groups := fs.String("g", "", "preservation `groups`, separated by ;")
	fs.Func("p", "property `URL` or file, in order; a later one wins. Repeat for several", func(s string) error {
		opt.URLs = append(opt.URLs, s)
		return nil
	})
	fs.StringVar(&opt.Platform, "platform", "", "unix `socket` of the box's init, if there is one")
	level := slog.LevelInfo
	fs.TextVar(&level, "log", level, "log `level`: DEBUG, INFO, WARN or ERROR")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if fs.NArg() > 0 || len(opt.URLs) == 0 {
		fmt.Fprintln(stderr, "armariumd: name at least one property URL or file with -p; nothing else is expected. See armariumd -h")
		return 2
	}
	for g := range strings.SplitSeq(*groups, ";") {
		if g = strings.TrimSpace(g); g != "" {
			opt.Groups = append(opt.Groups, g)
		}
	}
	opt.Log = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := node.Run(ctx, opt); err != nil && !errors.Is(err, context.Canceled) {
		opt.Log.Error("stopped", "err", err)
		return 1
	}
	opt.Log.Info("stopped on request")
	return 0
}
