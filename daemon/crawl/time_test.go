package crawl

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"armarium/daemon/au"
	"armarium/daemon/lockss"
	"armarium/daemon/plugin"
)

// pipes is a network of pipes, which a synctest bubble can wait for: all times are those of the
// defaults, and pass at once.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// timedWorld is a world in virtual time with the default parameters.
func timedWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, pub: &publisher{}, done: make(chan Result, 100)}
	network := make(pipes)
	srv := &http.Server{Handler: w.pub}
	ended := make(chan error)
	go func() { ended <- srv.Serve(network) }()
	cfg := defaults(t)
	cfg.Dial = func(ctx context.Context, _, addr string) (net.Conn, error) {
		if strings.HasPrefix(addr, "gone.example") {
			return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "gone.example", IsNotFound: true}}
		}
		ours, theirs := net.Pipe()
		network <- theirs
		return ours, nil
	}
	cfg.Done = func(r Result) { w.done <- r }
	t.Cleanup(func() {
		w.transport.CloseIdleConnections()
		close(network)
		<-ended
		srv.Close()
	})
	w.start(cfg, 6*time.Second, change)
	return w
}

// Waits between requests and tries are those of crawl.md 7, 8.3 and plugins.md 10.
func TestTiming(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		waits  []time.Duration // before each request but the first, which is the start page
		status Status
	}{
		{"pause", html("x"), []time.Duration{6 * time.Second, 6 * time.Second}, Successful},
		{"retries", code(503), []time.Duration{6 * time.Second, 10 * time.Second, 10 * time.Second, 6 * time.Second}, FetchError},
		{
			// Silence of 30 min, twice on the first try (net/http repeats a request on a connection
			// used before), and 30 s between tries.
			"silence", func(w http.ResponseWriter, _ *http.Request) {
				conn, _, err := w.(http.Hijacker).Hijack()
				if err == nil {
					io.Copy(io.Discard, conn)
					conn.Close()
				}
			},
			[]time.Duration{6 * time.Second, 30 * time.Minute, 30*time.Minute + 30*time.Second, 30*time.Minute + 30*time.Second, 30 * time.Minute}, FetchError,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := timedWorld(t, nil)
				var at []time.Time
				stamp := func(h http.HandlerFunc) http.HandlerFunc {
					return func(w http.ResponseWriter, r *http.Request) {
						at = append(at, time.Now())
						h(w, r)
					}
				}
				w.pub.set("/v1/index.html", stamp(html(linked("x.html", "y.html"))))
				w.pub.set("/v1/x.html", stamp(c.answer))
				w.pub.set("/v1/y.html", stamp(html("y")))
				res := w.crawl(RequestOptions{})
				var waits []time.Duration
				for i := 1; i < len(at); i++ {
					waits = append(waits, at[i].Sub(at[i-1]))
				}
				if !slices.Equal(waits, c.waits) || res.Status != c.status {
					t.Errorf("%v, waits %v, want %v, %v", res.Status, waits, c.status, c.waits)
				}
			})
		})
	}
	t.Run("unknown host", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := timedWorld(t, nil)
			w.units.Configure([]au.Entry{{PluginID: pressID, Params: map[string]string{"base_url": "http://gone.example/", "volume_name": "v1"}}})
			began := time.Now()
			res := w.crawlUnit(t.Context(), w.units.Units()[0], RequestOptions{})
			if took := time.Since(began); res.Status != FetchError || !strings.Contains(res.Message, "no such host") || took != 30*time.Second {
				t.Errorf("after %v: %v %q", took, res.Status, res.Message)
			}
		})
	})
	t.Run("too long a crawl", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := timedWorld(t, func(c *Config) { c.MaxCrawlTime = 10 * time.Second })
			w.pub.set("/v1/index.html", html(linked("1", "2", "3", "4")))
			if res := w.crawl(RequestOptions{}); res.Status != Error || !strings.Contains(res.Message, ErrCrawlTime.Error()) {
				t.Errorf("%v %q", res.Status, res.Message)
			}
		})
	})
}

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limiter
		began := time.Now()
		wait := func(pool, rate string) time.Duration {
			r, err := lockss.ParseRate(rate)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.wait(t.Context(), pool, r); err != nil {
				t.Fatal(err)
			}
			return time.Since(began)
		}
		for i, want := range []time.Duration{0, 0, 10 * time.Second, 10 * time.Second, 20 * time.Second} {
			if got := wait("a", "2/10s"); got != want {
				t.Errorf("request %d after %v, want %v", i, got, want)
			}
		}
		if got := wait("b", "2/10s"); got != 20*time.Second {
			t.Errorf("another pool waited: %v", got)
		}
		if got := wait("a", "unlimited"); got != 20*time.Second {
			t.Errorf("unlimited waited: %v", got)
		}
		if got := wait("a", "1000000/1h"); got != 20*time.Second || scaled(lockss.Rate{Events: 1_000_000, Per: time.Hour}).Events != maxEvents {
			t.Errorf("a fast rate waited: %v", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.wait(ctx, "a", lockss.Rate{Events: 2, Per: time.Hour}); err != nil {
			t.Error(err)
		}
		l.wait(ctx, "a", lockss.Rate{Events: 2, Per: time.Hour})
		if err := l.wait(ctx, "a", lockss.Rate{Events: 2, Per: time.Hour}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with too little time: %v", err)
		}
	})
}

// When crawls start by themselves (crawl.md 2).
func TestSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		w := timedWorld(t, nil)
		w.configure("v1", "v2", "v3")
		w.pub.set("/v1/index.html", html(granted))
		w.pub.set("/v2/index.html", code(404))
		w.pub.set("/v3/index.html", html(granted))
		w.pub.set("/plugins/", html(granted))
		reg, err := w.units.AddRegistryAU(base + "plugins/")
		if err != nil {
			t.Fatal(err)
		}
		// v3 was crawled an hour ago, and was being crawled again when the power failed.
		err = w.of("v3").Update(func(s *au.State) {
			s.LastCrawl, s.LastCrawlAttempt, s.LastCrawlResult = began.Add(-time.Hour), began.Add(-time.Minute), int(Active)
		})
		if err != nil {
			t.Fatal(err)
		}
		stop := w.runAll()
		defer stop()
		type begin struct {
			unit lockss.AUID
			at   time.Duration
		}
		v1, v2, v3 := w.of("v1").ID(), w.of("v2").ID(), w.of("v3").ID()
		var got []begin
		for range 9 {
			r := <-w.done
			got = append(got, begin{r.AU, r.Started.Sub(began)})
		}
		const tick = 730 * time.Millisecond
		const day = 24 * time.Hour
		first := 2 * time.Minute
		want := []begin{
			{reg.ID(), first}, {v3, first + tick}, {v1, first + 2*tick}, {v2, first + 3*tick}, // registry, crashed, never attempted by name
			{v2, 18*time.Hour + first + 3*tick}, // failed: again as soon as its rate allows
			{reg.ID(), day + first},
			{v2, 36*time.Hour + first + 3*tick},
			{reg.ID(), 2*day + first},
			{v2, 54*time.Hour + first + 3*tick},
		}
		for i := range want {
			// v2 is found by an hourly scan, so it may start up to an hour after its rate allows.
			late := got[i].at - want[i].at
			if got[i].unit != want[i].unit || late < 0 || late > time.Hour || i < 4 && late != 0 {
				t.Errorf("crawl %d: %v, want %v", i, got[i], want[i])
			}
		}
		// v1 has its turn after two weeks, not before.
		for {
			r := <-w.done
			if r.AU == v1 {
				if at := r.Started.Sub(began); at < 14*day || at > 14*day+2*time.Hour {
					t.Errorf("v1 again after %v", at)
				}
				break
			}
		}
	})
}

// Units of one pool are crawled one after the other, requests by their priority, and the number
// of crawls is limited.
func TestPools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := timedWorld(t, func(c *Config) { c.StartRate = lockss.Rate{}; c.MaxCrawls = 2 })
		w.units.SetPlugins([]*plugin.Definition{press(t, "<map>", "<map><entry><string>plugin_fetch_rate_limiter_source</string><string>plugin</string></entry>")})
		w.configure("v1", "v2", "v3")
		for _, v := range []string{"v1", "v2", "v3"} {
			w.pub.set("/"+v+"/index.html", html(linked("a", "b")))
		}
		for i, v := range []string{"v1", "v2", "v3"} {
			if err := w.Request(w.of(v).ID(), RequestOptions{Priority: i}); err != nil {
				t.Fatal(err)
			}
		}
		if got := w.Queued(); !slices.Equal(got, []lockss.AUID{w.of("v3").ID(), w.of("v2").ID(), w.of("v1").ID()}) {
			t.Errorf("queued %v", got)
		}
		stop := w.runAll()
		defer stop()
		synctest.Wait()
		if n := len(w.Running()); n != 1 {
			t.Errorf("%d crawls of one pool at a time", n)
		}
		var last time.Time
		for _, v := range []string{"v3", "v2", "v1"} {
			r := <-w.done
			if r.AU != w.of(v).ID() || r.Started.Before(last) {
				t.Errorf("%s at %v, want %s after %v", r.AU, r.Started, v, last)
			}
			last = r.Ended
		}

		// Pools of their own, but only two places.
		w.units.SetPlugins([]*plugin.Definition{press(t)})
		for _, v := range []string{"v1", "v2", "v3"} {
			if err := w.Request(w.of(v).ID(), RequestOptions{OverrideRates: true}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := len(w.Running()); n != 2 {
			t.Errorf("%d crawls at a time, want 2", n)
		}
		if err := w.Abort(w.of("v3").ID()); err != nil {
			t.Error(err)
		}
		for range 2 {
			<-w.done
		}
		if err := stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("run ended with %v", err)
		}
		if len(w.done) != 0 || len(w.Queued()) != 0 {
			t.Error("the request that was taken back was served")
		}
	})
}

// Switched off, or without a publisher, nothing starts.
func TestNotDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := timedWorld(t, nil)
		w.units.Configure([]au.Entry{{PluginID: pressID, Params: map[string]string{"base_url": base, "volume_name": "v1", "pub_down": "true"}}})
		u := w.of("v1")
		stop := w.runAll()
		time.Sleep(100 * time.Hour)
		if got := w.pub.asked(); len(got) != 0 || len(w.done) != 0 {
			t.Errorf("asked %v", got)
		}
		if err := w.Refetch(t.Context(), u.ID(), start); err == nil || !strings.Contains(err.Error(), "pub_down") {
			t.Errorf("repair: %v", err)
		}
		stop()
		w.cfg.Enabled = false
		if err := w.Request(u.ID(), RequestOptions{}); err == nil {
			t.Error("requested although it is off")
		}
	})
}
