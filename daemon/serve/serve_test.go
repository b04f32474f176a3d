package serve

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"armarium/daemon/lockss"
	"armarium/daemon/store"
)

const (
	auOne = lockss.AUID("org|example|press|P&base_url~http%3A%2F%2Fpress%2Eexample%2F")
	auTwo = lockss.AUID("org|example|other|P&base_url~http%3A%2F%2Fother%2Eexample%2F")
)

// library finds content in a real store, first unit first.
type library struct {
	s        *store.Store
	starting bool
}

func (l *library) Lookup(u string, au lockss.AUID) (*store.Version, lockss.AUID, error) {
	units := []lockss.AUID{auOne, auTwo}
	if au != "" {
		units = []lockss.AUID{au}
	}
	err := error(store.ErrNotPreserved)
	for _, id := range units {
		unit, e := l.s.Unit(id)
		if e != nil {
			err = e
			continue
		}
		v, e := unit.Current(u)
		if e == nil {
			return v, id, nil
		}
		if !errors.Is(e, store.ErrNotPreserved) {
			return nil, id, e
		}
	}
	if l.starting {
		return nil, "", ErrStarting
	}
	return nil, "", err
}

func (l *library) Collections() []Collection {
	return []Collection{
		{AU: auOne, Name: "Press <One>", StartURLs: []string{"http://press.example/"}, Collected: true},
		{AU: auTwo, Name: "Other", StartURLs: []string{"http://other.example/"}},
	}
}

func put(t *testing.T, s *store.Store, au lockss.AUID, u, body string, props map[string]string) {
	t.Helper()
	unit, err := s.Create(au, "")
	if err != nil {
		t.Fatal(err)
	}
	w, err := unit.New(u)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, body)
	all := map[string]string{"x-lockss-node-url": u}
	for k, v := range props {
		all[k] = v
	}
	if _, err := w.Seal(all); err != nil {
		t.Fatal(err)
	}
}

const page1 = "0123456789abcdefghij"

func gz(s string) string {
	var b strings.Builder
	w := gzip.NewWriter(&b)
	io.WriteString(w, s)
	w.Close()
	return b.String()
}

// start fills a store and puts a proxy with the configuration over it on loopback.
func start(t *testing.T, change func(*Config, *library)) (proxy string, client *http.Client) {
	t.Helper()
	s, err := store.Open(store.Config{Roots: []string{t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	put(t, s, auOne, "http://press.example/page1", page1, map[string]string{
		"x-lockss-content-type":  "text/html; charset=iso-8859-1",
		"content-type":           "text/plain",
		"content-length":         "19",
		"last-modified":          "Wed, 07 Nov 2012 10:00:00 GMT",
		"date":                   "Wed, 07 Nov 2012 11:00:00 GMT",
		"server":                 "Press/1.0",
		"x_lockss-server-date":   "1352286000000",
		"etag":                   `"abc"`,
		"x-press":                "caf\u00e9",
		"connection":             "keep-alive",
		"transfer-encoding":      "chunked",
		"x-lockss-orig-url":      "http://press.example/old",
		"x-lockss-repaired-from": "TCP:[192.0.2.1]:9729",
		"x-lockss-orig-x":        "kept",
	})
	put(t, s, auOne, "http://press.example/dir/", "a directory", nil)
	put(t, s, auOne, "http://press.example/old", "moved", map[string]string{"x-lockss-redirected-to": "http://press.example/page1"})
	put(t, s, auOne, "http://press.example/gz.css", gz(page1), map[string]string{"content-encoding": "gzip", "x-lockss-content-type": "text/css"})
	put(t, s, auOne, "http://press.example/a%20b?q=%7C", "encoded", nil)
	put(t, s, auOne, "http://press.example/raw|bar", "raw", nil)
	put(t, s, auOne, "http://press.example/logo.png", "png", nil)
	put(t, s, auOne, "http://press.example/big.bin", strings.Repeat("x", 1<<20), nil)
	put(t, s, auOne, "http://press.example/both", "in one", nil)
	put(t, s, auTwo, "http://press.example/both", "in two", nil)
	put(t, s, auTwo, "https://other.example/secure", "was https", nil)

	lib := &library{s: s}
	cfg := Config{Host: "box.example", Library: lib, Minimal: true, Wait: true, Forbidden: "not from %IP%",
		Headers: Headers{InferType: true, CopyStored: true}}
	if change != nil {
		change(&cfg, lib)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = p.Server()
	srv.Start()
	t.Cleanup(srv.Close)
	u, _ := url.Parse(srv.URL)
	client = &http.Client{
		Transport:     &http.Transport{Proxy: http.ProxyURL(u), DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(client.CloseIdleConnections)
	return u.Host, client
}

// do sends a request with headers "Name: value".
func do(t *testing.T, c *http.Client, method, u string, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Set(k, v)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// raw sends a request line as it is, for what an HTTP client would put right.
func raw(t *testing.T, proxy, line string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", line)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp, string(b)
}

func TestServed(t *testing.T) {
	_, c := start(t, nil)
	const u = "http://press.example/page1"
	for _, k := range []struct {
		name, method, url string
		headers           []string
		status            int
		body              string
		want              map[string]string // "" means absent
	}{
		{"whole", "GET", u, nil, 200, page1, map[string]string{
			"X-Lockss": "from-cache", "Content-Type": "text/html; charset=iso-8859-1", "Content-Length": "20",
			"X-Lockss-Orig-Content-Length": "19", "Last-Modified": "Wed, 07 Nov 2012 10:00:00 GMT",
			"X-Lockss-Orig-Date": "Wed, 07 Nov 2012 11:00:00 GMT", "X-Lockss-Orig-Server": "Press/1.0",
			"X-Lockss-Orig-X_lockss-Server-Date": "1352286000000", "X-Lockss-Orig-X": "kept", "Etag": `"abc"`, "X-Press": "caf\xe9",
			"Accept-Ranges": "bytes", "Via": "1.1 box.example (LOCKSS/armarium)", "Server": "", "X-Lockss-Orig-Url": "",
			"X-Lockss-Repaired-From": "", "X-Lockss-Node-Url": "", "Org.lockss.version.number": ""}},
		{"head", "HEAD", u, nil, 200, "", map[string]string{"Content-Length": "20", "Etag": `"abc"`}},
		{"head is never conditional", "HEAD", u, []string{"If-Modified-Since: Wed, 07 Nov 2012 10:00:00 GMT"}, 200, "", nil},
		{"post is answered like get", "POST", u, nil, 200, page1, nil},
		{"not modified", "GET", u, []string{"If-Modified-Since: Wed, 07 Nov 2012 10:00:00 GMT"}, 304, "", nil},
		{"modified", "GET", u, []string{"If-Modified-Since: Wed, 07 Nov 2012 09:59:59 GMT"}, 200, page1, nil},
		{"unmodified since, true", "GET", u, []string{"If-Unmodified-Since: Wed, 07 Nov 2012 10:00:00 GMT"}, 200, page1, nil},
		{"unmodified since, false", "GET", u, []string{"If-Unmodified-Since: Wed, 07 Nov 2012 09:59:59 GMT"}, 412, "", nil},
		{"range", "GET", u, []string{"Range: bytes=5-9"}, 206, "56789", map[string]string{"Content-Range": "bytes 5-9/20", "Content-Length": "5"}},
		{"last bytes", "GET", u, []string{"Range: bytes=-3"}, 206, "hij", map[string]string{"Content-Range": "bytes 17-19/20"}},
		{"range not satisfiable", "GET", u, []string{"Range: bytes=20-"}, 416, "invalid range: failed to overlap\n", map[string]string{"Content-Range": "bytes */20"}},
		{"stored redirect", "GET", "http://press.example/old", nil, 301, "", map[string]string{"Location": u, "X-Lockss": "from-cache"}},
		{"slash of a directory", "GET", "http://press.example/dir", nil, 301, "", map[string]string{"Location": "http://press.example/dir/"}},
		{"directory", "GET", "http://press.example/dir/", nil, 200, "a directory", map[string]string{"Content-Type": ""}},
		{"encoded content as stored", "GET", "http://press.example/gz.css", nil, 200, gz(page1), map[string]string{"Content-Encoding": "gzip", "Content-Length": fmt.Sprint(len(gz(page1)))}},
		{"type by name", "GET", "http://press.example/logo.png", nil, 200, "png", map[string]string{"Content-Type": "image/png"}},
		{"one unit asked for", "GET", "http://press.example/both", []string{"X-Lockss-Auid: " + string(auTwo)}, 200, "in two", nil},
		{"best unit", "GET", "http://press.example/both", nil, 200, "in one", nil},
		{"escapes stay", "GET", "http://press.example/a%20b?q=%7C", nil, 200, "encoded", nil},
		{"large", "GET", "http://press.example/big.bin", nil, 200, strings.Repeat("x", 1<<20), nil},
		{"repair request", "GET", u, []string{"X-Lockss: Repair"}, 200, page1, nil},
	} {
		resp, body := do(t, c, k.method, k.url, k.headers...)
		if resp.StatusCode != k.status || k.status != 412 && body != k.body {
			t.Errorf("%s: got %d %.60q, want %d %.60q", k.name, resp.StatusCode, body, k.status, k.body)
		}
		for h, want := range k.want {
			if got := resp.Header.Get(h); got != want {
				t.Errorf("%s: header %s: got %q, want %q", k.name, h, got, want)
			}
		}
	}
}

func TestSeveralRanges(t *testing.T) {
	_, c := start(t, nil)
	resp, body := do(t, c, "GET", "http://press.example/page1", "Range: bytes=0-1,18-")
	typ, params, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if resp.StatusCode != 206 || typ != "multipart/byteranges" {
		t.Fatalf("got %d %s", resp.StatusCode, typ)
	}
	mr := multipart.NewReader(strings.NewReader(body), params["boundary"])
	for _, want := range []string{"01", "ij"} {
		part, err := mr.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := io.ReadAll(part); string(b) != want {
			t.Errorf("part: got %q, want %q", b, want)
		}
	}
}

func TestNotServed(t *testing.T) {
	proxy, c := start(t, nil)
	for _, k := range []struct {
		name, method, url string
		headers           []string
		status            int
		say               string
	}{
		{"not preserved", "GET", "http://press.example/nothing", nil, 404, "Not found in LOCKSS box box.example"},
		{"not preserved, markup in the URL", "GET", "http://press.example/%3Cscript%3E?<b>", nil, 404, "Not found"},
		{"unknown unit", "GET", "http://press.example/page1", []string{"X-Lockss-Auid: no|such&unit~1"}, 412, "AU specified by X-Lockss-Auid header not found: no|such&amp;unit~1"},
		{"put", "PUT", "http://press.example/page1", nil, 501, ""},
		{"delete", "DELETE", "http://press.example/page1", nil, 501, ""},
	} {
		resp, body := do(t, c, k.method, k.url, k.headers...)
		if resp.StatusCode != k.status || !strings.Contains(body, k.say) {
			t.Errorf("%s: got %d %q, want %d with %q", k.name, resp.StatusCode, body, k.status, k.say)
		}
		if resp.Header.Get("X-Lockss") != "" || strings.Contains(body, "<script>") || strings.Contains(body, "<b>") {
			t.Errorf("%s: %v %s", k.name, resp.Header, body)
		}
	}
	if resp, body := raw(t, proxy, "CONNECT press.example:443"); resp.StatusCode != 403 {
		t.Errorf("CONNECT: got %d %q, want 403", resp.StatusCode, body)
	}
	if resp, _ := raw(t, proxy, "OPTIONS http://press.example/page1"); resp.StatusCode != 200 || resp.Header.Get("Allow") != "GET, HEAD, POST, OPTIONS" {
		t.Errorf("OPTIONS: got %d %v", resp.StatusCode, resp.Header)
	}
	if resp, body := raw(t, proxy, "GET /page1"); resp.StatusCode != 404 {
		t.Errorf("request for the proxy itself: got %d %q", resp.StatusCode, body)
	}
	if resp, body := raw(t, proxy, "GET http://press.example/"+strings.Repeat("a", maxURL)); resp.StatusCode != 414 {
		t.Errorf("long URL: got %d %q", resp.StatusCode, body)
	}
}

// TestRawForms: URLs that must not be decoded, and those that browsers send raw.
func TestRawForms(t *testing.T) {
	proxy, _ := start(t, nil)
	for _, k := range []struct{ url, body string }{
		{"http://press.example/raw|bar", "raw"},
		{"http://press.example/a%20b?q=|", "encoded"},
		{"https://other.example/secure", "was https"},
		{"HTTP://PRESS.example/page1", page1},
	} {
		if resp, body := raw(t, proxy, "GET "+k.url); resp.StatusCode != 200 || body != k.body {
			t.Errorf("%s: got %d %q, want %q", k.url, resp.StatusCode, body, k.body)
		}
	}
}

func TestIndex(t *testing.T) {
	proxy, _ := start(t, nil)
	resp, body := raw(t, proxy, "GET /")
	if resp.StatusCode != 200 || !strings.Contains(body, "Press &lt;One&gt;") || !strings.Contains(body, `href="http://press.example/"`) ||
		strings.Count(body, "(not fully collected)") != 1 {
		t.Errorf("index: got %d\n%s", resp.StatusCode, body)
	}
}

func TestCandidates(t *testing.T) {
	_, c := start(t, func(c *Config, _ *library) { c.Index = true })
	if _, body := do(t, c, "GET", "http://other.example/nothing"); !strings.Contains(body, "Other") || strings.Contains(body, "Press") {
		t.Errorf("got %s", body)
	}
}

func TestStarting(t *testing.T) {
	_, c := start(t, func(_ *Config, l *library) { l.starting = true })
	if resp, _ := do(t, c, "GET", "http://press.example/page1"); resp.StatusCode != 200 {
		t.Errorf("preserved: got %d", resp.StatusCode)
	}
	if resp, _ := do(t, c, "GET", "http://press.example/nothing"); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("not found while starting: got %d", resp.StatusCode)
	}
	_, c = start(t, func(c *Config, l *library) { l.starting, c.Wait = true, false })
	if resp, _ := do(t, c, "GET", "http://press.example/nothing"); resp.StatusCode != 404 {
		t.Errorf("not found, told not to wait: got %d", resp.StatusCode)
	}
}

func TestOptions(t *testing.T) {
	_, c := start(t, func(c *Config, _ *library) {
		c.CopyStored, c.AuditProps, c.IgnoreSince, c.Disallowed = false, true, true, []string{"post"}
	})
	const u = "http://press.example/page1"
	resp, body := do(t, c, "GET", u, "If-Modified-Since: Wed, 07 Nov 2012 10:00:00 GMT")
	if resp.StatusCode != 200 || body != page1 {
		t.Errorf("stored content-length is wrong: got %d, want the whole", resp.StatusCode)
	}
	if resp.Header.Get("X-Press") != "" || resp.Header.Get("X-Lockss-Repaired-From") == "" {
		t.Errorf("headers: %v", resp.Header)
	}
	if resp, _ := do(t, c, "POST", u); resp.StatusCode != 403 {
		t.Errorf("disallowed method: got %d", resp.StatusCode)
	}
	resp, body = do(t, c, "GET", "http://press.example/gz.css")
	if resp.Header.Get("Content-Encoding") != "gzip" || body != gz(page1) {
		t.Errorf("the encoding is lost: %v", resp.Header)
	}
}

// TestAccess: clients from elsewhere are refused by the list.
func TestAccess(t *testing.T) {
	p, err := New(Config{Host: "box", Library: &library{}, Forbidden: "not from %IP%", Include: []string{"192.0.2.0/24"}, Exclude: []string{"192.0.2.9"}})
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]int{"192.0.2.1:999": 200, "192.0.2.9:999": 403, "198.51.100.1:999": 403, "[::1]:999": 200} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = addr
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s: got %d %q, want %d", addr, w.Code, w.Body, want)
		}
	}
	if err := p.SetAccess(nil, []string{"nonsense"}); err == nil {
		t.Error("a malformed exclude entry is accepted")
	}
	if _, err := New(Config{Host: "box", Library: &library{}, Exclude: []string{"nonsense"}}); err == nil {
		t.Error("New accepts a malformed exclude entry")
	}
}

func TestView(t *testing.T) {
	s, err := store.Open(store.Config{Roots: []string{t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put(t, s, auOne, "http://press.example/evil.html", gz("<script>alert(1)</script>"), map[string]string{"x-lockss-content-type": "text/html", "content-encoding": "gzip"})
	put(t, s, auOne, "http://press.example/x.swf", "flash", map[string]string{"x-lockss-content-type": "application/x-shockwave-flash"})
	unit, _ := s.Unit(auOne)
	for _, k := range []struct {
		url         string
		save        bool
		disposition string
		typ         string
	}{
		{"http://press.example/evil.html", false, "inline; filename=evil.html", "text/html"},
		{"http://press.example/evil.html", true, "attachment; filename=evil.html", "application/octet-stream"},
		{"http://press.example/x.swf", false, "attachment; filename=x.swf", "application/octet-stream"},
	} {
		v, err := unit.Current(k.url)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		if err := View(w, httptest.NewRequest("GET", "/", nil), v, k.save); err != nil {
			t.Fatal(err)
		}
		h := w.Header()
		csp := h.Get("Content-Security-Policy")
		if !strings.HasPrefix(csp, "sandbox;") || strings.Contains(csp, "allow-") || strings.Contains(csp, "script-src") || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", k.url, h)
		}
		if h.Get("Content-Disposition") != k.disposition || h.Get("Content-Type") != k.typ {
			t.Errorf("%s: got %q %q, want %q %q", k.url, h.Get("Content-Disposition"), h.Get("Content-Type"), k.disposition, k.typ)
		}
		if strings.HasSuffix(k.url, "html") && w.Body.String() != "<script>alert(1)</script>" {
			t.Errorf("%s: the encoding is not undone: %q", k.url, w.Body)
		}
	}
}

func TestHeaderInjection(t *testing.T) {
	for _, bad := range []string{"a\r\nX: y", "a\nb", "a\x00b", "☃"} {
		if _, ok := headerValue(bad); ok {
			t.Errorf("%q can be sent in a header", bad)
		}
	}
	for _, bad := range []string{"a b", "a:b", "", "x\r", "(x)"} {
		if token(bad) {
			t.Errorf("%q can be a header name", bad)
		}
	}
}

func TestFileName(t *testing.T) {
	for u, want := range map[string]string{
		"http://press.example/a/b.pdf?x=1": "b.pdf", "http://press.example": "press.example", "http://press.example/": "press.example",
		"http://press.example/%2e%2e": "content", "http://press.example/a%2Fb%22": "b_", "::": "content",
	} {
		if got := fileName(u); got != want {
			t.Errorf("%s: got %q, want %q", u, got, want)
		}
	}
}

func FuzzMinimallyEncode(f *testing.F) {
	f.Add("http://press.example/a b|c")
	f.Fuzz(func(t *testing.T, u string) {
		e := minimallyEncode(u)
		if strings.ContainsAny(e, " |\"<>\r\n") || minimallyEncode(e) != e {
			t.Errorf("%q: %q", u, e)
		}
	})
}
