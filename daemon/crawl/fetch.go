package crawl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"armarium/daemon/links"
	"armarium/daemon/lockss"
	"armarium/daemon/store"
)

const (
	userAgent    = "LOCKSS cache"
	accept       = "text/html, image/gif, image/jpeg; q=.2, */*; q=.2"
	maxRedirects = 10
)

// Properties of a stored version beside the response headers (crawl.md 9.2). The store adds
// version number and checksum.
const (
	propNodeURL     = "x-lockss-node-url"
	propOrigURL     = "x-lockss-orig-url"
	propContentURL  = "x-lockss-content-url"
	propRedirected  = "x-lockss-redirected-to"
	propContentType = "x-lockss-content-type"
	propFetched     = "x_lockss-server-date"
	propReferrer    = "x-lockss-referrer"
)

// A job is one URL to fetch.
type job struct {
	url, referrer string
	force         bool // do not ask whether it was modified
	start         bool // a start URL: storing it is no content change (crawl.md 9.1)
	// permission is not nil for a permission page: it looks at the beginning of the body and
	// says whether to store it.
	permission func(contentType string, head []byte) bool
}

// outcome of a fetch without fault.
type outcome int

const (
	stored outcome = iota
	notModified
	redirectedOut // to a URL outside the crawl rules: nothing stored, no error
	notPermitted  // a permission page without statement: nothing stored
)

// fetch gets a URL and stores it, with retries (crawl.md 8.3).
func (cr *crawl) fetch(ctx context.Context, j job) (outcome, *fault) {
	tries := 1
	for try := 1; ; try++ {
		o, f := cr.attempt(ctx, j)
		if f == nil {
			return o, nil
		}
		cfg := cr.c.cfg
		if try == 1 && f.result.Retry {
			tries = f.result.Tries
			if tries == 0 {
				tries = cfg.RetryCount
			}
			tries = min(tries, cfg.MaxRetryCount)
		}
		if !f.result.Retry || f.stop || try >= tries {
			return 0, f
		}
		delay := f.result.Delay
		if delay == 0 {
			delay = cfg.RetryDelay
		}
		cr.log.Debug("fetch is tried again", "url", j.url, "try", try, "err", f.err)
		if err := sleep(ctx, max(delay, cfg.MinRetryDelay)); err != nil {
			return 0, cr.ioFault(ctx, err)
		}
	}
}

// attempt asks for the URL once, following redirects.
func (cr *crawl) attempt(ctx context.Context, j job) (outcome, *fault) {
	if t := cr.c.cfg.MaxURLTime; t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, t, fmt.Errorf("%w of %v", ErrURLTime, t))
		defer cancel()
	}
	since := ""
	if !j.force {
		if v, err := cr.content.Current(j.url); err == nil && v.BodyErr == nil {
			since = v.Props["last-modified"]
		}
	}
	asked, chain := j.url, []string{j.url}
	for hop := 0; ; hop++ {
		resp, f := cr.request(ctx, asked, j.referrer, since)
		if f != nil {
			return 0, f
		}
		name, failed := statusClass(resp.StatusCode)
		if r, ok := cr.plugin.Result(resp.StatusCode); ok {
			name, failed = r.Class, true
		}
		if !failed {
			if resp.StatusCode == http.StatusNotModified {
				drop(resp)
				return notModified, nil
			}
			defer resp.Body.Close()
			return cr.receive(ctx, j, resp, chain)
		}
		drop(resp)
		location := resp.Header.Get("Location")
		if !isRedirect(name) || location == "" {
			return 0, cr.httpFault(resp, name)
		}
		if hop == maxRedirects {
			return 0, entry(name, "more than %d redirects", maxRedirects)
		}
		next, o, f := cr.redirect(ctx, j, asked, location)
		if f != nil || o == redirectedOut {
			return o, f
		}
		chain = append(chain, next)
		asked = next
	}
}

// redirect checks where a redirect leads (crawl.md 8.4).
func (cr *crawl) redirect(ctx context.Context, j job, from, location string) (next string, o outcome, f *fault) {
	next, err := links.Resolve(from, latin1(location))
	if err == nil {
		next, err = lockss.NormalizeURL(next)
	}
	if err == nil {
		_, _, err = splitURL(next)
	}
	if err != nil {
		return "", 0, entry("MalformedURLException", "redirect to %.200q: %w", location, err)
	}
	if max := cr.c.cfg.MaxURLLength; len(next) > max {
		return "", 0, entry("MalformedURLException", "redirect to %.200s…: %w of %d", next, ErrURLLength, max)
	}
	if cr.plugin.LoginRedirect(next) {
		return "", 0, &fault{result: classOf("PermissionException"), err: fmt.Errorf("redirect to the login page %s", next)}
	}
	if j.permission != nil {
		if hostOf(next) != hostOf(from) {
			return "", 0, &fault{result: classOf("ExpectedNoRetryException"), err: fmt.Errorf("permission page redirects to another host: %s", next)}
		}
		return next, 0, nil
	}
	if !cr.plugin.Included(next) {
		cr.count(func(r *Result) { r.Excluded++ })
		return "", redirectedOut, nil
	}
	if hostOf(next) != hostOf(from) {
		if f := cr.permit(ctx, next); f != nil {
			if f.stop {
				return "", 0, f
			}
			return "", 0, entry("RedirectOutsideCrawlSpecException", "redirect to %s is not followed: %w", next, f.err)
		}
	}
	return next, 0, nil
}

// request sends one request, and a second one when the first answer to the URL sets a cookie
// that the request lacked (crawl.md 7).
func (cr *crawl) request(ctx context.Context, target, referrer, since string) (*http.Response, *fault) {
	resp, f := cr.send(ctx, target, referrer, since)
	if f == nil && cr.jar != nil && len(resp.Cookies()) > 0 {
		if u, err := url.Parse(target); err == nil {
			fresh := !cr.hasCookies(u, resp.Cookies())
			cr.jar.SetCookies(u, resp.Cookies())
			if fresh && cr.refetchOnCookie && !cr.cookied[target] {
				cr.cookied[target] = true
				drop(resp)
				return cr.send(ctx, target, referrer, since)
			}
		}
	}
	return resp, f
}

// hasCookies says whether all these cookies would have been sent.
func (cr *crawl) hasCookies(u *url.URL, set []*http.Cookie) bool {
	sent := cr.jar.Cookies(u)
	for _, c := range set {
		if !slices.ContainsFunc(sent, func(s *http.Cookie) bool { return s.Name == c.Name && s.Value == c.Value }) {
			return false
		}
	}
	return true
}

func (cr *crawl) send(ctx context.Context, target, referrer, since string) (*http.Response, *fault) {
	u, path, err := splitURL(target)
	if err != nil {
		return nil, entry("MalformedURLException", "%w", err)
	}
	rates := cr.plugin.Rates()
	rate := rates.For(target, cr.lastMIME)
	if cr.plugin.IsRegistry() {
		rate = cr.c.cfg.RegistryFetchRate
	}
	if err := cr.c.limits.wait(ctx, cr.pool, rate); err != nil {
		return nil, cr.ioFault(ctx, err)
	}
	// The target goes out as it is stored; only what no request may contain is encoded.
	switch u.Opaque = wirePath(path); {
	case cr.proxy != nil && u.Scheme == "http":
		u.Opaque = "//" + u.Host + u.Opaque
	case strings.HasPrefix(u.Opaque, "//"): // Opaque would be taken for an authority
		u.RawPath, u.RawQuery, _ = strings.Cut(u.Opaque, "?")
		u.Opaque = ""
		if u.Path, err = url.PathUnescape(u.RawPath); err != nil {
			u.Path = u.RawPath
		}
	}
	h := http.Header{
		"User-Agent": {userAgent},
		"Accept":     {accept},
		"Connection": {"keep-alive"},
	}
	if referrer != "" && cr.c.cfg.SendReferrer && cr.plugin.SendReferrer() {
		h.Set("Referer", wirePath(referrer))
	}
	if since != "" {
		h.Set("If-Modified-Since", since)
	}
	cookies := cr.plugin.Cookies()
	if cr.jar != nil {
		if parsed, err := url.Parse(target); err == nil {
			for _, c := range cr.jar.Cookies(parsed) {
				cookies = append(cookies, c.Name+"="+c.Value)
			}
		}
	}
	if len(cookies) > 0 {
		h.Set("Cookie", strings.Join(cookies, "; "))
	}
	for _, line := range append(slices.Clone(cr.c.cfg.Headers), cr.plugin.Headers()...) {
		switch name, value, _ := strings.Cut(line, ":"); {
		case strings.TrimSpace(value) == "":
			h.Del(strings.TrimSpace(name))
		default:
			h.Set(strings.TrimSpace(name), strings.TrimSpace(value))
		}
	}
	req := &http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: h, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if user, pass, ok := cr.plugin.UserPass(); ok {
		req.SetBasicAuth(user, pass)
	}
	req = req.WithContext(context.WithValue(ctx, proxyKey{}, cr.proxy))
	resp, err := cr.c.transport.RoundTrip(req)
	if err != nil {
		if errors.Is(err, io.EOF) || strings.Contains(err.Error(), "server closed idle connection") {
			err = fmt.Errorf("%w (%w)", errNoResponse, err)
		}
		return nil, cr.ioFault(ctx, err)
	}
	cr.lastMIME, _ = links.ContentType(resp.Header.Get("Content-Type"))
	return resp, nil
}

// proxyKey is the context key of a request's *url.URL of its proxy, nil for none.
type proxyKey struct{}

func requestProxy(r *http.Request) (*url.URL, error) {
	u, _ := r.Context().Value(proxyKey{}).(*url.URL)
	return u, nil
}

// drop lets go of a response whose body nobody wants. A small one is read, so that the
// connection can be used again.
func drop(resp *http.Response) {
	if n := resp.ContentLength; n >= 0 && n <= 16<<10 {
		_, _ = io.Copy(io.Discard, resp.Body) // what comes of it does not matter
	}
	resp.Body.Close()
}

// receive stores the body under all URLs of the chain, once it is complete.
func (cr *crawl) receive(ctx context.Context, j job, resp *http.Response, chain []string) (outcome, *fault) {
	under := places(chain)
	if j.permission != nil {
		under = []string{j.url} // without the chain (crawl.md 4.1)
	}
	var writers []*store.Writer
	defer func() {
		for _, w := range writers {
			w.Abandon()
		}
	}()
	for _, u := range under {
		w, err := cr.content.New(u)
		if errors.Is(err, store.ErrBusy) {
			return 0, &fault{result: classOf("RetryableException"), err: err}
		}
		if err != nil {
			return 0, storeFault(err)
		}
		writers = append(writers, w)
	}
	head, n, f := cr.copyBody(ctx, j, resp, writers)
	if f != nil {
		return 0, f
	}
	if j.permission != nil && !j.permission(resp.Header.Get("Content-Type"), undoEncoding(resp.Header.Get("Content-Encoding"), head)) {
		return notPermitted, nil
	}
	if n == 0 {
		r, ok := cr.plugin.ResultEmpty()
		if !ok {
			r = classOf("WarningOnly")
		}
		switch {
		case r.Fail || r.Fatal || r.NoStore:
			return 0, &fault{result: r, err: errors.New("empty file")}
		case !cr.plugin.IsRegistry():
			cr.warn(j.url, "empty file")
		}
	}
	props := cr.headers(resp, j)
	for i, w := range writers {
		p := make(map[string]string, len(props)+4)
		for k, v := range props {
			p[k] = v
		}
		p[propNodeURL] = under[i]
		if len(under) > 1 {
			p[propOrigURL] = under[0]
			if i < len(under)-1 {
				p[propRedirected] = under[i+1]
			}
			if i == 0 {
				p[propContentURL] = under[len(under)-1]
			}
		}
		sealed, err := w.Seal(p)
		if err != nil {
			return 0, storeFault(err)
		}
		if sealed.Changed {
			cr.contentChanged(j.start)
		}
	}
	cr.count(func(r *Result) { r.Fetched++ })
	return stored, nil
}

// places are the URLs of a redirect chain under which content is stored: those that only lack
// the final slash of a later one, or come again, are no places of their own (crawl.md 8.4).
func places(chain []string) []string {
	var under []string
	for i, u := range chain {
		again := slices.ContainsFunc(chain[i+1:], func(later string) bool {
			a, _ := lockss.NodeURL(u) // a URL that is no node fails when it is stored
			b, _ := lockss.NodeURL(later)
			return a == b
		})
		if !again {
			under = append(under, u)
		}
	}
	return under
}

// copyBody writes the body to all writers. head is its beginning, for a permission page.
func (cr *crawl) copyBody(ctx context.Context, j job, resp *http.Response, writers []*store.Writer) (head []byte, n int64, f *fault) {
	cfg := cr.c.cfg
	if cfg.MaxFileSize > 0 && resp.ContentLength > cfg.MaxFileSize {
		return nil, 0, cr.ioFault(ctx, fmt.Errorf("%w of %d bytes: Content-Length %d", ErrFileSize, cfg.MaxFileSize, resp.ContentLength))
	}
	buf := make([]byte, 64<<10)
	for {
		m, err := resp.Body.Read(buf)
		n += int64(m)
		total := cr.received(m)
		switch {
		case cfg.MaxFileSize > 0 && n > cfg.MaxFileSize:
			return nil, n, cr.ioFault(ctx, fmt.Errorf("%w of %d bytes", ErrFileSize, cfg.MaxFileSize))
		case cfg.MaxCrawlSize > 0 && total > cfg.MaxCrawlSize:
			return nil, n, cr.ioFault(ctx, fmt.Errorf("%w of %d bytes", ErrCrawlSize, cfg.MaxCrawlSize))
		}
		if j.permission != nil {
			head = append(head, buf[:min(m, cfg.PermissionBuffer-len(head))]...)
		}
		for _, w := range writers {
			if _, err := w.Write(buf[:m]); err != nil {
				return nil, n, storeFault(err)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return head, n, nil
		case errors.Is(err, io.ErrUnexpectedEOF) && resp.ContentLength >= 0:
			return nil, n, cr.ioFault(ctx, fmt.Errorf("%w: %d of %d bytes", errWrongLength, n, resp.ContentLength))
		case err != nil:
			return nil, n, cr.ioFault(ctx, err)
		}
	}
}

// headers are the properties that all copies of a response have in common. Headers that
// would pass for properties of this node are left out.
func (cr *crawl) headers(resp *http.Response, j job) map[string]string {
	props := map[string]string{}
	for name, values := range resp.Header {
		name = strings.ToLower(name)
		if strings.HasPrefix(name, "x-lockss") || strings.HasPrefix(name, "x_lockss") || strings.HasPrefix(name, "org.lockss") {
			continue
		}
		props[name] = latin1(strings.Join(values, ","))
	}
	if len(resp.TransferEncoding) > 0 {
		props["transfer-encoding"] = strings.Join(resp.TransferEncoding, ",")
	}
	if ct := props["content-type"]; ct != "" {
		props[propContentType] = ct
	}
	props[propFetched] = strconv.FormatInt(time.Now().UnixMilli(), 10)
	if j.referrer != "" && cr.c.cfg.SendReferrer && cr.plugin.SendReferrer() {
		props[propReferrer] = j.referrer
	}
	return props
}

// latin1 makes text of the bytes of a header, which are Latin-1 unless they are UTF-8.
func latin1(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	r := make([]rune, len(s))
	for i := range len(s) {
		r[i] = rune(s[i])
	}
	return string(r)
}

// splitURL takes the authority of a http or https URL apart from the rest, as it is. No other
// scheme is ever asked for anything.
func splitURL(s string) (*url.URL, string, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	scheme = strings.ToLower(scheme)
	if !ok || scheme != "http" && scheme != "https" {
		return nil, "", fmt.Errorf("%.200q: scheme is neither http nor https", s)
	}
	rest, _, _ = strings.Cut(rest, "#")
	i := strings.IndexAny(rest, "/?")
	if i < 0 {
		i = len(rest)
	}
	host, path := rest[:i], rest[i:]
	host = strings.TrimSuffix(host[strings.LastIndexByte(host, '@')+1:], ":")
	u, err := url.Parse(scheme + "://" + host)
	if err != nil || u.Hostname() == "" {
		return nil, "", fmt.Errorf("%.200q: malformed host", s)
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return &url.URL{Scheme: scheme, Host: host}, path, nil
}

// wirePath encodes what may not stand in a request line: controls, blanks, some punctuation
// and what is not ASCII. A "%" stays (crawl.md 7).
func wirePath(s string) string {
	const bad = " \"<>\\^`{|}"
	var b bytes.Buffer
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(bad, c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// hostOf is the host of a URL in small letters, without port; "" if it has none.
func hostOf(s string) string {
	u, _, err := splitURL(s)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Hostname())
}
