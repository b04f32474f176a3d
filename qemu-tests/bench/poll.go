package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"armarium/daemon/au"
	"armarium/daemon/javaprops"
	"armarium/daemon/lockss"
	"armarium/daemon/store"
	"armarium/qemu-tests/world"
)

const (
	pollRounds  = 3
	pollSection = "small"
	pollBody    = 1000      // bytes
	userHz      = 100.0     // ticks of /proc/PID/stat in a second, on every architecture that boxes have
	pollWait    = time.Hour // a poll that takes longer hangs
)

// poll has one node poll two others on a unit of many small URLs that all three hold.
func (b *bench) poll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pollWait)
	defer cancel()
	const nodes = 3
	n, err := b.startNetwork("poll", nodes, nil)
	if err != nil {
		return err
	}
	defer n.stop()
	id := n.unit(pollSection)
	began := time.Now()
	if err := b.preload(n, id); err != nil {
		return err
	}
	for i := 2; i <= nodes; i++ {
		if err := quiet(ctx, "cp", "-a", n.home(1), n.home(i)); err != nil {
			return err
		}
	}
	b.say("poll: %d URLs in each of %d nodes, %v", b.urls, nodes, time.Since(began).Round(time.Millisecond))
	for i := 1; i <= nodes; i++ {
		p, err := n.start(ctx, i, nil)
		if err != nil {
			return err
		}
		if err := holds(ctx, p.Member, id, b.urls); err != nil {
			return err
		}
	}

	poller := n.nodes[1]
	var cpu, memory []float64
	known := map[string]bool{}
	ours := func(ctx context.Context) (float64, error) {
		// From here on VmHWM counts anew.
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", poller.PID()), []byte("5"), 0); err != nil {
			return 0, err
		}
		before, err := cpuSeconds(poller.PID())
		if err != nil {
			return 0, err
		}
		if err := poller.Call(ctx, http.MethodPost, path(id, "/poll"), map[string]string{}, nil); err != nil {
			return 0, err
		}
		last := ""
		r, err := ended(ctx, poller.Member, "polls", id, known, func(r world.Row) {
			if s := r.Text("status"); s != last {
				last = s
				b.say("poll: %s, %d of %d URLs", s, int(r.Number("urls")), b.urls)
			}
		})
		if err != nil {
			return 0, err
		}
		if r.Text("status") != "Complete" || int(r.Number("won")) != b.urls || r.Number("voters") != nodes-1 {
			return 0, fmt.Errorf("the poll came to something else: %s: %s", r.Text("status"), r.Text("sentence"))
		}
		after, err := cpuSeconds(poller.PID())
		if err != nil {
			return 0, err
		}
		peak, err := peakMemory(poller.PID())
		if err != nil {
			return 0, err
		}
		cpu, memory = append(cpu, after-before), append(memory, peak)
		took, err := span(r)
		return took.Seconds(), err
	}
	wall, _, err := b.rounds(ctx, "poll", "s", pollRounds, ours, nil)
	if err != nil {
		return err
	}
	b.add("poll wall", "s", lower, wall, nil, "")
	b.add("poll cpu", "s", lower, cpu, nil, "")
	b.add("poll memory", "MB", lower, memory, nil, "")
	return nil
}

// preload makes the tree of node 1 as if it had crawled the unit, and configures it.
func (b *bench) preload(n *network, id lockss.AUID) (err error) {
	root := filepath.Join(n.home(1), "gamma")
	if err := os.MkdirAll(filepath.Join(root, "config"), 0o755); err != nil {
		return err
	}
	s, err := store.Open(store.Config{Roots: []string{root}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	u, err := s.Create(id, "")
	if err != nil {
		return err
	}
	params := n.unitParams(pollSection)
	urls := make(chan int)
	var writers sync.WaitGroup
	var once sync.Once
	var fault error
	for range 8 { // they wait for the disk most of the time
		writers.Go(func() {
			for i := range urls {
				if err := putPage(u, fmt.Sprintf("%s%s/%03d/%05d.html", params["base_url"], pollSection, i/100, i), i); err != nil {
					once.Do(func() { fault = err })
				}
			}
		})
	}
	began, said := time.Now(), time.Now()
	for i := range b.urls {
		urls <- i
		if time.Since(said) > 2*time.Second {
			said = time.Now()
			b.say("poll: %d of %d URLs stored%s", i, b.urls, left(began, i, b.urls))
		}
	}
	close(urls)
	writers.Wait()
	if fault != nil {
		return fault
	}

	e := au.Entry{PluginID: world.PluginID, Params: params, ID: id, Root: root}
	reg := au.NewRegistry(au.Config{Store: s})
	reg.Configure([]au.Entry{e}) // without its plugin; the state file needs none
	unit, ok := reg.Unit(id)
	if !ok {
		return fmt.Errorf("%s is not configured", id)
	}
	const successful = 3 // crawl.md 3
	now := time.Now()
	err = unit.Update(func(s *au.State) {
		s.LastCrawl, s.LastCrawlAttempt, s.LastCrawlResult, s.LastContentChange, s.AccessType = now, now, successful, now, au.OpenAccess
	})
	if err != nil {
		return err
	}
	e.Root = "" // the first disk of whichever node reads it
	return os.WriteFile(filepath.Join(root, "config", "au.txt"), javaprops.Append(nil, []string{"AU Configuration"}, e.Props()), 0o644)
}

func putPage(u *store.Unit, url string, i int) error {
	w, err := u.New(url)
	if err != nil {
		return err
	}
	defer w.Abandon()
	page := fmt.Appendf(nil, "<html><head><title>%d</title></head><body>", i)
	page = append(page, bytes.Repeat(fmt.Appendf(nil, "%d ", i), pollBody/8)...)
	if _, err := w.Write(page); err != nil {
		return err
	}
	_, err = w.Seal(map[string]string{"x-lockss-content-type": "text/html", "content-type": "text/html"})
	return err
}

// holds waits until a node has the unit in service with all its URLs.
func holds(ctx context.Context, m world.Member, id lockss.AUID, urls int) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		var a struct {
			URLs  int
			State string
		}
		err := m.Call(ctx, http.MethodGet, path(id, ""), nil, &a)
		if err == nil && a.URLs == urls {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not hold the unit: %+v %w", m.Name, a, errors.Join(err, context.Cause(ctx)))
		case <-tick.C:
		}
	}
}

// cpuSeconds is the processor time that a process has used.
func cpuSeconds(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the name may have blanks
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	user, err := strconv.ParseFloat(f[11], 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseFloat(f[12], 64)
	return (user + system) / userHz, err
}

// peakMemory is the most memory that a process had resident, in MB.
func peakMemory(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for l := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(l, "VmHWM:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(v)[0], 64)
			return kb * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no VmHWM", pid)
}
