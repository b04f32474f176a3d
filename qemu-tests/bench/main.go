// Bench measures what a box does all its life, each thing beside the program that people
// know for it, in the same run, round by round in turn.
//
//	go run ./qemu-tests/bench -bin build -o build/bench.jsonl [-only poll]
//
//	hash    digest an archival unit as a vote does      openssl dgst, hash.go
//	crawl   collect a site into the store               wget -r, crawl.go
//	poll    a whole poll of many small URLs             no peer, poll.go
//	size    the image, compressed                       kernel and a hello, size.go
//	boot    power on to init, power on to the pages     kernel and a hello, boot.go
//
// Every result is one line of JSON:
//
//	{"name":"crawl","unit":"pages/s","ours":1.5,"peer":2.0,"peer_name":"wget -r, …",
//	 "ratio":0.75,"better":"higher","n":3}
//
// ours and peer are medians of n rounds, ratio is ours / peer; peer and ratio are null where
// there is no peer. What stands in the way of a fair comparison is said in peer_name.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"armarium/qemu-tests/world"
)

// result is one line of the output.
type result struct {
	Name     string   `json:"name"`
	Unit     string   `json:"unit"`
	Ours     float64  `json:"ours"`
	Peer     *float64 `json:"peer"`
	PeerName string   `json:"peer_name"`
	Ratio    *float64 `json:"ratio"`
	Better   string   `json:"better"` // higher or lower
	N        int      `json:"n"`
}

const (
	higher = "higher"
	lower  = "lower"
)

// bench is one run.
type bench struct {
	bin   string // directory of the programs and the image
	dir   string // scratch, removed at the end
	tree  string // HTML documentation
	urls  int    // of the poll
	out   io.Writer
	start time.Time
	last  []result
}

var measures = []struct {
	name string
	run  func(*bench, context.Context) error
}{
	{"hash", (*bench).hash}, {"crawl", (*bench).crawl}, {"poll", (*bench).poll}, {"size", (*bench).size}, {"boot", (*bench).boot},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(2)
		}
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, w io.Writer) (err error) {
	var names []string
	for _, m := range measures {
		names = append(names, m.name)
	}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	bin := f.String("bin", "build", "`directory` of armariumd, armarium and armarium.img")
	out := f.String("o", "build/bench.jsonl", "write the results here, one JSON object a line")
	only := f.String("only", "", "measure only this: "+strings.Join(names, ", "))
	tree := f.String("tree", "/usr/share/doc/python3/html", "`directory` of HTML documentation, with library, _static and _images")
	urls := f.Int("urls", 20_000, "URLs of the poll")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *only != "" && !slices.Contains(names, *only) {
		return fmt.Errorf("-only %s: there are %s", *only, strings.Join(names, ", "))
	}
	b := &bench{out: w, urls: *urls, start: time.Now()}
	if b.tree, err = filepath.EvalSymlinks(*tree); err != nil {
		return fmt.Errorf("%w; run make setup", err)
	}
	if b.bin, err = filepath.Abs(*bin); err != nil {
		return err
	}
	// Beside the output, so that it is a real disk and not memory.
	if err := os.MkdirAll(filepath.Dir(*out), 0o755); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp(filepath.Dir(*out), "bench-*"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.dir, err = filepath.Abs(b.dir); err != nil {
		return err
	}

	var all []result
	var errs []error
	for i, m := range measures {
		if *only != "" && m.name != *only {
			continue
		}
		b.say("== %s (%d of %d)", m.name, i+1, len(measures))
		b.last = nil
		if err := m.run(b, ctx); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			b.say("%s: %v", m.name, err)
			errs = append(errs, fmt.Errorf("%s: %w", m.name, err))
		}
		all = append(all, b.last...)
	}
	table(w, all)
	if err := save(*out, all); err != nil {
		return err
	}
	b.say("%d results in %s", len(all), *out)
	return errors.Join(errs...)
}

// say prints one line with the seconds since the start.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.out, "%6.1fs  %s\n", time.Since(b.start).Seconds(), fmt.Sprintf(format, args...))
}

// add takes a result; peer nil: there is none.
func (b *bench) add(name, unit, better string, ours, peer []float64, peerName string) {
	r := result{Name: name, Unit: unit, Ours: median(ours), PeerName: peerName, Better: better, N: len(ours)}
	if len(peer) > 0 {
		p := median(peer)
		q := r.Ours / p
		r.Peer, r.Ratio = &p, &q
	}
	b.last = append(b.last, r)
	b.say("%s", line(r))
}

// rounds measures in turn, and says how far it is. A nil peer is left out.
func (b *bench) rounds(ctx context.Context, what, unit string, n int, ours, peer func(context.Context) (float64, error)) (o, p []float64, err error) {
	began := time.Now()
	for i := range n {
		x, err := ours(ctx)
		if err != nil {
			return nil, nil, err
		}
		o = append(o, x)
		text := fmt.Sprintf("ours %s %s", digits(x), unit)
		if peer != nil {
			y, err := peer(ctx)
			if err != nil {
				return nil, nil, fmt.Errorf("peer: %w", err)
			}
			p = append(p, y)
			text += ", peer " + digits(y)
		}
		b.say("%s: round %d of %d, %s%s", what, i+1, n, text, left(began, i+1, n))
	}
	return o, p, nil
}

// left is the time that what remains will take, at the pace so far.
func left(began time.Time, done, total int) string {
	if done <= 0 || done >= total {
		return ""
	}
	d := time.Since(began) * time.Duration(total-done) / time.Duration(done)
	return fmt.Sprintf(", about %v left", d.Round(100*time.Millisecond))
}

func median(list []float64) float64 {
	s := slices.Sorted(slices.Values(list))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

func line(r result) string {
	t := fmt.Sprintf("%-14s %10s %-8s", r.Name, digits(r.Ours), r.Unit)
	if r.Peer == nil {
		return t + fmt.Sprintf(" %10s %7s", "", "")
	}
	return t + fmt.Sprintf(" %10s %6.2fx  %s", digits(*r.Peer), *r.Ratio, r.PeerName)
}

// digits writes a number with three of them or, in front of the point, all.
func digits(x float64) string {
	switch {
	case x < 10:
		return fmt.Sprintf("%.2f", x)
	case x < 100:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.0f", x)
}

func table(w io.Writer, all []result) {
	fmt.Fprintf(w, "\n%-14s %10s %-8s %10s %7s  %s\n", "what", "ours", "unit", "peer", "ratio", "peer is")
	for _, r := range all {
		fmt.Fprintf(w, "%s  (%s is better, n=%d)\n", strings.TrimRight(line(r), " "), r.Better, r.N)
	}
}

// save replaces the file; a run of one measure keeps the others' lines.
func save(name string, all []result) error {
	old, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	fresh := map[string]bool{}
	for _, r := range all {
		fresh[r.Name] = true
	}
	var out bytes.Buffer
	for l := range bytes.Lines(old) {
		var r result
		if json.Unmarshal(l, &r) == nil && !fresh[r.Name] {
			out.Write(l)
		}
	}
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	for _, r := range all {
		if err := e.Encode(r); err != nil {
			return err
		}
	}
	return os.WriteFile(name, out.Bytes(), 0o644)
}

// product finds a file that make makes.
func (b *bench) product(name, target string) (string, error) {
	p := filepath.Join(b.bin, name)
	if _, err := os.Stat(p); err != nil {
		return "", fmt.Errorf("%s is missing: run make %s", p, target)
	}
	return p, nil
}

// quiet runs a program; its output is only for the error.
func quiet(ctx context.Context, name string, args ...string) error {
	if _, err := exec.LookPath(name); err != nil {
		return fmt.Errorf("%s is missing: run make setup", name)
	}
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out[max(0, len(out)-500):])))
	}
	return nil
}

// scratch makes a new directory.
func (b *bench) scratch(name string) (string, error) {
	return os.MkdirTemp(b.dir, name+"-*")
}

// publication is what the crawl collects.
func (b *bench) publication() world.Publication {
	return world.Publication{Tree: b.tree, Section: "library", Assets: []string{"_static", "_images"}}
}
