package crawl

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"armarium/daemon/au"
	"armarium/daemon/config"
	"armarium/daemon/lockss"
	"armarium/daemon/plugin"
	"armarium/daemon/store"
)

const (
	pressID = "org.example.press.ExamplePressPlugin"
	base    = "http://press.example/"
	start   = base + "v1/index.html"
	granted = "<p>LOCKSS system has permission to collect, preserve, and serve this Archival Unit</p>"
)

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readJSON(t testing.TB, name string, v any) {
	t.Helper()
	if err := json.Unmarshal(readFile(t, name), v); err != nil {
		t.Fatal(err)
	}
}

// A publisher is a web site for all hosts, over real connections.
type publisher struct {
	mu    sync.Mutex
	log   []*http.Request
	pages map[string]http.HandlerFunc // by path with query, or by "//host/path"
	other http.HandlerFunc            // pages not in it; nil: 404
}

func (p *publisher) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.log = append(p.log, r)
	h := p.pages["//"+r.Host+r.RequestURI]
	if h == nil {
		h = p.pages[r.RequestURI]
	}
	p.mu.Unlock()
	if h == nil {
		h = p.other
	}
	if h == nil {
		http.Error(w, "no such page", http.StatusNotFound)
		return
	}
	h(w, r)
}

// asked lists the requests since the last call, "GET /path" or "//host/path" for other hosts.
func (p *publisher) asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for _, r := range p.log {
		s := r.RequestURI
		if r.Host != "press.example" {
			s = "//" + r.Host + s
		}
		all = append(all, s)
	}
	p.log = nil
	return all
}

func (p *publisher) set(path string, h http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pages == nil {
		p.pages = map[string]http.HandlerFunc{}
	}
	p.pages[path] = h
}

// modified is the Last-Modified of all pages that did not change.
const modified = "Tue, 03 Jan 2017 10:00:00 GMT"

// page answers with a body, and 304 to who has it.
func page(contentType, body string) http.HandlerFunc {
	return pageOf(modified, contentType, body)
}

func pageOf(date, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("If-Modified-Since") == date {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Last-Modified", date)
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		io.WriteString(w, body)
	}
}

func html(body string) http.HandlerFunc { return page("text/html; charset=UTF-8", body) }

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusFound)
	}
}

func code(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", n) }
}

// A world is a node's crawler with a store, and the publishers it can reach.
type world struct {
	t     testing.TB
	pub   *publisher
	store *store.Store
	units *au.Registry
	unit  *au.Unit
	*Crawler
	done chan Result
}

// press reads the plugin of the tests, with replacements.
func press(t testing.TB, replace ...string) *plugin.Definition {
	t.Helper()
	xml := strings.NewReplacer(append(replace, "<long>100</long>", "<long>1</long>")...).Replace(string(readFile(t, "ExamplePressPlugin.xml")))
	d, err := plugin.ParseDefinition(pressID, []byte(xml), nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func defaults(t testing.TB) Config {
	t.Helper()
	var c Config
	if problems := config.NewSnapshot(nil, "test").Fill(&c); len(problems) > 0 {
		t.Fatal(problems)
	}
	return c
}

// newWorld makes a world with one unit. Waits are short: retries after 1 ms, requests 1 ms
// apart, silence of 300 ms an error.
func newWorld(t testing.TB, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, pub: &publisher{}, done: make(chan Result, 10)}
	srv := httptest.NewServer(w.pub)
	t.Cleanup(srv.Close)
	cfg := defaults(t)
	cfg.RetryDelay, cfg.MinRetryDelay = time.Millisecond, time.Millisecond
	cfg.DataTimeout = 300 * time.Millisecond
	cfg.StartRate = lockss.Rate{}
	cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if strings.HasPrefix(addr, "gone.example") {
			return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "gone.example", IsNotFound: true}}
		}
		return new(net.Dialer).DialContext(ctx, network, srv.Listener.Addr().String())
	}
	cfg.Done = func(r Result) { w.done <- r }
	w.start(cfg, time.Millisecond, change)
	return w
}

func (w *world) start(cfg Config, pause time.Duration, change func(*Config)) {
	t := w.t
	t.Helper()
	var err error
	if w.store, err = store.Open(store.Config{Roots: []string{t.TempDir()}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	w.units = au.NewRegistry(au.Config{Store: w.store, MinFetchDelay: pause})
	w.units.SetPlugins([]*plugin.Definition{press(t)})
	w.configure("v1")
	w.unit = w.of("v1")
	cfg.Units = w.units
	if change != nil {
		change(&cfg)
	}
	if w.Crawler, err = New(cfg); err != nil {
		t.Fatal(err)
	}
}

func (w *world) configure(volumes ...string) {
	w.t.Helper()
	var entries []au.Entry
	for _, v := range volumes {
		entries = append(entries, au.Entry{PluginID: pressID, Params: map[string]string{"base_url": base, "volume_name": v}})
	}
	if errs := w.units.Configure(entries); len(errs) > 0 {
		w.t.Fatal(errs)
	}
}

func (w *world) of(volume string) *au.Unit {
	w.t.Helper()
	u, ok := w.units.Unit(lockss.NewAUID(pressID, map[string]string{"base_url": base, "volume_name": volume}))
	if !ok || u.Problem() != "" {
		w.t.Fatalf("unit %s: %v", volume, u)
	}
	return u
}

// crawl crawls the unit once, on this goroutine.
func (w *world) crawl(opts RequestOptions) Result {
	w.t.Helper()
	return w.crawlUnit(w.t.Context(), w.unit, opts)
}

func (w *world) crawlUnit(ctx context.Context, u *au.Unit, opts RequestOptions) Result {
	w.t.Helper()
	cr, err := w.newCrawl(u, KindNewContent)
	if err != nil {
		w.t.Fatal(err)
	}
	cr.opts = opts
	ctx, cr.cancel = context.WithCancelCause(ctx)
	defer cr.cancel(nil)
	return cr.run(ctx)
}

func (w *world) current(url string) *store.Version {
	w.t.Helper()
	v, err := w.unit.Content().Current(url)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (w *world) body(url string) string {
	w.t.Helper()
	r, err := w.current(url).Open()
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// held lists what is stored, without the base.
func (w *world) held() []string {
	w.t.Helper()
	var all []string
	err := w.unit.Content().Walk(w.t.Context(), func(u string) error {
		all = append(all, strings.TrimPrefix(u, base))
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

type manifestEntry struct {
	Path, File, SHA1, Redirect string
	ContentType                string `json:"content_type"`
	LastModified               string `json:"last_modified"`
}

// captured serves the site that a 1.74 node crawled.
func (w *world) captured() []manifestEntry {
	var all []manifestEntry
	readJSON(w.t, "site/manifest.json", &all)
	for _, e := range all {
		if e.Redirect != "" {
			w.pub.set(e.Path, redirect(e.Redirect))
		} else {
			w.pub.set(e.Path, pageOf(e.LastModified, e.ContentType, string(readFile(w.t, "site/files/"+e.File))))
		}
	}
	return all
}

// The crawl of a whole site sends the same requests in the same order as a 1.74 node did, and
// stores the same URLs and bytes.
func TestClassicCrawl(t *testing.T) {
	w := newWorld(t, nil)
	site := w.captured()
	res := w.crawl(RequestOptions{})
	if res.Status != Successful || res.Errors != 0 || res.Message != "" {
		t.Fatalf("got %+v", res)
	}

	var got, want []string
	for _, r := range w.pub.log {
		got = append(got, r.RequestURI+" from "+r.Referer())
		if r.Header.Get("Accept-Encoding") != "" || r.UserAgent() != userAgent || r.Header.Get("Accept") != accept || r.Header.Get("If-Modified-Since") != "" {
			t.Errorf("%s: headers %v", r.RequestURI, r.Header)
		}
	}
	for _, block := range strings.Split(string(readFile(t, "site/crawl-requests-node.txt")), "GET ")[1:] {
		target, rest, _ := strings.Cut(block, " ")
		_, referrer, _ := strings.Cut(rest, "Referer: ")
		referrer, _, _ = strings.Cut(referrer, "\n")
		want = append(want, target+" from "+strings.TrimSpace(referrer))
	}
	if !slices.Equal(got, want) {
		t.Errorf("requests\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	stored := 0
	for _, e := range site {
		if !strings.HasPrefix(e.Path, "/v1/") {
			continue
		}
		stored++
		sum := e.SHA1
		if e.Redirect != "" {
			i := slices.IndexFunc(site, func(o manifestEntry) bool { return o.Path == e.Redirect })
			sum = site[i].SHA1
		}
		url := strings.TrimSuffix(base, "/") + e.Path
		if h := sha1.Sum([]byte(w.body(url))); hex.EncodeToString(h[:]) != sum {
			t.Errorf("%s: other bytes", url)
		}
		if got := w.current(url).Props[propNodeURL]; got != url {
			t.Errorf("%s: stored as %s", url, got)
		}
	}
	if n := len(w.held()); n != stored {
		t.Errorf("%d URLs stored, want %d", n, stored)
	}
	from, to := base+"v1/redirected.html", base+"v1/issue2/art01.html"
	for _, c := range []struct{ url, key, want string }{
		{from, propRedirected, to}, {from, propContentURL, to}, {from, propOrigURL, from}, {from, propReferrer, start},
		{to, propRedirected, ""}, {to, propContentURL, ""}, {to, propOrigURL, from}, {to, propReferrer, start},
		{to, propContentType, "text/html; charset=UTF-8"}, {to, "last-modified", modified}, {to, "content-length", "1340"},
	} {
		if got := w.current(c.url).Props[c.key]; got != c.want {
			t.Errorf("%s %s: got %q, want %q", c.url, c.key, got, c.want)
		}
	}
	s := w.unit.State()
	if s.LastCrawlResult != 3 || s.LastCrawl.IsZero() || s.LastCrawlAttempt.IsZero() || s.LastCrawlAttempt.After(s.LastCrawl) || s.LastContentChange.IsZero() || s.AccessType != au.Subscription {
		t.Errorf("state %+v", s)
	}

	// Again: only the start page, which gives permission, and the bytes are the same.
	w.pub.asked()
	res = w.crawl(RequestOptions{})
	if got := w.pub.asked(); !slices.Equal(got, []string{"/v1/index.html"}) || res.Status != Successful || res.Changed != 0 {
		t.Errorf("second crawl: asked %v, %+v", got, res)
	}
	if got := w.unit.State().LastContentChange; !got.Equal(s.LastContentChange) {
		t.Errorf("content changed at %v, want still %v", got, s.LastContentChange)
	}
	// A deep crawl asks for all, and gets 304 for all but the permission page.
	res = w.crawl(RequestOptions{RefetchDepth: 1000})
	if res.Status != Successful || res.Fetched != 1 || res.NotModified != stored-1 || res.Changed != 0 {
		t.Errorf("deep crawl: %+v", res)
	}
	// One page changed.
	w.pub.set("/v1/one-byte.txt", pageOf("Wed, 04 Jan 2017 10:00:00 GMT", "text/plain", "y"))
	res = w.crawl(RequestOptions{RefetchDepth: 1000})
	v := w.current(base + "v1/one-byte.txt")
	if res.Changed != 1 || v.Number != 2 || w.body(v.URL) != "y" {
		t.Errorf("after a change: %+v, version %d", res, v.Number)
	}
	if all, err := w.unit.Content().Versions(v.URL, 0); err != nil || len(all) != 2 {
		t.Errorf("versions %v, %v", all, err)
	}
	if got := w.unit.State().LastContentChange; !got.After(s.LastContentChange) {
		t.Errorf("content changed at %v", got)
	}
}

func linked(urls ...string) string {
	s := "<html>" + granted
	for _, u := range urls {
		s += "\n<a href=\"" + u + "\">x</a>"
	}
	return s
}

// hasty makes a plugin retry after the delay of the configuration, not that of the class.
const hasty = `<map><entry><string>plugin_cache_result_list</string><list>
	<string>java.net.SocketTimeoutException=org.lockss.util.urlconn.CacheException$RetryableNetworkException_3</string>
	<string>org.lockss.plugin.ContentValidationException$WrongLength=org.lockss.util.urlconn.CacheException$RetryableNetworkException_3</string>
	</list></entry>`

// What a publisher may answer to one page, and what becomes of the crawl.
func TestAnswers(t *testing.T) {
	hijack := func(fn func(net.Conn)) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				panic(err)
			}
			defer c.Close()
			fn(c)
		}
	}
	say := func(text string) http.HandlerFunc {
		return hijack(func(c net.Conn) { io.WriteString(c, text) })
	}
	stall := func(text string) http.HandlerFunc {
		return hijack(func(c net.Conn) {
			io.WriteString(c, text)
			io.Copy(io.Discard, c) // until the crawler gives up
		})
	}
	const x = "/v1/x.html"
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc // of /v1/x.html
		pages  map[string]http.HandlerFunc
		change func(*Config)
		status Status
		reason string // part of what is listed for x; "": nothing is listed
		asked  int    // how often x was asked for
		stored bool
		also   []string // stored beside
		not    []string // not stored
	}{
		{name: "200", answer: html("x"), status: Successful, asked: 1, stored: true},
		{name: "203", answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(203); io.WriteString(w, "x") }, status: Successful, asked: 1, stored: true},
		{name: "404", answer: code(404), status: Successful, reason: "404 Not Found", asked: 1, also: []string{"y.html"}},
		{name: "500", answer: code(500), status: FetchError, reason: "500 Internal", asked: 3, also: []string{"y.html"}},
		{name: "418", answer: code(418), status: FetchError, reason: "418", asked: 1, also: []string{"y.html"}},
		{name: "403", answer: code(403), status: FetchError, reason: "403 Forbidden", asked: 1, not: []string{"y.html"}},
		{name: "204", answer: code(204), status: Successful, reason: "204", asked: 1},
		{name: "truncated", answer: say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\nContent-Type: text/html\r\n\r\nshort"), status: FetchError, reason: "before its Content-Length: 5 of 100", asked: 3, also: []string{"y.html"}},
		{name: "chunks cut", answer: say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nshort"), status: FetchError, reason: "unexpected EOF", asked: 1, also: []string{"y.html"}},
		// Twice: net/http asks again by itself when a connection that was used before is closed.
		{name: "no answer", answer: say(""), status: FetchError, reason: "without an answer", asked: 2, also: []string{"y.html"}},
		{name: "no HTTP", answer: say("hello\r\n\r\n"), status: FetchError, reason: "malformed HTTP", asked: 1},
		{name: "stalled before the header", answer: stall(""), status: FetchError, reason: "timeout", asked: 4, also: []string{"y.html"}}, // likewise
		{name: "stalled in the body", answer: stall("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"), status: FetchError, reason: "timeout", asked: 3, also: []string{"y.html"}},
		{name: "endless header", answer: hijack(func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for _, err := io.WriteString(c, "X-A: "+strings.Repeat("a", 10_000)+"\r\n"); err == nil; _, err = io.WriteString(c, "X-A: a\r\n") {
			}
		}), status: FetchError, reason: "exceeded", asked: 1},
		{name: "empty", answer: html(""), status: Successful, reason: "warning: empty file", asked: 1, stored: true},
		{name: "redirect", answer: redirect("z.html"), pages: map[string]http.HandlerFunc{"/v1/z.html": html("z")}, status: Successful, asked: 1, stored: true, also: []string{"z.html"}},
		{name: "redirect chain", answer: redirect("/v1/a"), pages: map[string]http.HandlerFunc{"/v1/a": redirect("b"), "/v1/b": html("b")}, status: Successful, asked: 1, stored: true, also: []string{"a", "b"}},
		{name: "redirect to a slash more", answer: redirect("/v1/x.html/"), pages: map[string]http.HandlerFunc{"/v1/x.html/": html("<a href=in.html>"), "/v1/x.html/in.html": html("in")}, status: Successful, asked: 1, stored: true, also: []string{"x.html/in.html"}},
		{name: "redirect without location", answer: code(302), status: Successful, reason: "302", asked: 1},
		{name: "redirect in a circle", answer: redirect("/v1/x.html"), status: Successful, reason: "more than 10 redirects", asked: 11},
		{name: "redirect out of the rules", answer: redirect(base + "v2/z.html"), pages: map[string]http.HandlerFunc{"/v2/z.html": html("z")}, status: Successful, asked: 1, not: []string{"v2/z.html"}},
		{name: "redirect to a file", answer: redirect("file:///etc/passwd"), status: Successful, reason: "neither http nor https", asked: 1},
		{name: "redirect to an unknown scheme", answer: redirect("gopher://h/"), status: Successful, reason: "malformed", asked: 1},
		{name: "too large by header", answer: html(strings.Repeat("x", 501)), change: func(c *Config) { c.MaxFileSize = 500 }, status: FetchError, reason: ErrFileSize.Error(), asked: 1},
		{name: "too large by body", answer: say("HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 1000)), change: func(c *Config) { c.MaxFileSize = 500 }, status: FetchError, reason: ErrFileSize.Error(), asked: 1, also: []string{"y.html"}},
		{name: "too much in all", answer: html(strings.Repeat("x", 5000)), change: func(c *Config) { c.MaxCrawlSize = 4000 }, status: Error, reason: ErrCrawlSize.Error(), asked: 1, not: []string{"y.html"}},
		{name: "too slow", answer: hijack(func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			for _, err := io.WriteString(c, "x"); err == nil; _, err = io.WriteString(c, "x") {
				time.Sleep(time.Millisecond) // the publisher drips; the crawler does not wait for it
			}
		}), change: func(c *Config) { c.MaxURLTime = 200 * time.Millisecond }, status: FetchError, reason: ErrURLTime.Error(), asked: 1, also: []string{"y.html"}},
		{name: "cookie", answer: func(w http.ResponseWriter, r *http.Request) {
			body := "without"
			if c, err := r.Cookie("id"); err == nil {
				body = "x" + c.Value
			}
			http.SetCookie(w, &http.Cookie{Name: "id", Value: "7"})
			io.WriteString(w, body)
		}, status: Successful, asked: 2, stored: true},
		{name: "header of ours", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Lockss-Node-Url", "http://evil.example/")
			w.Header().Set("Org.lockss.version.number", "99")
			w.Header()["X-Latin"] = []string{"caf\xe9"}
			io.WriteString(w, "x")
		}, status: Successful, asked: 1, stored: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.change)
			w.units.SetPlugins([]*plugin.Definition{press(t, "<map>", hasty)})
			w.pub.set("/v1/index.html", html(linked("x.html", "y.html")))
			w.pub.set(x, c.answer)
			w.pub.set("/v1/y.html", html("y"))
			for p, h := range c.pages {
				w.pub.set(p, h)
			}
			res := w.crawl(RequestOptions{})
			var reason string
			for _, f := range res.Failures {
				if f.URL == base+"v1/x.html" {
					reason = f.Reason
				} else {
					t.Errorf("also listed: %v", f)
				}
			}
			if res.Status != c.status || !strings.Contains(reason, c.reason) || (reason != "") != (c.reason != "") {
				t.Errorf("%v %q, listed %q, want %v %q", res.Status, res.Message, reason, c.status, c.reason)
			}
			if s := w.unit.State(); s.LastCrawlResult != int(c.status) || s.LastCrawlResultMsg != res.Message || (c.status == Successful) != s.Crawled() {
				t.Errorf("state: %d %q, crawled %v", s.LastCrawlResult, s.LastCrawlResultMsg, s.Crawled())
			}
			n := 0
			for _, u := range w.pub.asked() {
				if u == x {
					n++
				}
			}
			if n != c.asked {
				t.Errorf("asked %d times, want %d", n, c.asked)
			}
			held := w.held()
			if slices.Contains(held, "v1/x.html") != c.stored {
				t.Errorf("stored %v, want x.html: %v", held, c.stored)
			}
			for _, u := range c.also {
				if !slices.Contains(held, "v1/"+u) {
					t.Errorf("stored %v, want also %s", held, u)
				}
			}
			for _, u := range c.not {
				if slices.Contains(held, "v1/"+u) {
					t.Errorf("%s was stored", u)
				}
			}
			switch c.name {
			case "cookie":
				if got := w.body(base + "v1/x.html"); got != "x7" {
					t.Errorf("got %q", got)
				}
			case "header of ours":
				p := w.current(base + "v1/x.html").Props
				if p[propNodeURL] != base+"v1/x.html" || p["org.lockss.version.number"] == "99" || p["x-latin"] != "café" {
					t.Errorf("properties %v", p)
				}
			}
		})
	}
}

// A publisher that fails later leaves what is stored as it was, and it is still followed.
func TestFailureKeepsContent(t *testing.T) {
	w := newWorld(t, nil)
	w.units.SetPlugins([]*plugin.Definition{press(t, "<map>", hasty)})
	w.pub.set("/v1/index.html", html(linked("x.html")))
	w.pub.set("/v1/x.html", html("<img src=i.png>"))
	w.pub.set("/v1/i.png", page("image/png", "png"))
	if res := w.crawl(RequestOptions{}); res.Status != Successful || res.Fetched != 3 {
		t.Fatalf("%+v", res)
	}
	w.pub.set("/v1/x.html", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Length", "100")
		io.WriteString(rw, "changed but cut")
	})
	before := w.unit.State()
	res := w.crawl(RequestOptions{RefetchDepth: 9})
	if res.Status != FetchError || res.NotModified != 1 {
		t.Errorf("%+v", res)
	}
	if v := w.current(base + "v1/x.html"); v.Number != 1 || w.body(v.URL) != "<img src=i.png>" {
		t.Errorf("version %d", v.Number)
	}
	after := w.unit.State()
	if !after.LastCrawl.Equal(before.LastCrawl) || !after.LastCrawlAttempt.After(before.LastCrawlAttempt) {
		t.Errorf("last crawl %v, attempt %v", after.LastCrawl, after.LastCrawlAttempt)
	}
}

func TestPermission(t *testing.T) {
	other := func(b bool) map[string]http.HandlerFunc {
		m := map[string]http.HandlerFunc{"//cdn.example/a.png": page("image/png", "png")}
		if b {
			m["//cdn.example/permission"] = html(granted)
		}
		return m
	}
	any := []string{`<string>4,"^%s", base_url</string>`, "", `<string>1,"^%s%s/", base_url, volume_name</string>`, `<string>1,"example"</string>`}
	for _, c := range []struct {
		name    string
		replace []string // in the plugin
		pages   map[string]http.HandlerFunc
		change  func(*Config)
		status  Status
		message string
		stored  int
		access  string
		stems   []string
	}{
		{name: "granted", pages: map[string]http.HandlerFunc{"/v1/index.html": html(granted)}, status: Successful, stored: 1, access: au.Subscription},
		{name: "open access", pages: map[string]http.HandlerFunc{"/v1/index.html": html(`<a href="https://creativecommons.org/licenses/by/4.0/" rel=license>`)}, status: Successful, stored: 1, access: au.OpenAccess},
		{name: "no statement", pages: map[string]http.HandlerFunc{"/v1/index.html": html("hello")}, status: NoPermission, message: "no permission statement"},
		{name: "no page", status: FetchError, message: "404"},
		{name: "statement beyond the buffer", pages: map[string]http.HandlerFunc{"/v1/index.html": html(strings.Repeat("x", 600_000) + granted)}, status: NoPermission},
		{name: "long page", pages: map[string]http.HandlerFunc{"/v1/index.html": html(granted + strings.Repeat("x", 600_000))}, status: Successful, stored: 1, access: au.Subscription},
		{name: "redirect on the host", pages: map[string]http.HandlerFunc{"/v1/index.html": redirect("/out/of/rules"), "/out/of/rules": html(granted)}, status: Successful, stored: 1, access: au.Subscription},
		{name: "redirect to another host", pages: map[string]http.HandlerFunc{"/v1/index.html": redirect("http://cdn.example/p"), "//cdn.example/p": html(granted)}, status: FetchError, message: "another host"},
		{name: "other host without", replace: any, pages: map[string]http.HandlerFunc{"/v1/index.html": html(linked("http://cdn.example/a.png"))}, status: NoPermission, message: "missing permission URL for host cdn.example", stored: 1, access: au.Subscription},
		{
			name: "other host exempt", replace: any, pages: map[string]http.HandlerFunc{"/v1/index.html": html(linked("http://cdn.example/a.png"))},
			change: func(c *Config) { c.PermittedHosts = []string{`^cdn\.`} }, status: Successful, stored: 2, access: au.Subscription, stems: []string{"http://cdn.example/"},
		},
		{
			name: "other host by its path", replace: append(slices.Clone(any), "<map>", "<map><entry><string>plugin_per_host_permission_path</string><string>/permission</string></entry>"),
			pages:  map[string]http.HandlerFunc{"/v1/index.html": html(linked("http://cdn.example/a.png")), "//cdn.example/permission": html(granted)},
			status: Successful, stored: 3, access: au.Subscription,
		},
		{
			name: "redirect to a host without", replace: any, pages: map[string]http.HandlerFunc{"/v1/index.html": html(linked("x")), "/v1/x": redirect("http://cdn.example/a.png")},
			status: Successful, stored: 1, access: au.Subscription,
		},
		{
			name: "permission page that the rules alone exclude", replace: []string{"<map>", `<map><entry><string>au_permission_url</string><string>"%sp.html", base_url</string></entry><entry><string>x</string><string>y</string></entry>`},
			pages: map[string]http.HandlerFunc{"/v1/index.html": html("x"), "/p.html": html(granted)}, status: Successful, stored: 2, access: au.Subscription,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.change)
			w.units.SetPlugins([]*plugin.Definition{press(t, c.replace...)})
			for p, h := range other(false) {
				w.pub.set(p, h)
			}
			for p, h := range c.pages {
				w.pub.set(p, h)
			}
			res := w.crawl(RequestOptions{})
			s := w.unit.State()
			if res.Status != c.status || !strings.Contains(res.Message, c.message) || s.LastCrawlResult != int(c.status) {
				t.Errorf("%v %q, want %v %q", res.Status, res.Message, c.status, c.message)
			}
			if got := w.held(); len(got) != c.stored || s.AccessType != c.access || !slices.Equal(s.CDNStems, c.stems) {
				t.Errorf("stored %v, access %q, stems %v, want %d %q %v", got, s.AccessType, s.CDNStems, c.stored, c.access, c.stems)
			}
			if c.status == NoPermission && c.stored == 0 {
				if got := w.pub.asked(); len(got) != 1 {
					t.Errorf("asked %v", got)
				}
			}
		})
	}
}

// What the plugin got wrong, or cannot do here.
func TestPluginErrors(t *testing.T) {
	for _, c := range []struct {
		name, want string
		options    plugin.LoadOptions
		replace    []string
	}{
		{"permission page excluded", "outside the crawl rules", plugin.LoadOptions{IncludeStartURLs: "false"}, []string{`"^%s%s/"`, `"^%s%s/inner/"`}},
		{"unknown function", "normalizer", plugin.LoadOptions{}, []string{"<map>", "<map><entry><string>au_url_normalizer</string><string>org.example.Normalizer</string></entry>"}},
	} {
		w := newWorld(t, nil)
		xml := strings.NewReplacer(append(c.replace, "<long>100</long>", "<long>1</long>")...).Replace(string(readFile(t, "ExamplePressPlugin.xml")))
		d, err := c.options.Parse(pressID, []byte(xml), nil)
		if err != nil {
			t.Fatal(err)
		}
		w.units.SetPlugins([]*plugin.Definition{d})
		w.pub.set("/v1/index.html", html(granted))
		if res := w.crawl(RequestOptions{}); res.Status != PluginError || !strings.Contains(res.Message, c.want) || len(w.pub.asked()) != 0 {
			t.Errorf("%s: %v %q", c.name, res.Status, res.Message)
		}
	}
}

// The statements of permission.json, all of them; none of its cases needs the CLOCKSS sentence, which
// only boxes of that network accept.
func TestStatements(t *testing.T) {
	var v []struct {
		HTML   string
		Expect []string
	}
	readJSON(t, "permission.json", &v)
	c := defaults(t)
	for _, c2 := range v {
		if got := statements(c2.HTML, c.LicenseTypes, c.LicenseVersions); !slices.Equal(got, c2.Expect) {
			t.Errorf("%.300s: got %q, want %q", c2.HTML, got, c2.Expect)
		}
	}
}

// All of http_results.json.
func TestResultClasses(t *testing.T) {
	type class struct {
		Class      *string
		Retry      bool
		Fail       bool
		Fatal      bool
		NoStore    bool `json:"no_store"`
		RetryCount int
		RetryDelay int // ms
	}
	var v struct {
		Codes []struct {
			Code   int
			Expect class
		}
		Java []struct {
			Class  string
			Expect class
		} `json:"java_exceptions"`
		Classes []struct {
			Class  string
			Expect class
		} `json:"result_classes"`
	}
	readJSON(t, "http_results.json", &v)
	same := func(what string, r plugin.Result, want class) {
		t.Helper()
		if "CacheException$"+r.Class != *want.Class || r.Retry != want.Retry || r.Fail != want.Fail || r.Fatal != want.Fatal || r.NoStore != want.NoStore ||
			r.Tries != max(0, want.RetryCount) || r.Delay != time.Duration(max(0, want.RetryDelay))*time.Millisecond {
			t.Errorf("%s: got %+v, want %s %+v", what, r, *want.Class, want)
		}
	}
	for _, c := range v.Codes {
		name, failed := statusClass(c.Code)
		if failed != (c.Expect.Class != nil) {
			t.Errorf("%d: failed %v", c.Code, failed)
		} else if failed {
			same(fmt.Sprint(c.Code), classOf(name), c.Expect)
		}
	}
	for _, c := range v.Java {
		same(c.Class, failureResult(c.Class), c.Expect)
	}
	for _, c := range v.Classes {
		same(c.Class, classOf(strings.TrimPrefix(c.Class, "org.lockss.util.urlconn.CacheException$")), c.Expect)
	}
	if len(v.Codes) == 0 || len(v.Java) == 0 || len(v.Classes) == 0 {
		t.Error("vectors are missing")
	}
}

// Rules, frames, style sheets, limits on URLs and depth.
func TestFollow(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxURLLength, c.MaxDepth, c.GloballyExcluded = 100, 3, "secret" })
	w.pub.set("/v1/index.html", html(granted+`<frameset><frame src="menu.html"><frame src=main.html></frameset>
		<link rel=stylesheet href="s.css"><img src="/other/x.png"><a href="http://elsewhere.example/v1/"><a href="#top"><a href="ftp://press.example/v1/f">
		<a href="mailto:a@press.example"><a href="secret.html"><a href="`+strings.Repeat("l", 100)+`.html"><a href="menu.html#x"><a href="blank page.html?a b">`))
	w.pub.set("/v1/menu.html", html("<a href=deep.html>"))
	w.pub.set("/v1/main.html", html("<p style=\"background:url('bg.png')\">"))
	w.pub.set("/v1/s.css", page("text/css", "@import 'more.css'; body { background: url(img/b.png) }"))
	w.pub.set("/v1/more.css", page("text/css", ""))
	w.pub.set("/v1/bg.png", page("image/png", "<a href=no.html>"))
	w.pub.set("/v1/img/b.png", page("image/png", "png"))
	w.pub.set("/v1/deep.html", html("<a href=deeper.html>"))
	w.pub.set("/v1/deeper.html", html("<a href=deepest.html>"))
	w.pub.set("/v1/blank%20page.html?a%20b", html("blank"))
	res := w.crawl(RequestOptions{})
	if res.Status != Error || !strings.Contains(res.Message, ErrURLLength.Error()) || res.Excluded != 3 {
		t.Errorf("%+v", res)
	}
	var listed []string
	for _, f := range res.Failures {
		listed = append(listed, f.Reason)
	}
	all := strings.Join(listed, "\n")
	for _, want := range []string{ErrURLLength.Error(), ErrDepth.Error() + " of 3", "globallyExcludedUrlPattern"} {
		if !strings.Contains(all, want) {
			t.Errorf("not listed: %s in\n%s", want, all)
		}
	}
	want := []string{"v1/bg.png", "v1/blank%20page.html?a%20b", "v1/deep.html", "v1/img/b.png", "v1/index.html", "v1/main.html", "v1/menu.html", "v1/more.css", "v1/s.css"}
	got := w.held()
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("stored %q, want %q", got, want)
	}
}

func TestMaxURLs(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxURLs = 3 })
	w.pub.set("/v1/index.html", html(linked("1", "2", "3", "4")))
	res := w.crawl(RequestOptions{})
	if res.Status != Error || !strings.Contains(res.Message, ErrURLs.Error()) || len(w.pub.asked()) != 3 {
		t.Errorf("%+v", res)
	}
}

func TestStartURL(t *testing.T) {
	replace := []string{"<map>", `<map><entry><string>au_permission_url</string><string>"%s%s/p.html", base_url, volume_name</string></entry>`}
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"404", code(404), "404"},
		{"excluded", redirect("/elsewhere"), "out of the crawl rules"},
	} {
		w := newWorld(t, nil)
		w.units.SetPlugins([]*plugin.Definition{press(t, replace...)})
		w.pub.set("/v1/p.html", html(granted))
		w.pub.set("/v1/index.html", c.answer)
		if res := w.crawl(RequestOptions{}); res.Status != FetchError || !strings.Contains(res.Message, c.want) || !strings.Contains(res.Message, start) {
			t.Errorf("%s: %+v", c.name, res)
		}
	}
}

// Certificates are verified.
func TestTLS(t *testing.T) {
	pub := &publisher{}
	pub.set("/v1/index.html", html(granted))
	srv := httptest.NewUnstartedServer(pub) // its certificate is for example.com
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(srv.Certificate())
	for _, c := range []struct {
		name, host string
		tls        *tls.Config
		want       Status
	}{
		{"unknown authority", "example.com", nil, FetchError},
		{"trusted", "example.com", &tls.Config{RootCAs: trusted}, Successful},
		{"wrong host", "press.example", &tls.Config{RootCAs: trusted}, FetchError},
	} {
		w := newWorld(t, func(cfg *Config) {
			cfg.TLS = c.tls
			cfg.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, srv.Listener.Addr().String())
			}
		})
		w.units.Configure([]au.Entry{{PluginID: pressID, Params: map[string]string{"base_url": "https://" + c.host + "/", "volume_name": "v1"}}})
		u := w.units.Units()[0]
		res := w.crawlUnit(t.Context(), u, RequestOptions{})
		if res.Status != c.want || c.want != Successful && !strings.Contains(res.Message, "certificate") {
			t.Errorf("%s: %v %q, want %v", c.name, res.Status, res.Message, c.want)
		}
	}
}

func TestRefetch(t *testing.T) {
	w := newWorld(t, nil)
	w.pub.set("/v1/index.html", html(linked("dir/", "x.html")))
	w.pub.set("/v1/dir/", html("dir"))
	w.pub.set("/v1/x.html", html("x"))
	w.crawl(RequestOptions{})
	w.pub.asked()
	id := w.unit.ID()

	// The URL as a poll knows it, without its slash; bytes unchanged.
	if err := w.Refetch(t.Context(), id, base+"v1/dir"); err != nil {
		t.Fatal(err)
	}
	log := w.pub.log
	if got := w.pub.asked(); !slices.Equal(got, []string{"/v1/index.html", "/v1/dir/"}) || log[1].Referer() != start || log[1].Header.Get("If-Modified-Since") != "" {
		t.Errorf("asked %v with %v", got, log[1].Header)
	}
	// Other bytes with an old date; the permission still holds.
	w.pub.set("/v1/x.html", html("y"))
	before := w.unit.State()
	if err := w.Refetch(t.Context(), id, base+"v1/x.html"); err != nil || w.body(base+"v1/x.html") != "y" {
		t.Errorf("%v", err)
	}
	if got := w.pub.asked(); !slices.Equal(got, []string{"/v1/x.html"}) {
		t.Errorf("asked %v", got)
	}
	after := w.unit.State()
	if !after.LastContentChange.After(before.LastContentChange) || !after.LastCrawl.Equal(before.LastCrawl) || !after.LastCrawlAttempt.Equal(before.LastCrawlAttempt) {
		t.Errorf("state %+v", after)
	}
	for _, c := range []struct{ url, want string }{
		{base + "v1/none.html", "404"},
		{base + "v2/x.html", "outside the crawl rules"},
		{"file:///etc/passwd", "outside the crawl rules"},
	} {
		if err := w.Refetch(t.Context(), id, c.url); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.url, err, c.want)
		}
	}
	if err := w.Refetch(t.Context(), "x&y", base); err == nil {
		t.Error("unknown unit: no error")
	}
	if got := w.Running(); len(got) != 0 {
		t.Errorf("running %v", got)
	}
}

// run starts the crawler and returns what ends it.
func (w *world) runAll() (stop func() error) {
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	return sync.OnceValue(func() error { cancel(); return <-ended })
}

// A crawl stopped by the end of the daemon, by the operator, or by a new plugin.
func TestStopped(t *testing.T) {
	for _, c := range []struct {
		name string
		stop func(*world, func() error)
		want Status
	}{
		{"daemon exit", func(_ *world, stop func() error) { stop() }, Interrupted},
		{"operator", func(w *world, _ func() error) {
			if err := w.Abort(w.unit.ID()); err != nil {
				w.t.Error(err)
			}
		}, Aborted},
		{"new plugin", func(w *world, _ func() error) {
			w.units.SetPlugins([]*plugin.Definition{press(w.t, "<string>3</string>", "<string>4</string>")})
		}, Aborted},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, func(c *Config) { c.DataTimeout = time.Minute })
			arrived, leave := make(chan bool), make(chan bool)
			defer close(leave)
			w.pub.set("/v1/index.html", html(linked("a.html", "x.html")))
			w.pub.set("/v1/a.html", html("a"))
			w.pub.set("/v1/x.html", func(rw http.ResponseWriter, r *http.Request) {
				io.WriteString(rw, "x")
				rw.(http.Flusher).Flush()
				arrived <- true
				<-leave
			})
			stop := w.runAll()
			defer stop()
			if err := w.Request(w.unit.ID(), RequestOptions{}); err != nil {
				t.Fatal(err)
			}
			<-arrived
			if s := w.unit.State(); s.LastCrawlResult != int(Active) || s.LastCrawlAttempt.IsZero() {
				t.Errorf("while it runs: %+v", s)
			}
			if p := w.Running(); len(p) != 1 || p[0].URL != base+"v1/x.html" || p[0].Fetched != 2 || p[0].Bytes == 0 {
				t.Errorf("progress %+v", p)
			}
			if err := w.Request(w.unit.ID(), RequestOptions{}); err == nil {
				t.Error("requested while it runs")
			}
			c.stop(w, stop)
			res := <-w.done
			s := w.unit.State()
			if res.Status != c.want || s.LastCrawlResult != int(c.want) || s.LastCrawlResultMsg == "" || s.Crawled() || s.LastContentChange.IsZero() {
				t.Errorf("%v %q, state %+v", res.Status, res.Message, s)
			}
			if got := w.held(); !slices.Equal(got, []string{"v1/a.html", "v1/index.html"}) {
				t.Errorf("stored %v", got)
			}
			if w.unit.Crawling() || len(w.Running()) != 0 {
				t.Error("still crawling")
			}
		})
	}
}

// While a unit is hashed its crawl waits; the crawl is seen to wait.
func TestInterlock(t *testing.T) {
	w := newWorld(t, nil)
	w.pub.set("/v1/index.html", html(granted))
	end, err := w.unit.BeginHash(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stop := w.runAll()
	defer stop()
	if err := w.Request(w.unit.ID(), RequestOptions{}); err != nil {
		t.Fatal(err)
	}
	for len(w.Running()) == 0 || !w.Running()[0].Waiting {
		time.Sleep(time.Millisecond)
	}
	if got := w.pub.asked(); len(got) != 0 {
		t.Errorf("asked %v while a hash goes on", got)
	}
	end()
	if res := <-w.done; res.Status != Successful {
		t.Errorf("%+v", res)
	}
}

// A plugin registry goes through the same crawler; archives on other hosts need permission.
func TestRegistryAU(t *testing.T) {
	w := newWorld(t, nil)
	w.pub.set("/plugins/", html(granted+`<a href="A.jar">A</a> <a href="sub/B.JAR">B</a> <a href="page.html">no</a> <a href="http://cdn.example/C.jar">C</a>`))
	w.pub.set("/plugins/A.jar", page("application/java-archive", "PK"))
	w.pub.set("/plugins/sub/B.JAR", page("application/java-archive", ""))
	reg, err := w.units.AddRegistryAU(base + "plugins/")
	if err != nil {
		t.Fatal(err)
	}
	w.unit = reg
	stop := w.runAll()
	defer stop()
	if err := w.Request(reg.ID(), RequestOptions{}); err != nil {
		t.Fatal(err)
	}
	res := <-w.done
	if res.Status != NoPermission || !res.Registry || res.Errors != 1 || res.Excluded != 1 {
		t.Errorf("%+v", res)
	}
	if got := w.held(); !slices.Equal(got, []string{"plugins", "plugins/A.jar", "plugins/sub/B.JAR"}) {
		t.Errorf("stored %q", got)
	}
	if err := w.Request(reg.ID(), RequestOptions{}); err == nil || !strings.Contains(err.Error(), "not before") {
		t.Errorf("again at once: %v", err)
	}
	if err := w.Request(reg.ID(), RequestOptions{OverrideRates: true}); err != nil {
		t.Error(err)
	}
	w.pub.set("//cdn.example/C.jar", page("application/java-archive", "PK"))
	if res := <-w.done; res.NotModified != 2 {
		t.Errorf("again: %+v", res)
	}
}

func TestProxyAndHeaders(t *testing.T) {
	var addrs []string
	w := newWorld(t, func(c *Config) {
		dial := c.Dial
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			addrs = append(addrs, addr)
			return dial(ctx, network, addr)
		}
		c.Headers = []string{"X-Ours: 1", "Connection:"}
	})
	w.units.Configure([]au.Entry{{PluginID: pressID, Params: map[string]string{"base_url": base, "volume_name": "v1", "crawl_proxy": "proxy.example:3128"}}})
	w.pub.set("http://press.example/v1/index.html", html(granted))
	res := w.crawl(RequestOptions{})
	if res.Status != Successful || !slices.Equal(addrs, []string{"proxy.example:3128"}) || w.pub.log[0].Header.Get("X-Ours") != "1" {
		t.Errorf("%+v, connected to %v", res, addrs)
	}
	w.units.Configure([]au.Entry{{PluginID: pressID, Params: map[string]string{"base_url": base, "volume_name": "v1", "crawl_proxy": "nonsense"}}})
	if res := w.crawl(RequestOptions{}); res.Status != Error || !strings.Contains(res.Message, "nonsense") {
		t.Errorf("bad proxy: %+v", res)
	}
}

func TestNewReportsAllFaults(t *testing.T) {
	c := defaults(t)
	c.MaxCrawls, c.GloballyExcluded, c.PermittedHosts, c.FromAddr = 0, "(", []string{"["}, "here"
	_, err := New(c)
	for _, want := range []string{"no units", "MaxCrawls", "globallyExcludedUrlPattern", "globallyPermittedHosts", "crawlFromAddr"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not tell of %s", err, want)
		}
	}
}

func TestWire(t *testing.T) {
	for _, c := range []struct{ url, host, path, wire string }{
		{"http://h", "h", "/", "/"},
		{"HTTP://user:pw@h:81?q", "h:81", "/?q", "/?q"},
		{"https://h/a%zz/é \"<>\\^`{|}#f", "h", "/a%zz/é \"<>\\^`{|}", "/a%zz/%C3%A9%20%22%3C%3E%5C%5E%60%7B%7C%7D"},
		{"http://h//a?b", "h", "//a?b", "//a?b"},
	} {
		u, path, err := splitURL(c.url)
		if err != nil || u.Host != c.host || path != c.path || wirePath(path) != c.wire {
			t.Errorf("%s: %v %q %q, %v", c.url, u, path, wirePath(path), err)
		}
	}
	for _, bad := range []string{"", "file:///x", "ftp://h/", "http://", "http:///x", "http://a b/", "http://h:x/", "//h/"} {
		if _, _, err := splitURL(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestUndoEncoding(t *testing.T) {
	if got := undoEncoding("gzip", []byte("plain")); string(got) != "plain" {
		t.Errorf("not gzip: %q", got)
	}
	if got := undoEncoding("deflate", []byte{0x4b, 0x4c, 0x4a, 0x06, 0x00}); !bytes.Equal(got, []byte("abc")) {
		t.Errorf("deflate: %q", got)
	}
}

func TestJavaClasses(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&net.OpError{Op: "dial", Err: &net.DNSError{}}, "java.net.UnknownHostException"},
		{&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, "java.net.SocketTimeoutException"},
		{&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, "org.lockss.util.urlconn.LockssUrlConnection$ConnectionTimeoutException"},
		{fmt.Errorf("x: %w", errWrongLength), "org.lockss.plugin.ContentValidationException$WrongLength"},
		{errors.New("x"), "java.io.IOException"},
		{io.ErrUnexpectedEOF, "java.io.EOFException"},
	} {
		if got := javaClasses(c.err)[0]; got != c.want {
			t.Errorf("%v: got %s, want %s", c.err, got, c.want)
		}
	}
}

// BenchmarkCrawl crawls a site of 200 pages of 4 KiB over loopback into a store on disk, and
// then asks for all of them again.
func BenchmarkCrawl(b *testing.B) {
	const pages = 200
	w := newWorld(b, nil)
	w.units.SetPlugins([]*plugin.Definition{press(b, "<map>", `<map><entry><string>au_rate_limiter_info</string><org.lockss.plugin.RateLimiterInfo><rate>unlimited</rate></org.lockss.plugin.RateLimiterInfo></entry>`)})
	var index []string
	for i := range pages {
		index = append(index, fmt.Sprintf("%d.html", i))
		w.pub.set(fmt.Sprintf("/v1/%d.html", i), html(linked(fmt.Sprintf("%d.html", (i+1)%pages))+strings.Repeat("text ", 800)))
	}
	w.pub.set("/v1/index.html", html(linked(index...)))
	w.pub.other = func(rw http.ResponseWriter, r *http.Request) {
		_, file, _ := strings.Cut(r.RequestURI[1:], "/")
		w.pub.pages["/v1/"+file](rw, r)
	}
	n := 0 // units so far
	for _, name := range []string{"new", "unmodified"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if name == "new" {
					n++
					w.configure(fmt.Sprintf("v%d", n)) // another unit with the same pages
				}
				u := w.units.Units()[0]
				if res := w.crawlUnit(b.Context(), u, RequestOptions{RefetchDepth: 9}); res.Status != Successful {
					b.Fatalf("%+v", res)
				}
			}
			b.ReportMetric(float64(b.N*(pages+1))/b.Elapsed().Seconds(), "pages/s")
		})
	}
}
