package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"
)

// A task is something that a node does over time and that a table of the node tells about:
// a crawl or a poll.
type task struct {
	what  string                                          // "crawl", "poll"
	table string                                          // path of the table
	own   func(row) bool                                  // whether a row is of this kind of task
	key   func(row) string                                // identity of a row
	line  func(r row, since time.Duration, p pace) string // progress of a running one
	end   func(r row) (string, error)                     // result of an ended one
}

// A pace is how fast the counted thing goes on.
type pace struct {
	done float64
	rate float64 // per second; 0: not known yet
}

// start asks for a task on a unit and, with wait, shows its progress until the end.
func (o *nodeOptions) start(cmd *cobra.Command, t task, unit string, wait bool, every time.Duration) error {
	ctx := cmd.Context()
	c, err := o.client(cmd)
	if err != nil {
		return err
	}
	id, name, err := c.findAU(ctx, unit)
	if err != nil {
		return err
	}
	before := map[string]bool{}
	if wait {
		rows, err := c.rows(ctx, t.table, id)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if !r.flag("running") {
				before[t.key(r)] = true
			}
		}
	}
	b, err := c.do(ctx, http.MethodPost, auPath(id, t.what), nil)
	var ae *apiError
	switch {
	case wait && errors.As(err, &ae) && ae.Status == http.StatusConflict:
		fmt.Fprintf(cmd.ErrOrStderr(), "%s; watching it\n", clean(ae.Text))
	case err != nil:
		return err
	case !wait:
		if o.json {
			return o.print(cmd, b)
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s of %s requested; follow it with: armarium node %s\n", t.what, clean(name), t.what)
		return err
	}
	return o.watch(cmd, c, t, id, before, every)
}

// rows reads the rows of a table that belong to a unit.
func (c *client) rows(ctx context.Context, path, id string) ([]row, error) {
	b, err := c.do(ctx, http.MethodGet, path+"?au="+url.QueryEscape(id), nil)
	if err != nil {
		return nil, err
	}
	t, err := parseTable(b)
	if err != nil {
		return nil, err
	}
	var own []row
	for _, r := range t.Rows {
		if a := r.text("au", "auid"); a == "" || a == id {
			own = append(own, r)
		}
	}
	return own, nil
}

// watch shows progress until a task that is not in before has ended. A node that does not
// answer for a while is asked again: the task goes on without us.
func (o *nodeOptions) watch(cmd *cobra.Command, c *client, t task, id string, before map[string]bool, every time.Duration) error {
	ctx := cmd.Context()
	p := newProgress(cmd.ErrOrStderr())
	defer p.close()
	began := time.Now()
	var last pace
	lastAt := began
	failures := 0
	for {
		rows, err := c.rows(ctx, t.table, id)
		var ae *apiError
		switch {
		case err != nil && ctx.Err() != nil:
			return fmt.Errorf("stopped watching; the %s goes on", t.what)
		case err != nil && (errors.As(err, &ae) || failures == 30):
			return err
		case err != nil:
			failures++
			p.show("the node does not answer; asking again")
		default:
			failures = 0
			var running, ended row
			for _, r := range rows {
				switch {
				case !t.own(r):
				case r.flag("running"):
					running = r
				case !before[t.key(r)] && ended == nil:
					ended = r
				}
			}
			switch {
			case running != nil:
				now := time.Now()
				done := running.num("fetched", "voters")
				cur := pace{done: done, rate: last.rate}
				if dt := now.Sub(lastAt).Seconds(); dt > 0 && done >= last.done {
					fresh := (done - last.done) / dt
					if cur.rate == 0 {
						cur.rate = fresh
					} else {
						cur.rate = 0.7*cur.rate + 0.3*fresh // smooth: pages differ in size
					}
				}
				last, lastAt = cur, now
				p.show(t.line(running, now.Sub(began), cur))
			case ended != nil:
				text, err := t.end(ended)
				p.close()
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
				return err
			default:
				p.show(fmt.Sprintf("%s waits for its turn, %v", t.what, time.Since(began).Round(time.Second)))
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stopped watching; the %s goes on", t.what)
		case <-time.After(every):
		}
	}
}

// A progress line is rewritten in place on a terminal and repeated, when it changed, elsewhere.
type progress struct {
	w        io.Writer
	terminal bool
	last     string
}

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, terminal: ok && isTerminal(f)}
}

func (p *progress) show(s string) {
	if s == p.last {
		return
	}
	p.last = s
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s", s)
	} else {
		fmt.Fprintln(p.w, s)
	}
}

func (p *progress) close() {
	if p.terminal && p.last != "" {
		fmt.Fprintln(p.w)
	}
	p.last = ""
}
