package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func crawlCommand(o *nodeOptions) *cobra.Command {
	var wait bool
	c := &cobra.Command{
		Use:   "crawl [UNIT] [--wait]",
		Short: "List crawls, or collect a unit now",
		Long: `Without an argument lists the crawls of the node. With a unit asks the node to collect it now; with --wait
shows the progress until the crawl has ended. The exit code is 1 if the crawl did not succeed.`,
		Example: `  armarium node crawl
  armarium node crawl "Volume 7" --wait`,
		Args: args(0, 1, "at most one unit"),
		RunE: func(cmd *cobra.Command, a []string) error {
			if len(a) == 0 {
				if wait {
					return usagef("--wait needs a unit")
				}
				return o.show(cmd, "crawls")
			}
			return o.start(cmd, crawlTask(), a[0], wait, 2*time.Second)
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "show progress until the crawl has ended")
	return c
}

func crawlTask() task {
	return task{
		what: "crawl", table: "crawls",
		own: func(r row) bool { return !strings.Contains(r.text("kind"), "repair") },
		key: func(r row) string { return r.text("id") + " " + r.text("started") },
		line: func(r row, since time.Duration, p pace) string {
			queued := r.num("queued")
			var b strings.Builder
			fmt.Fprintf(&b, "crawl: %.0f of %.0f or more URLs, %s", p.done, p.done+queued, byteText(r.num("bytes")))
			if p.rate > 0 {
				fmt.Fprintf(&b, ", %.1f URLs/s", p.rate)
				if queued > 0 {
					fmt.Fprintf(&b, ", about %v left", time.Duration(queued/p.rate*float64(time.Second)).Round(time.Second))
				}
			}
			if n := r.num("errors"); n > 0 {
				fmt.Fprintf(&b, ", %.0f errors", n)
			}
			fmt.Fprintf(&b, ", %v", since.Round(time.Second))
			return b.String()
		},
		end: func(r row) (string, error) {
			text := fmt.Sprintf("crawl ended: %s; %.0f fetched, %.0f not modified, %.0f errors, %s", clean(r.text("status")),
				r.num("fetched"), r.num("notModified"), r.num("errors"), byteText(r.num("bytes")))
			if took := r.when("ended").Sub(r.when("started")); took > 0 {
				text += ", " + took.Round(time.Second).String()
			}
			if m := r.text("message"); m != "" {
				text += "; " + clean(m)
			}
			if !r.flag("ok") {
				return "", fmt.Errorf("%s; see its failures with: armarium node crawl --json", text)
			}
			return text, nil
		},
	}
}
