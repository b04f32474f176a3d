package crawl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"armarium/daemon/au"
	"armarium/daemon/links"
	"armarium/daemon/lockss"
	"armarium/daemon/plugin"
	"armarium/daemon/store"
)

// Why a crawl was stopped, as the cause of its context.
var (
	errAborted = errors.New("aborted by the operator")
	errChanged = errors.New("aborted: the unit's plugin or configuration changed")
	errExit    = errors.New("the daemon stopped")
)

// An item is a URL to look at.
type item struct {
	url, referrer string
	depth         int // links from a start URL, which have 1
}

// A crawl is one crawl of one unit, or the fetch of one URL for a repair.
type crawl struct {
	c       *Crawler
	log     *slog.Logger
	unit    *au.Unit
	plugin  *plugin.AU
	content *store.Unit
	opts    RequestOptions
	changed <-chan struct{} // closed when plugin or content are the unit's no more
	cancel  context.CancelCauseFunc
	pool    string   // of the rate limiter
	proxy   *url.URL // nil: none

	jar             http.CookieJar  // nil: cookies are ignored
	refetchOnCookie bool            // ask again with a cookie just set
	cookied         map[string]bool // URLs asked again because of a cookie
	lastMIME        string          // of the previous response
	permits         *permits
	access          string          // access type that a permission page gave
	stems           map[string]bool // of hosts that need no permission page

	queue    []item
	known    map[string]bool // URLs that are or were queued
	fetched  map[string]bool // permission pages: not fetched again
	excluded lru
	lastNew  time.Time // when a new version was stored

	mu      sync.Mutex // guards what follows
	result  Result
	url     string
	queued  int
	waiting bool
}

// newCrawl prepares a crawl of what the unit is at this moment.
func (c *Crawler) newCrawl(u *au.Unit, kind string) (*crawl, error) {
	changed := u.Changed() // first: what changes after this line is noticed
	p, content := u.Plugin(), u.Content()
	if problem := u.Problem(); problem != "" || p == nil || content == nil {
		return nil, fmt.Errorf("crawl %s: %s", u.ID(), problem)
	}
	cr := &crawl{
		c: c, unit: u, plugin: p, content: content, changed: changed, log: c.log.With("au", u.ID()),
		pool: poolOf(u, p), refetchOnCookie: !strings.EqualFold(p.Params()["refetch_on_set_cookie"], "false"),
		cookied: map[string]bool{}, permits: &permits{hosts: map[string]*permitted{}}, stems: map[string]bool{},
		known: map[string]bool{}, fetched: map[string]bool{}, excluded: lru{max: c.cfg.ExcludedCache},
	}
	cr.result = Result{AU: u.ID(), Registry: p.IsRegistry(), Kind: kind, Started: time.Now(), Status: Active}
	if p.CookiePolicy() != "ignore" {
		jar, err := cookiejar.New(nil)
		if err != nil {
			return nil, err
		}
		cr.jar = jar
	}
	return cr, nil
}

// poolOf is the key of the rate limiter that the unit uses.
func poolOf(u *au.Unit, p *plugin.AU) string {
	if pool := p.Rates().Pool; pool != "" {
		return pool
	}
	return string(u.ID())
}

// chooseProxy reads crawl_proxy of the AU, else that of the node (titledb.md 1.5).
func (cr *crawl) chooseProxy() error {
	cfg := cr.c.cfg
	s := cr.plugin.CrawlProxy()
	if cr.plugin.IsRegistry() && s == "" {
		s = cfg.RegistryProxy
	}
	switch {
	case strings.EqualFold(s, "DIRECT"), strings.EqualFold(s, "NONE"):
	case s == "" && cfg.ProxyEnabled && cfg.ProxyHost != "":
		cr.proxy = &url.URL{Scheme: "http", Host: fmt.Sprintf("%s:%d", cfg.ProxyHost, cfg.ProxyPort)}
	case s == "":
	case hostPort(s):
		cr.proxy = &url.URL{Scheme: "http", Host: s}
	case cfg.AbortOnBadProxy:
		return fmt.Errorf("crawl_proxy %q: want host:port, DIRECT or NONE", s)
	}
	return nil
}

// run does the whole of a new content crawl. The unit's state says so durably before it
// begins and after it ended.
func (cr *crawl) run(ctx context.Context) Result {
	if t := cr.c.cfg.MaxCrawlTime; t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, t, fmt.Errorf("%w of %v", ErrCrawlTime, t))
		defer cancel()
	}
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-cr.changed:
			cr.cancel(errChanged)
		case <-over:
		}
	}()

	cr.wait(true)
	end, err := cr.unit.BeginCrawl(ctx)
	cr.wait(false)
	if err != nil {
		// The state knows nothing of this crawl yet, and needs not.
		cr.stopped(ctx)
		return cr.finished()
	}
	defer end()
	err = cr.unit.Update(func(s *au.State) {
		s.LastCrawlAttempt, s.LastCrawlResult, s.LastCrawlResultMsg = cr.result.Started, int(Active), ""
	})
	if err != nil {
		cr.fail(RepositoryError, err.Error(), true)
		return cr.finished()
	}
	cr.log.Info("crawl started")
	cr.follow(ctx)
	if context.Cause(ctx) != nil {
		cr.stopped(ctx)
	}
	cr.mu.Lock()
	if cr.result.Status == Active {
		cr.result.Status = Successful
	}
	cr.mu.Unlock()
	res := cr.finished()
	err = cr.unit.Update(func(s *au.State) {
		s.LastCrawlResult, s.LastCrawlResultMsg = int(res.Status), res.Message
		if res.Status == Successful {
			s.LastCrawl = res.Ended
		}
		if !cr.lastNew.IsZero() {
			s.LastContentChange = cr.lastNew
		}
		if cr.access != "" {
			s.AccessType = cr.access
		}
		for _, stem := range slices.Sorted(maps.Keys(cr.stems)) {
			if !slices.Contains(s.CDNStems, stem) && !slices.Contains(cr.plugin.Stems(), stem) {
				s.CDNStems = append(s.CDNStems, stem)
			}
		}
	})
	if err != nil {
		cr.fail(RepositoryError, err.Error(), true)
		res = cr.finished()
	}
	cr.log.Info("crawl ended", "status", res.Status.String(), "message", res.Message, "fetched", res.Fetched, "unmodified", res.NotModified,
		"new", res.Changed, "errors", res.Errors, "bytes", res.Bytes, "time", res.Ended.Sub(res.Started).Round(time.Millisecond))
	return res
}

// stopped sets the status of a crawl whose context ended.
func (cr *crawl) stopped(ctx context.Context) {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errAborted), errors.Is(cause, errChanged):
		cr.fail(Aborted, cause.Error(), true)
	case errors.Is(cause, ErrCrawlTime):
		cr.fail(Error, cause.Error(), true)
	default:
		cr.fail(Interrupted, Interrupted.String(), true)
	}
}

// follow is the crawl proper (crawl.md 5).
func (cr *crawl) follow(ctx context.Context) {
	if err := cr.plugin.Definition().MayCollect(); err != nil {
		cr.fail(PluginError, err.Error(), true)
		return
	}
	if err := cr.chooseProxy(); err != nil {
		cr.fail(Error, err.Error(), true)
		return
	}
	if f := cr.populate(ctx); f != nil {
		cr.fail(f.status, f.Error(), true)
		return
	}
	for _, s := range cr.plugin.StartURLs() {
		if !cr.plugin.Included(s) {
			cr.fail(PluginError, fmt.Sprintf("start URL %s is outside the crawl rules", s), true)
			return
		}
		cr.push(item{url: s, depth: 1})
	}
	if len(cr.queue) == 0 {
		cr.fail(PluginError, "the plugin gives no start URL", true)
		return
	}
	for len(cr.queue) > 0 && context.Cause(ctx) == nil {
		it := cr.queue[0]
		cr.queue[0] = item{}
		cr.queue = cr.queue[1:]
		cr.at(it.url)
		if cr.wanted(it) {
			parse, ok := cr.collect(ctx, it)
			if !ok {
				return
			}
			if !parse {
				continue
			}
		}
		cr.parse(it)
	}
}

// wanted says whether an item is fetched at all.
func (cr *crawl) wanted(it item) bool {
	if cr.fetched[it.url] {
		return false
	}
	depth := cr.plugin.RefetchDepth()
	if cr.opts.RefetchDepth > 0 {
		depth = cr.opts.RefetchDepth
	}
	if it.depth <= depth {
		return true
	}
	v, err := cr.content.Current(it.url)
	return err != nil || v.BodyErr != nil || cr.c.cfg.RefetchEmpty && v.Size == 0
}

// collect fetches an item. parse says whether its stored content is to be looked into, ok
// whether the crawl goes on.
func (cr *crawl) collect(ctx context.Context, it item) (parse, ok bool) {
	start := it.depth == 1
	f := cr.permit(ctx, it.url)
	refused := f != nil
	var o outcome
	if f == nil {
		o, f = cr.fetch(ctx, job{url: it.url, referrer: it.referrer, start: start})
	}
	if context.Cause(ctx) != nil {
		return false, false
	}
	if f == nil {
		if o == notModified {
			cr.count(func(r *Result) { r.NotModified++ })
		}
		if o == redirectedOut && start {
			cr.fail(FetchError, fmt.Sprintf("start URL %s redirects out of the crawl rules", it.url), true)
			return false, false
		}
		return true, true
	}
	cr.note(it.url, f.Error())
	status := f.status
	if status == 0 {
		status = FetchError
	}
	switch {
	case f.stop, f.result.Fatal && !refused:
		cr.fail(status, fmt.Sprintf("%s: %v", it.url, f), true)
		return false, false
	case start:
		cr.fail(status, fmt.Sprintf("start URL %s: %v", it.url, f), false)
		return false, false
	case f.result.Fail:
		cr.fail(status, fmt.Sprintf("%s: %v", it.url, f), false)
	}
	return !refused || cr.c.cfg.ParseOnPermFail, true
}

// parse looks for links in what is stored of an item.
func (cr *crawl) parse(it item) {
	v, err := cr.content.Current(it.url)
	if err != nil || v.BodyErr != nil {
		if err != nil && !errors.Is(err, store.ErrNotPreserved) {
			cr.fail(RepositoryError, err.Error(), false)
		}
		return
	}
	contentType := v.Props[propContentType]
	if contentType == "" {
		contentType = v.Props["content-type"]
	}
	if contentType == "" {
		contentType = cr.plugin.MIMEType(it.url)
	}
	mime, _ := links.ContentType(contentType)
	kind := cr.plugin.LinkExtractor(mime)
	if mime == "" || kind == "" {
		return
	}
	base := it.url
	for _, p := range []string{propContentURL, propNodeURL} {
		if u := v.Props[p]; u != "" {
			base = u
			break
		}
	}
	body, err := v.OpenContent()
	if err != nil {
		cr.fail(Error, fmt.Sprintf("links of %s: %v", it.url, err), false)
		return
	}
	defer body.Close()
	seen := map[string]bool{it.url: true}
	err = links.ExtractAs(kind, contentType, base, io.LimitReader(body, maxParsed), func(u string) { cr.found(it, u, seen) })
	switch {
	case errors.Is(err, links.ErrEmpty):
		cr.warn(it.url, "no links: "+err.Error())
	case err != nil:
		cr.note(it.url, "links: "+err.Error())
		cr.fail(Error, fmt.Sprintf("links of %s: %v", it.url, err), false)
	}
}

// maxParsed is how much of a page is looked into, bytes.
const maxParsed = 1 << 30

// found takes a link of a page (crawl.md 5).
func (cr *crawl) found(page item, u string, seen map[string]bool) {
	if !hasFold(u, "http://") && !hasFold(u, "https://") {
		return
	}
	u, err := lockss.NormalizeURL(u)
	if err != nil || seen[u] {
		return
	}
	seen[u] = true
	if cr.known[u] || cr.excluded.has(u) {
		return
	}
	cfg := cr.c.cfg
	if _, _, err := splitURL(u); err != nil {
		return
	}
	if !cr.plugin.Included(u) {
		cr.excluded.add(u)
		cr.count(func(r *Result) { r.Excluded++ })
		return
	}
	switch {
	case cr.c.excluded != nil && cr.c.excluded.MatchString(u):
		cr.excluded.add(u)
		cr.count(func(r *Result) { r.Excluded++ })
		cr.note(u, "excluded by org.lockss.crawler.globallyExcludedUrlPattern")
	case len(u) > cfg.MaxURLLength:
		cr.note(fmt.Sprintf("%.200s…", u), fmt.Sprintf("%v of %d", ErrURLLength, cfg.MaxURLLength))
		cr.fail(Error, fmt.Sprintf("%v of %d: a link on %s", ErrURLLength, cfg.MaxURLLength, page.url), false)
	case page.depth >= cfg.MaxDepth:
		cr.excluded.add(u)
		cr.note(u, fmt.Sprintf("%v of %d", ErrDepth, cfg.MaxDepth))
		cr.fail(Error, fmt.Sprintf("%v of %d: %s", ErrDepth, cfg.MaxDepth, u), false)
	case len(cr.known) >= cfg.MaxURLs:
		cr.fail(Error, fmt.Sprintf("%v of %d", ErrURLs, cfg.MaxURLs), false)
	default:
		cr.push(item{url: u, referrer: page.url, depth: page.depth + 1})
	}
}

// push queues an item. Since the queue is worked first in, first out, the first path found to
// a URL is a shortest one and depths never have to be corrected.
func (cr *crawl) push(it item) {
	if cr.known[it.url] {
		return
	}
	cr.known[it.url] = true
	cr.queue = append(cr.queue, it)
}

// repair fetches one URL for a poll (crawl.md 13.1).
func (cr *crawl) repair(ctx context.Context, target string) error {
	if err := cr.plugin.Definition().MayCollect(); err != nil {
		return err
	}
	if err := cr.chooseProxy(); err != nil {
		return err
	}
	referrer := ""
	if v, err := cr.content.Current(target); err == nil {
		referrer = v.Props[propReferrer]
		if u := v.Props[propNodeURL]; u != "" { // the store's name may lack a slash
			target = u
		}
	}
	if !cr.plugin.Included(target) {
		if strings.HasSuffix(target, "/") || !cr.plugin.Included(target+"/") {
			return errors.New("outside the crawl rules")
		}
		target += "/"
	}
	if len(cr.permits.hosts) == 0 {
		if f := cr.populate(ctx); f != nil {
			return f
		}
	}
	cr.at(target)
	if f := cr.permit(ctx, target); f != nil {
		return f
	}
	o, f := cr.fetch(ctx, job{url: target, referrer: referrer, force: true})
	if f != nil {
		return f
	}
	if o != stored {
		return errors.New("redirects out of the crawl rules")
	}
	if !cr.lastNew.IsZero() {
		return cr.unit.Update(func(s *au.State) { s.LastContentChange = cr.lastNew })
	}
	return nil
}

// fail sets the status of the crawl. The first error stays, unless a later one overrides.
func (cr *crawl) fail(s Status, message string, override bool) {
	if s == 0 {
		s = Error
	}
	cr.mu.Lock()
	defer cr.mu.Unlock()
	if cr.result.Status == Active || override {
		cr.result.Status, cr.result.Message = s, message
	}
}

// note lists what was wrong with a URL.
func (cr *crawl) note(u, reason string) {
	cr.log.Debug("url failed", "url", u, "err", reason)
	cr.count(func(r *Result) { r.Errors++ })
	cr.list(u, reason)
}

// warn lists what is odd about a URL that was collected; it is no error.
func (cr *crawl) warn(u, reason string) { cr.list(u, "warning: "+reason) }

func (cr *crawl) list(u, reason string) {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	if len(cr.result.Failures) < maxFailures {
		cr.result.Failures = append(cr.result.Failures, Failure{u, reason})
	}
}

func (cr *crawl) count(fn func(*Result)) {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	fn(&cr.result)
}

// received counts bytes and returns their sum.
func (cr *crawl) received(n int) (total int64) {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	cr.result.Bytes += int64(n)
	return cr.result.Bytes
}

// contentChanged notes a new version. The first one of a crawl is written down at once, so
// that a crash does not hide that content changed.
func (cr *crawl) contentChanged(start bool) {
	cr.count(func(r *Result) { r.Changed++ })
	if start {
		return
	}
	first := cr.lastNew.IsZero()
	cr.lastNew = time.Now()
	if first && cr.result.Kind == KindNewContent {
		if err := cr.unit.Update(func(s *au.State) { s.LastContentChange = cr.lastNew }); err != nil {
			cr.fail(RepositoryError, err.Error(), false)
		}
	}
}

func (cr *crawl) at(u string) {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	cr.url, cr.queued = u, len(cr.queue)
}

func (cr *crawl) wait(on bool) {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	cr.waiting = on
}

// finished is the result now.
func (cr *crawl) finished() Result {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	if cr.result.Ended.IsZero() {
		cr.result.Ended = time.Now()
	}
	r := cr.result
	r.Failures = slices.Clone(r.Failures)
	return r
}

func (cr *crawl) progress() Progress {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	r := cr.result
	return Progress{
		AU: r.AU, Kind: r.Kind, Started: r.Started, Fetched: r.Fetched, NotModified: r.NotModified,
		Queued: cr.queued, Bytes: r.Bytes, URL: cr.url, Errors: r.Errors, Waiting: cr.waiting,
	}
}

// lru remembers the last max strings.
type lru struct {
	max  int
	set  map[string]bool
	ring []string
	next int
}

func (l *lru) has(s string) bool { return l.set[s] }

func (l *lru) add(s string) {
	if l.max <= 0 || l.set[s] {
		return
	}
	if l.set == nil {
		l.set = map[string]bool{}
	}
	l.set[s] = true
	if len(l.ring) < l.max {
		l.ring = append(l.ring, s)
		return
	}
	delete(l.set, l.ring[l.next])
	l.ring[l.next] = s
	l.next = (l.next + 1) % l.max
}

func hasFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
