package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// printer writes what happens as one line each: seconds since the start, who, what.
type printer struct {
	mu    sync.Mutex
	w     io.Writer
	start time.Time
}

func (p *printer) say(who, format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.w, "%6.1fs  %-9s %s\n", time.Since(p.start).Seconds(), who, fmt.Sprintf(format, args...))
}

func (p *printer) head(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.w, "\n%6.1fs  == %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, args...))
}

// progress tells what, how much of how much, the rate and the time left.
func progress(what string, done, total int, unit string, since time.Time) string {
	elapsed := time.Since(since).Seconds()
	line := fmt.Sprintf("%s: %d of %d %s", what, done, total, unit)
	if done > 0 && elapsed > 0 {
		rate := float64(done) / elapsed
		line += fmt.Sprintf(", %.1f/s", rate)
		if total > done {
			line += fmt.Sprintf(", about %s left", time.Duration(float64(total-done)/rate*float64(time.Second)).Round(time.Second))
		}
	}
	return line
}

// report is the list of what was shown, and what failed.
type report struct {
	rows []row
}

type row struct {
	what, evidence string
	err            error
}

func (r *report) shown(what, format string, args ...any) {
	r.rows = append(r.rows, row{what: what, evidence: fmt.Sprintf(format, args...)})
}

func (r *report) failed(what string, err error) {
	r.rows = append(r.rows, row{what: what, err: err})
}

// print writes the table and the last line, and gives the exit status.
func (r *report) print(w io.Writer) int {
	width := 0
	for _, x := range r.rows {
		width = max(width, len(x.what))
	}
	fmt.Fprintf(w, "\n%-*s  %-6s  %s\n%s\n", width, "what", "result", "evidence", strings.Repeat("-", width+40))
	failed := 0
	for _, x := range r.rows {
		result, text := "shown", x.evidence
		if x.err != nil {
			result, text = "FAILED", x.err.Error()
			failed++
		}
		fmt.Fprintf(w, "%-*s  %-6s  %s\n", width, x.what, result, text)
	}
	fmt.Fprintf(w, "demo: %d shown, %d failed\n", len(r.rows)-failed, failed)
	if failed > 0 {
		return 1
	}
	return 0
}
