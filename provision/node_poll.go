package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func pollCommand(o *nodeOptions) *cobra.Command {
	var wait bool
	c := &cobra.Command{
		Use:   "poll [UNIT] [--wait]",
		Short: "List polls, or audit a unit now",
		Long: `Without an argument lists the polls of the node. With a unit asks the node to call a poll on it: the other
nodes that hold it say what they have, and damaged files are repaired. With --wait shows the progress until
the poll has ended; polls take as long as the network's parameters say, often days. The exit code is 1 if
the poll did not complete.`,
		Example: `  armarium node poll
  armarium node poll "Volume 7" --wait`,
		Args: args(0, 1, "at most one unit"),
		RunE: func(cmd *cobra.Command, a []string) error {
			if len(a) == 0 {
				if wait {
					return usagef("--wait needs a unit")
				}
				return o.show(cmd, "polls")
			}
			return o.start(cmd, pollTask(), a[0], wait, 2*time.Second)
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "show progress until the poll has ended")
	return c
}

func pollTask() task {
	return task{
		what: "poll", table: "polls",
		own: func(row) bool { return true },
		key: func(r row) string { return r.text("key") },
		line: func(r row, since time.Duration, p pace) string {
			var b strings.Builder
			fmt.Fprintf(&b, "poll: %s, %.0f votes", clean(r.text("status")), r.num("voters"))
			if q := r.num("quorum"); q > 0 {
				fmt.Fprintf(&b, " of %.0f needed", q)
			}
			if n := r.num("urls"); n > 0 {
				fmt.Fprintf(&b, ", %.0f URLs compared", n)
			}
			if n := r.num("repairs"); n > 0 {
				fmt.Fprintf(&b, ", %.0f repaired", n)
			}
			for _, k := range []string{"voteDeadline", "deadline"} {
				if left := time.Until(r.when(k)); left > 0 && !r.when(k).IsZero() {
					fmt.Fprintf(&b, ", at most %v left", left.Round(time.Second))
					break
				}
			}
			fmt.Fprintf(&b, ", %v", since.Round(time.Second))
			return b.String()
		},
		end: func(r row) (string, error) {
			status := r.text("status")
			text := fmt.Sprintf("poll ended: %s; %.0f votes, %.0f URLs, %.0f repaired", clean(status), r.num("voters"), r.num("urls"), r.num("repairs"))
			if r["agreement"] != nil {
				text += ", agreement " + cell(r["agreement"], "percent")
			}
			if s := r.text("sentence"); s != "" {
				text += "\n" + clean(s)
			}
			if !strings.HasPrefix(strings.ToLower(status), "complete") {
				return "", fmt.Errorf("%s", text)
			}
			return text, nil
		},
	}
}
