package plugin

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"armarium/daemon/lockss"
)

// DefaultPause is the least time between two requests unless a plugin has a rate object:
// org.lockss.baseau.minFetchDelay and the default of au_def_pause_time (plugins.md 10).
const DefaultPause = 6 * time.Second

// DefaultCrawlInterval is that of plugins which do not say one: two weeks.
const DefaultCrawlInterval = 14 * 24 * time.Hour

// Rates says how fast an AU may be fetched (plugins.md 10).
type Rates struct {
	Pool string      // AUs of one pool share a limiter; "": its own
	Rate lockss.Rate // when nothing below matches; zero: unlimited
	// URLs: the first pattern found in the URL decides.
	URLs []URLRate
	// MIMEs: decided by the type of the previous response; "image/*", "*/*" possible.
	MIMEs []MIMERate
	// Windows: if any, each stands for the time its window is open.
	Windows []WindowRate
}

// URLRate is the rate of URLs that match a pattern.
type URLRate struct {
	Pattern string
	re      *pattern
	Rate    lockss.Rate
}

// MIMERate is the rate after a response of one of the types.
type MIMERate struct {
	Types string // comma list
	Rate  lockss.Rate
}

// WindowRate is the rate while a crawl window is open.
type WindowRate struct {
	Window string // class, last part: "Daily"
	Rates  Rates
}

// Slowest is a rate that never exceeds what any part of r allows at any time.
func (r Rates) Slowest() lockss.Rate {
	s := r.Rate
	if len(r.Windows) > 0 {
		s = r.Windows[0].Rates.Slowest()
	}
	for _, u := range r.URLs {
		s = slower(s, u.Rate)
	}
	for _, m := range r.MIMEs {
		s = slower(s, m.Rate)
	}
	for _, w := range r.Windows {
		s = slower(s, w.Rates.Slowest())
	}
	return s
}

// For is the rate of a request for url after a response of type mime ("" for none). While
// windows decide it is the slowest of theirs.
func (r Rates) For(url, mime string) lockss.Rate {
	if len(r.Windows) > 0 {
		return r.Slowest()
	}
	if len(r.URLs) > 0 {
		for _, u := range r.URLs {
			if u.re.match(url) {
				return u.Rate
			}
		}
		return r.Rate
	}
	mime = strings.ToLower(mime)
	major, _, _ := strings.Cut(mime, "/")
	for _, want := range []string{mime, major + "/*", "*/*"} {
		for _, m := range r.MIMEs {
			for _, t := range strings.Split(m.Types, ",") {
				if mime != "" && strings.EqualFold(strings.TrimSpace(t), want) {
					return m.Rate
				}
			}
		}
	}
	return r.Rate
}

// slower compares a and b by the time for one event; unlimited is fastest.
func slower(a, b lockss.Rate) lockss.Rate {
	per := func(r lockss.Rate) float64 {
		if r.Events == 0 {
			return 0
		}
		return float64(r.Per) / float64(r.Events)
	}
	if per(b) > per(a) {
		return b
	}
	return a
}

// parseRateInfo reads an org.lockss.plugin.RateLimiterInfo.
func parseRateInfo(o *object) (Rates, error) {
	return rateInfo(o.el, 0)
}

func rateInfo(e *element, depth int) (Rates, error) {
	var r Rates
	if depth > 4 {
		return r, fmt.Errorf("rates nested too deeply")
	}
	r.Pool = e.field("crawlPoolKey")
	if c := e.child("rate"); c != nil {
		rate, err := lockss.ParseRate(c.text)
		if err != nil {
			return r, err
		}
		r.Rate = rate
	} else if e.child("cond") == nil {
		return r, fmt.Errorf("rate object without <rate>")
	}
	pairs := func(name string) ([][2]string, error) {
		c := e.child(name)
		if c == nil {
			return nil, nil
		}
		m := &element{name: "map", children: c.children}
		v, err := m.value()
		if err != nil {
			return nil, err
		}
		return rateMap(v)
	}
	urls, err := pairs("urlRates")
	if err != nil {
		return r, err
	}
	mimes, err := pairs("mimeRates")
	if err != nil {
		return r, err
	}
	if err := r.setMaps(urls, mimes); err != nil {
		return r, err
	}
	if c := e.child("cond"); c != nil {
		for _, en := range c.children {
			if len(en.children) < 2 {
				return r, fmt.Errorf("condition of a rate without window and rate")
			}
			in, err := rateInfo(en.children[1], depth+1)
			if err != nil {
				return r, err
			}
			name := en.children[0].name
			r.Windows = append(r.Windows, WindowRate{Window: name[strings.LastIndexAny(name, "-.$")+1:], Rates: in})
		}
	}
	return r, nil
}

func rateMap(v any) ([][2]string, error) {
	m, ok := v.(*mapping)
	if !ok {
		return nil, fmt.Errorf("want a map of rates")
	}
	var out [][2]string
	for _, k := range m.keys {
		s, ok := m.values[k].(string)
		if !ok {
			return nil, fmt.Errorf("rate of %q: want text such as 1/6s", k)
		}
		out = append(out, [2]string{k, s})
	}
	return out, nil
}

func (r *Rates) setMaps(urls, mimes [][2]string) error {
	for _, p := range urls {
		re, err := compilePattern(p[0], false)
		if err != nil {
			return err
		}
		rate, err := lockss.ParseRate(p[1])
		if err != nil {
			return err
		}
		r.URLs = append(r.URLs, URLRate{Pattern: p[0], re: re, Rate: rate})
	}
	for _, p := range mimes {
		rate, err := lockss.ParseRate(p[1])
		if err != nil {
			return err
		}
		r.MIMEs = append(r.MIMEs, MIMERate{Types: p[0], Rate: rate})
	}
	return nil
}

var hostSource = regexp.MustCompile(`^host:(\w+)$`)

// poolKey evaluates a fetch rate limiter source.
func poolKey(source, pluginID string, params map[string]any, attrs map[string]string) (string, error) {
	switch {
	case source == "" || source == "au":
		return "", nil
	case source == "plugin":
		return pluginID, nil
	case strings.HasPrefix(source, "key:"):
		return source[len("key:"):], nil
	case strings.HasPrefix(source, "title_attribute:"):
		name, dflt, _ := strings.Cut(source[len("title_attribute:"):], ":")
		v := attrs[name]
		if v == "" {
			v = dflt
		}
		if v == "" {
			return "", nil
		}
		return name + ":" + v, nil
	}
	if m := hostSource.FindStringSubmatch(source); m != nil {
		s, ok := params[m[1]].(string)
		if !ok {
			return "", fmt.Errorf("rate limiter source %s: no such URL parameter", source)
		}
		return "host:" + splitURL(s).host, nil
	}
	return "", fmt.Errorf("unknown rate limiter source %q", source)
}
