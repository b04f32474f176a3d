// Package serve hands preserved content to readers (proxies.md).
//
//	Proxy     the audit proxy: answers proxy requests ("GET http://host/path") from what is
//	          preserved and from nothing else; the publisher is never asked
//	Content   one version as a response: stored headers, conditional and range requests
//	View      one version for the pages of the node itself, made harmless
//
// What a proxy request gets:
//
//	not in the access list          403
//	CONNECT                         403; there is no TLS listener to lead the tunnel to
//	other methods than GET, HEAD,
//	POST and OPTIONS                501
//	X-Lockss-Auid names no unit     412, or 503 while units are being started
//	preserved                       200, 206, 301 (stored redirect), 304, 412, 416
//	not preserved                   404, or 503 while units are being started
//	GET / of the proxy itself       an index of the collections
//
// Bytes are sent as stored, with their stored content encoding; nothing is rewritten.
package serve

import (
	"cmp"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"armarium/daemon/account"
	"armarium/daemon/lockss"
	"armarium/daemon/store"
)

// ErrStarting says that a URL was not found, but not all units have been started.
var ErrStarting = errors.New("the collections are still being started")

// A Library finds preserved content.
type Library interface {
	// Lookup gives the current version of a URL, and the unit that has it: the given one, or
	// with au "" the best. Errors wrap store.ErrNotPreserved, store.ErrNoUnit or ErrStarting.
	Lookup(url string, au lockss.AUID) (*store.Version, lockss.AUID, error)
	// Collections lists the units that readers may browse, in the order of their names.
	Collections() []Collection
}

// A Collection is a line of the index.
type Collection struct {
	AU        lockss.AUID
	Name      string
	StartURLs []string
	Collected bool // crawled completely at least once
}

// Config of a Proxy.
type Config struct {
	Start     bool     `prop:"org.lockss.proxy.audit.start" default:"false"`
	Port      int      `prop:"org.lockss.proxy.audit.port" default:"0"`
	BindAddrs []string `prop:"org.lockss.proxy.audit.bindAddrs" default:""` // none: all addresses

	Include   []string `prop:"org.lockss.proxy.access.ip.include" default:""`
	Exclude   []string `prop:"org.lockss.proxy.access.ip.exclude" default:""`
	LogDenied bool     `prop:"org.lockss.proxy.access.ip.logForbidden" default:"true"`
	Forbidden string   `prop:"org.lockss.proxy.403Msg" default:"Access to the content of this LOCKSS box is not allowed from your address (%IP%)."`

	Disallowed []string `prop:"org.lockss.proxy.disallowedMethods" default:""`
	Minimal    bool     `prop:"org.lockss.proxy.minimallyEncodeUrls" default:"true"`
	Index      bool     `prop:"org.lockss.proxy.audit.index" default:"false"` // candidates on the 404 page
	Wait       bool     `prop:"org.lockss.proxy.audit503UntilAusStarted" default:"true"`

	Headers // what is sent along

	Host    string  // name of this box, for messages and the Via header; "" is a pseudonym
	Library Library // required

	Log *slog.Logger // nil: discard
}

// A Proxy is the audit proxy.
type Proxy struct {
	cfg    Config
	log    *slog.Logger
	access account.Filter
	serve  http.Handler
}

// New returns an audit proxy. Whether and where it listens (Start, Port, BindAddrs) is up to
// the caller; see Server. An access list with a malformed exclude entry is an error.
func New(c Config) (*Proxy, error) {
	p := &Proxy{cfg: c, log: c.Log}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if c.Library == nil {
		return nil, errors.New("serve: Library is required")
	}
	p.cfg.Host = cmp.Or(c.Host, "armarium")
	if err := p.SetAccess(c.Include, c.Exclude); err != nil {
		return nil, fmt.Errorf("access to content: %w", err)
	}
	var log *slog.Logger
	if c.LogDenied {
		log = p.log
	}
	p.serve = p.access.Guard(http.HandlerFunc(p.request), c.Forbidden, log)
	return p, nil
}

// SetAccess replaces the access list; with an error the old one stays.
func (p *Proxy) SetAccess(include, exclude []string) error {
	warnings, err := p.access.Set(include, exclude)
	for _, w := range warnings {
		p.log.Warn("access to content: entry ignored", "err", w)
	}
	return err
}

// Server returns an HTTP server for the proxy with limits against slow and greedy clients.
// The caller gives it a listener.
func (p *Proxy) Server() *http.Server {
	return &http.Server{
		Handler:                      p,
		ReadTimeout:                  30 * time.Second,
		ReadHeaderTimeout:            10 * time.Second,
		IdleTimeout:                  2 * time.Minute,
		WriteTimeout:                 6 * time.Hour, // of one response; a large file over a slow line
		MaxHeaderBytes:               64 << 10,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
}

// ServeHTTP answers proxy requests.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	rec := &recorder{ResponseWriter: w}
	p.serve.ServeHTTP(rec, r)
	p.log.Info("proxy access", "client", account.ClientAddr(r), "method", r.Method, "url", r.RequestURI,
		"status", rec.status, "took", time.Since(start).Round(time.Millisecond))
}

// recorder notes the status for the log.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// maxURL is the longest URL looked up, bytes; a longer one cannot be preserved.
const maxURL = 16 << 10

func (p *Proxy) request(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Via", fmt.Sprintf("%d.%d %s (LOCKSS/armarium)", r.ProtoMajor, r.ProtoMinor, p.cfg.Host))
	if slices.ContainsFunc(p.cfg.Disallowed, func(m string) bool { return strings.EqualFold(m, r.Method) }) {
		p.fail(w, r, http.StatusForbidden, "The method "+r.Method+" is not allowed.", nil)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost:
	case http.MethodOptions:
		w.Header().Set("Allow", "GET, HEAD, POST, OPTIONS")
		w.WriteHeader(http.StatusOK)
		return
	case http.MethodConnect:
		p.fail(w, r, http.StatusForbidden, "This proxy opens no connections to other servers; preserved content is served to http requests only.", nil)
		return
	default:
		p.fail(w, r, http.StatusNotImplemented, "The method "+r.Method+" is not supported.", nil)
		return
	}
	if !r.URL.IsAbs() {
		if r.URL.Path == "/" {
			p.index(w, r)
			return
		}
		p.fail(w, r, http.StatusNotFound, "This is a proxy. Set it as the HTTP proxy of your browser, or see the list of collections.", nil)
		return
	}
	if len(r.RequestURI) > maxURL {
		p.fail(w, r, http.StatusRequestURITooLong, "No URL of this length is preserved.", nil)
		return
	}

	au := lockss.AUID(r.Header.Get("X-Lockss-Auid"))
	v, url, err := p.lookup(r.RequestURI, au)
	switch {
	case err == nil:
		Content(w, r, v, url, p.cfg.Headers)
	case errors.Is(err, ErrStarting) && (p.cfg.Wait || au != ""):
		w.Header().Set("Retry-After", "60")
		p.fail(w, r, http.StatusServiceUnavailable, "This LOCKSS box is starting. Please try again in a moment.", nil)
	case errors.Is(err, store.ErrNoUnit) && au != "":
		p.fail(w, r, http.StatusPreconditionFailed, "AU specified by X-Lockss-Auid header not found: "+string(au), nil)
	case errors.Is(err, store.ErrNotPreserved), errors.Is(err, store.ErrNoUnit), errors.Is(err, ErrStarting):
		var candidates []Collection
		if p.cfg.Index {
			candidates = p.candidates(r.URL.Hostname())
		}
		p.fail(w, r, http.StatusNotFound, "Not found in LOCKSS box "+p.cfg.Host, candidates)
	default:
		p.log.Error("content cannot be read", "url", url, "err", err)
		p.fail(w, r, http.StatusInternalServerError, "This URL is preserved, but could not be read from the disk. The next audit should repair it.", nil)
	}
}

// lookup finds a URL as it was sent, made sendable first (proxies.md 1, step 6). Boxes have
// also stored URLs with characters that may not be sent, so the raw form is tried too.
func (p *Proxy) lookup(raw string, au lockss.AUID) (*store.Version, string, error) {
	u := raw
	if p.cfg.Minimal {
		u = minimallyEncode(raw)
	}
	v, _, err := p.cfg.Library.Lookup(u, au)
	if errors.Is(err, store.ErrNotPreserved) && u != raw {
		if v, _, err := p.cfg.Library.Lookup(raw, au); err == nil {
			return v, raw, nil
		}
	}
	return v, u, err
}

// minimallyEncode escapes what may not appear in a URL; it decodes nothing.
func minimallyEncode(u string) string {
	const hex = "0123456789ABCDEF"
	var b []byte
	for i := range len(u) {
		c := u[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>\\^`{|}", c) >= 0 {
			b = append(b, '%', hex[c>>4], hex[c&15])
		} else {
			b = append(b, c)
		}
	}
	return string(b)
}

// candidates are the collections that start at a host.
func (p *Proxy) candidates(host string) []Collection {
	return slices.DeleteFunc(p.cfg.Library.Collections(), func(c Collection) bool {
		return !slices.ContainsFunc(c.StartURLs, func(s string) bool {
			u, err := url.Parse(s)
			return err == nil && strings.EqualFold(u.Hostname(), host)
		})
	})
}

func (p *Proxy) index(w http.ResponseWriter, r *http.Request) {
	p.page(w, r, http.StatusOK, page{Title: "Preserved in LOCKSS box " + p.cfg.Host, List: true,
		Text:        "The links work when this proxy is set as the HTTP proxy of the browser.",
		Collections: p.cfg.Library.Collections()})
}

func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, status int, text string, candidates []Collection) {
	p.page(w, r, status, page{Title: fmt.Sprintf("%d %s", status, http.StatusText(status)), Text: text,
		URL: r.RequestURI, List: len(candidates) > 0, Collections: candidates})
}

type page struct {
	Title, Text, URL string
	List             bool
	Collections      []Collection
}

func (p *Proxy) page(w http.ResponseWriter, r *http.Request, status int, pg page) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return
	}
	if err := pages.Execute(w, pg); err != nil {
		p.log.Debug("response not sent whole", "err", err)
	}
}

var pages = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{.Title}}</title></head>
<body><h1>{{.Title}}</h1>
<p>{{.Text}}</p>
{{if .URL}}<p>URL: {{.URL}}</p>
{{end}}{{if .List}}<table><thead><tr><th>Archival Unit</th><th>Manifest</th></tr></thead><tbody>
{{range .Collections}}<tr><td>{{.Name}}</td><td>{{range .StartURLs}}<a href="{{.}}">{{.}}</a> {{end}}{{if not .Collected}}(not fully collected){{end}}</td></tr>
{{else}}<tr><td colspan="2">No collection.</td></tr>
{{end}}</tbody></table>
{{end}}</body></html>
`))
