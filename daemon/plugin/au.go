package plugin

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"armarium/daemon/lockss"
)

// An AU is a definition bound to its parameters: all of its templates are evaluated.
type AU struct {
	def     *Definition
	id      lockss.AUID
	name    string
	message string
	params  map[string]string // as configured, known ones only
	values  map[string]any    // as templates see them, derived ones included

	start, permission, stems []string
	rules                    []*Rule
	everything               bool // no rules: everything is included
	includeStart             bool
	match                    func(url string) Verdict // of the registry; nil: the rules

	polls, permittedHost, repairMissing, login []*pattern
	substance, nonSubstance                    []*pattern
	weights                                    []weight
	mimes                                      []mimeRule

	depth    int
	interval time.Duration
	pause    time.Duration
	rates    Rates
	cookies  []string
	headers  []string
	results  resultList
	registry bool
	warnings []string
}

type weight struct {
	re *pattern
	w  float64
}

type mimeRule struct {
	re   *pattern
	mime string
}

// BindOptions are what an AU takes beside its parameters; zero values mean the defaults.
type BindOptions struct {
	// Attributes of the title list entry: they choose substance patterns and rate pools.
	Attributes map[string]string
	// MinFetchDelay is the floor under the pause between requests; 0: DefaultPause.
	MinFetchDelay time.Duration
	// RateSource replaces every plugin's rate limiter source; "": none.
	RateSource string
}

// Bind makes the AU of these parameters (plugins.md 4.4). Unknown parameters are ignored.
func (d *Definition) Bind(params map[string]string) (*AU, error) {
	return d.BindWith(params, BindOptions{})
}

// BindWith is Bind with options.
func (d *Definition) BindWith(params map[string]string, o BindOptions) (*AU, error) {
	au := &AU{def: d, params: map[string]string{}, values: map[string]any{}, includeStart: d.tmpl.includeStart, results: d.results}
	wrap := func(err error) (*AU, error) {
		return nil, fmt.Errorf("AU of plugin %s: %w", d.id, err)
	}
	if err := au.readParams(params); err != nil {
		return wrap(err)
	}
	au.id = d.AUID(params)
	var err error
	if au.name, err = d.tmpl.name.display(au.values); err != nil {
		return wrap(fmt.Errorf("au_name: %w", err))
	}
	if d.tmpl.hasUserMessage {
		if au.message, err = d.tmpl.userMessage.display(au.values); err != nil {
			return wrap(fmt.Errorf("plugin_au_config_user_msg: %w", err))
		}
	}
	var more []string
	for _, u := range []struct {
		key  string
		t    []template
		into *[]string
	}{{"au_start_url", d.tmpl.start, &au.start}, {"au_permission_url", d.tmpl.permission, &au.permission}, {"au_additional_url_stems", d.tmpl.stems, &more}} {
		if *u.into, err = au.urls(u.key, u.t); err != nil {
			return wrap(err)
		}
	}
	au.findStems(more)
	if err := au.makePatterns(o); err != nil {
		return wrap(err)
	}
	if err := au.makeRates(o); err != nil {
		return wrap(err)
	}
	depth, err := d.number("au_refetch_depth", 1)
	if err != nil {
		return wrap(err)
	}
	au.depth = int(min(depth, 1<<30))
	au.readHeaders()
	return au, nil
}

func (au *AU) warn(format string, args ...any) {
	au.warnings = append(au.warnings, fmt.Sprintf(format, args...))
}

func (au *AU) readParams(params map[string]string) error {
	d := au.def
	base, ok := params["base_url"]
	if !ok {
		return errors.New("parameter base_url is lacking")
	}
	if _, err := parseURLParam(base); err != nil {
		return fmt.Errorf("parameter base_url: %w", err)
	}
	for _, p := range d.AllParams() {
		if p.Derived {
			continue
		}
		s, ok := params[p.Key]
		if !ok {
			if p.Definitional {
				return fmt.Errorf("parameter %s is lacking", p.Key)
			}
			continue
		}
		v, err := parseParam(p.Type, s)
		if err != nil {
			return fmt.Errorf("parameter %s: %w", p.Key, err)
		}
		au.params[p.Key] = s
		au.values[p.Key] = v
		derive(p, v, au.values)
	}
	if s, ok := params["pause_time"]; ok {
		au.params["pause_time"] = s
	}
	return nil
}

// urls evaluates URL templates; one whose parameters are not set yields nothing.
func (au *AU) urls(key string, ts []template) ([]string, error) {
	out := []string{}
	for _, t := range ts {
		us, err := t.urls(au.values)
		if errors.Is(err, errMissing) {
			au.warn("%s: %s: %v", key, t.source, err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		out = append(out, us...)
	}
	return out, nil
}

// findStems collects "scheme://host[:port]/" of all places that may hold content.
func (au *AU) findStems(more []string) {
	seen := map[string]bool{}
	add := func(s string) {
		if st := splitURL(s).stem(); st != "" && !seen[st] {
			seen[st] = true
			au.stems = append(au.stems, st)
		}
	}
	for _, s := range au.permission {
		add(s)
	}
	for _, p := range au.def.params {
		if s, ok := au.values[p.Key].(string); ok && p.Type == TypeURL {
			add(s)
		}
	}
	for _, s := range more {
		add(s)
	}
	slices.Sort(au.stems)
}

func (au *AU) makePatterns(o BindOptions) error {
	d := au.def
	fold, err := d.boolean("au_crawlrules_ignore_case", true)
	if err != nil {
		return err
	}
	for _, r := range d.tmpl.rules {
		re, conds, err := r.t.regexp(au.values)
		if errors.Is(err, errMissing) {
			au.warn("crawl rule %s dropped: %v", r.t.source, err)
			continue
		}
		if err != nil {
			return fmt.Errorf("au_crawlrules: %w", err)
		}
		rule, err := newRule(r.action, re, conds, fold)
		if err != nil {
			return fmt.Errorf("au_crawlrules: %w", err)
		}
		au.rules = append(au.rules, rule)
	}
	if len(au.rules) == 0 {
		au.everything = true
		if !d.tmpl.noRules {
			au.warn("no crawl rule is left: everything is included")
		}
	}
	compile := func(key string, ts []template, fold, must bool) ([]*pattern, error) {
		var out []*pattern
		for _, t := range ts {
			re, _, err := t.regexp(au.values)
			if errors.Is(err, errMissing) && !must {
				au.warn("%s: %s dropped: %v", key, t.source, err)
				continue
			}
			if err == nil {
				var p *pattern
				if p, err = compilePattern(re, fold); err == nil {
					out = append(out, p)
					continue
				}
			}
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		return out, nil
	}
	depth := func(m map[string][]template) []template {
		if ts, ok := m[o.Attributes["au_coverage_depth"]]; ok {
			return ts
		}
		return m["*"]
	}
	for _, p := range []struct {
		key        string
		ts         []template
		fold, must bool
		into       *[]*pattern
	}{
		{"au_exclude_urls_from_polls_pattern", d.tmpl.polls, fold, false, &au.polls},
		{"au_permitted_host_pattern", d.tmpl.permittedHost, fold, false, &au.permittedHost},
		{"au_repair_from_peer_if_missing_url_pattern", d.tmpl.repairMissing, fold, false, &au.repairMissing},
		{"au_redirect_to_login_url_pattern", d.tmpl.login, false, true, &au.login},
		{"au_substance_url_pattern", depth(d.tmpl.substance), fold, false, &au.substance},
		{"au_non_substance_url_pattern", depth(d.tmpl.nonSubstance), fold, false, &au.nonSubstance},
	} {
		if *p.into, err = compile(p.key, p.ts, p.fold, p.must); err != nil {
			return err
		}
	}
	for _, w := range d.tmpl.weights {
		ps, err := compile("au_url_poll_result_weight", []template{w.t}, false, false)
		if err != nil {
			return err
		}
		n, err := strconv.ParseFloat(w.value, 64)
		if err != nil || n < 0 || n > 1 {
			return fmt.Errorf("au_url_poll_result_weight: %s: want a weight of 0.0 to 1.0", w.value)
		}
		for _, p := range ps {
			au.weights = append(au.weights, weight{p, n})
		}
	}
	for _, m := range d.tmpl.mimes {
		ps, err := compile("au_url_mime_type", []template{m.t}, false, false)
		if err != nil {
			return err
		}
		for _, p := range ps {
			au.mimes = append(au.mimes, mimeRule{p, m.value})
		}
	}
	return nil
}

func (au *AU) makeRates(o BindOptions) error {
	d := au.def
	ms, err := d.number("au_def_new_content_crawl", DefaultCrawlInterval.Milliseconds())
	if err != nil {
		return err
	}
	if v, ok := au.values["nc_interval"].(int64); ok {
		ms = v
	}
	au.interval = millis(ms)
	if ms, err = d.number("au_def_pause_time", DefaultPause.Milliseconds()); err != nil {
		return err
	}
	au.pause = millis(ms)
	if s, ok := au.params["pause_time"]; ok {
		if au.pause, err = lockss.ParseInterval(s); err != nil {
			return fmt.Errorf("parameter pause_time: %w", err)
		}
	}
	floor := o.MinFetchDelay
	if floor == 0 {
		floor = DefaultPause
	}
	au.pause = max(au.pause, floor)
	if d.rates != nil {
		au.rates = *d.rates
		return nil
	}
	au.rates.Rate = lockss.Rate{Events: 1, Per: au.pause}
	source, _, err := d.text("plugin_fetch_rate_limiter_source")
	if err != nil {
		return err
	}
	if s, ok := au.params["au_fetch_rate_limiter_source"]; ok {
		source = s
	}
	if o.RateSource != "" {
		source = o.RateSource
	}
	if au.rates.Pool, err = poolKey(source, d.id, au.values, o.Attributes); err != nil {
		return err
	}
	var urls, mimes [][2]string
	if v, ok := d.m.get("au_url_rate_limiter_map"); ok {
		if urls, err = rateMap(v); err != nil {
			return err
		}
	}
	if v, ok := d.m.get("au_mime_rate_limiter_map"); ok {
		if mimes, err = rateMap(v); err != nil {
			return err
		}
	}
	return au.rates.setMaps(urls, mimes)
}

// millis is n milliseconds, at most 292 years.
func millis(n int64) time.Duration {
	const most = int64(1<<63-1) / int64(time.Millisecond)
	return time.Duration(max(-most, min(n, most))) * time.Millisecond
}

func (au *AU) readHeaders() {
	cookies, _, _ := au.def.texts("au_http_cookie")
	for _, c := range cookies {
		if name, _, ok := strings.Cut(c, "="); !ok || name == "" || strings.ContainsAny(c, "\r\n") {
			au.warn("au_http_cookie: %q: want name=value", c)
			continue
		}
		au.cookies = append(au.cookies, c)
	}
	headers, _, _ := au.def.texts("au_http_request_header")
	for _, h := range headers {
		if name, _, ok := strings.Cut(h, ":"); !ok || name == "" || strings.ContainsAny(h, "\r\n") {
			au.warn("au_http_request_header: %q: want Header:value", h)
			continue
		}
		au.headers = append(au.headers, h)
	}
}

// ID is the identity of the AU among all nodes.
func (au *AU) ID() lockss.AUID { return au.id }

// Name is the evaluated au_name; a title list entry or the configuration may give another.
func (au *AU) Name() string { return au.name }

// UserMessage is what an operator is told who adds the AU, perhaps HTML; or "".
func (au *AU) UserMessage() string { return au.message }

// Definition is the plugin of the AU.
func (au *AU) Definition() *Definition { return au.def }

// Params are the configured parameters that the plugin or the node knows.
func (au *AU) Params() map[string]string { return maps.Clone(au.params) }

// StartURLs are where a crawl begins, in order, neither normalised nor encoded.
func (au *AU) StartURLs() []string { return slices.Clone(au.start) }

// PermissionURLs are the pages that must carry a permission statement.
func (au *AU) PermissionURLs() []string { return slices.Clone(au.permission) }

// Stems are "scheme://host[:port]/" of the places that may hold content of the AU, sorted.
func (au *AU) Stems() []string { return slices.Clone(au.stems) }

// Rules are the crawl rules in order.
func (au *AU) Rules() []*Rule { return slices.Clone(au.rules) }

// Match says whether a normalised URL belongs to the AU (plugins.md 8.2).
func (au *AU) Match(url string) Verdict {
	if au.match != nil {
		return au.match(url)
	}
	verdict := Excluded
	if au.everything {
		verdict = Included
	}
	for _, r := range au.rules {
		if n := r.decide(url); n != 0 {
			if n > 0 {
				verdict = Included
			}
			break
		}
	}
	if verdict == Excluded && au.includeStart && (slices.Contains(au.start, url) || slices.Contains(au.permission, url)) {
		return IncludedStart
	}
	return verdict
}

// Included says whether a URL belongs to the AU.
func (au *AU) Included(url string) bool { return au.Match(url) != Excluded }

func anyMatch(ps []*pattern, s string) bool {
	return slices.ContainsFunc(ps, func(p *pattern) bool { return p.match(s) })
}

// ExcludedFromPolls says whether the URL is left out of votes and hashes.
func (au *AU) ExcludedFromPolls(url string) bool { return anyMatch(au.polls, url) }

// HasPollExclusions says whether any URL may be excluded from polls.
func (au *AU) HasPollExclusions() bool { return len(au.polls) > 0 }

// PollWeight is the weight of a URL in the agreement of a poll, 0.0 to 1.0.
func (au *AU) PollWeight(url string) float64 {
	for _, w := range au.weights {
		if w.re.match(url) {
			return w.w
		}
	}
	return 1
}

// MIMEType is the type to assume for a URL stored without one, or "".
func (au *AU) MIMEType(url string) string {
	for _, m := range au.mimes {
		if m.re.match(url) {
			return m.mime
		}
	}
	return ""
}

// LoginRedirect says whether a redirect to the URL means that permission is lacking.
func (au *AU) LoginRedirect(url string) bool { return anyMatch(au.login, url) }

// PermittedHost says whether a host, in small letters, needs no permission page.
func (au *AU) PermittedHost(host string) bool { return anyMatch(au.permittedHost, host) }

// RepairMissing says whether a URL that peers have and this node lacks may come from a peer.
func (au *AU) RepairMissing(url string) bool { return anyMatch(au.repairMissing, url) }

// Substance says whether a URL is content of substance (crawl.md 12): known is false when
// the plugin has no patterns for it.
func (au *AU) Substance(url string) (yes, known bool) {
	switch {
	case len(au.substance) > 0:
		return anyMatch(au.substance, url), true
	case len(au.nonSubstance) > 0:
		return !anyMatch(au.nonSubstance, url), true
	}
	return false, false
}

// LinkExtractor is the kind of link extractor for a MIME type in small letters: "html",
// "css", "xml", or "" for none.
func (au *AU) LinkExtractor(mime string) string {
	if v, ok := au.def.m.get(mime + "_link_extractor_factory"); ok {
		if _, isNone := v.(none); isNone {
			return ""
		}
		if n, ok := nativeExtractors[className(v)]; ok {
			return n
		}
	}
	return builtinExtractor(mime)
}

// CrawlInterval is the time from one crawl to the next.
func (au *AU) CrawlInterval() time.Duration { return au.interval }

// PauseTime is the least time between two requests where no rate object says otherwise.
func (au *AU) PauseTime() time.Duration { return au.pause }

// FetchRate is a rate that never exceeds what the plugin allows, whatever the URL, type or
// hour; Rates has the parts.
func (au *AU) FetchRate() lockss.Rate { return au.rates.Slowest() }

// Rates are the rates in full.
func (au *AU) Rates() Rates { return au.rates }

// RefetchDepth is the link depth up to which pages are requested again in every crawl.
func (au *AU) RefetchDepth() int { return au.depth }

// Cookies are "name=value" texts to send with every request.
func (au *AU) Cookies() []string { return slices.Clone(au.cookies) }

// Headers are "Header:value" texts to send; "Header:" removes one.
func (au *AU) Headers() []string { return slices.Clone(au.headers) }

// CookiePolicy is "compatibility" or "ignore".
func (au *AU) CookiePolicy() string {
	if s, _, _ := au.def.text("au_crawl_cookie_policy"); strings.EqualFold(s, "ignore") {
		return "ignore"
	}
	return "compatibility"
}

// SendReferrer says whether requests carry a Referer header.
func (au *AU) SendReferrer() bool { b, _ := au.def.boolean("plugin_send_referrer", true); return b }

// StoreProbes says whether pages fetched as permission probes are stored.
func (au *AU) StoreProbes() bool {
	b, _ := au.def.boolean("plugin_store_probe_permission", true)
	return b
}

// PerHostPermissionPath is the path of the permission page on hosts that have none of
// their own, or "".
func (au *AU) PerHostPermissionPath() string {
	s, _, _ := au.def.text("plugin_per_host_permission_path")
	return s
}

// DontPoll says whether the plugin forbids calling polls.
func (au *AU) DontPoll() bool { b, _ := au.def.boolean("au_dont_poll", false); return b }

// UserPass are the name and password for the publisher's site; ok is false if none are set.
func (au *AU) UserPass() (user, pass string, ok bool) {
	for _, p := range au.def.params {
		if up, is := au.values[p.Key].(userPass); is {
			return up.user, up.pass, true
		}
	}
	return "", "", false
}

// Flag is the value of an automatic boolean parameter: au_closed, pub_down, pub_never.
func (au *AU) Flag(key string) bool { b, _ := au.values[key].(bool); return b }

// CrawlProxy is host:port, "DIRECT", or "" if nothing is said.
func (au *AU) CrawlProxy() string { s, _ := au.values["crawl_proxy"].(string); return s }

// Result is what the plugin makes of an HTTP status; ok is false where it says nothing.
func (au *AU) Result(status int) (r Result, ok bool) {
	r, ok = au.results[strconv.Itoa(status)]
	return r, ok
}

// ResultEmpty is what the plugin makes of an empty file.
func (au *AU) ResultEmpty() (r Result, ok bool) {
	r, ok = au.results[emptyFile]
	return r, ok
}

// ResultFailure is what the plugin makes of a failure, given the Java classes that stand
// for it, nearest first ("java.net.SocketTimeoutException", "java.io.IOException").
func (au *AU) ResultFailure(classes ...string) (r Result, ok bool) {
	for _, c := range classes {
		if r, ok = au.results[c]; ok {
			return r, true
		}
	}
	return Result{}, false
}

// IsRegistry says whether the AU is a plugin registry.
func (au *AU) IsRegistry() bool { return au.registry }

// Warnings tell what of the definition had no effect with these parameters.
func (au *AU) Warnings() []string { return slices.Clone(au.warnings) }
