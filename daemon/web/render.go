package web

import (
	"fmt"
	"html/template"
	"net/url"
	"path"
	"strings"
	"time"

	"armarium/daemon/lockss"
	"armarium/daemon/status"
)

// parse reads the templates: each page with the layout and the parts that all share.
func (s *site) parse() error {
	common, err := template.New("").Funcs(functions).ParseFS(files, "templates/layout.html", "templates/parts.html")
	if err != nil {
		return fmt.Errorf("web: %w", err)
	}
	names, err := files.ReadDir("templates")
	if err != nil {
		return fmt.Errorf("web: %w", err)
	}
	for _, f := range names {
		name := strings.TrimSuffix(f.Name(), ".html")
		if name == "layout" || name == "parts" {
			continue
		}
		t, err := common.Clone()
		if err == nil {
			t, err = t.ParseFS(files, path.Join("templates", f.Name()))
		}
		if err != nil {
			return fmt.Errorf("web: %w", err)
		}
		s.pages[name] = t
	}
	return nil
}

var functions = template.FuncMap{
	"pct":    status.FormatPercent,
	"num":    func(n int) string { return status.FormatInt(int64(n)) },
	"bytes":  showBytes,
	"time":   status.FormatTime,
	"iso":    func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"ago":    ago,
	"span":   span,
	"mark":   mark,
	"words":  words,
	"format": func(c status.Column, v any) string { return status.Format(c.Type, v) },
	"grade":  grade,
	"class":  class,
	"plain":  plain,
	"link":   link,
	"where":  where,
	"host":   host,
	"short":  short,
	"lower":  strings.ToLower,
	"list":   func(s ...string) []string { return s },
	"cell":   func(c status.Column, row status.Row) cell { return cell{c, row} },
}

// A cell is one value of a table.
type cell struct {
	Col status.Column
	Row status.Row
}

func showBytes(n any) string {
	switch n := n.(type) {
	case int64:
		return status.FormatBytes(n)
	case uint64:
		return status.FormatBytes(int64(min(n, 1<<62)))
	}
	return ""
}

// ago is a time before now, roughly.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := now.Sub(t)
	if d < 0 {
		return "in " + span(-d)
	}
	if d < time.Minute {
		return "just now"
	}
	return span(d) + " ago"
}

// span is a duration in its largest unit.
func span(d time.Duration) string {
	for _, u := range []struct {
		d    time.Duration
		name string
	}{{365 * 24 * time.Hour, "year"}, {7 * 24 * time.Hour, "week"}, {24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if n := int64(d / u.d); n >= 2 || n == 1 && u.d < 7*24*time.Hour {
			if n == 1 {
				return "1 " + u.name
			}
			return fmt.Sprintf("%d %ss", n, u.name)
		}
	}
	return "less than a second"
}

// mark is a verdict as a sign, for those who do not see its colour.
func mark(v status.Verdict) string {
	return map[status.Verdict]string{status.Good: "✓", status.Attention: "!", status.Bad: "✕"}[v]
}

// words is a verdict in words.
func words(v status.Verdict) string {
	return map[status.Verdict]string{status.Good: "In order", status.Attention: "Have a look", status.Bad: "Please act"}[v]
}

// grade is the style class of an agreement.
func grade(x float64) string {
	switch {
	case x < 0:
		return "idle"
	case x >= 1:
		return "good"
	case x >= 0.5:
		return "look"
	}
	return "bad"
}

// class is the style class of a state or result, "" for a plain one.
func class(text any) string {
	switch s := fmt.Sprint(text); s {
	case "Confirmed", "Complete", "Successful", "verified", "ok", "Vote Accepted", "connected", "WON":
		return "good"
	case "Crawling", "Polling", "Active", "Inviting Peers", "Hashing", "Tallying", "Waiting for Repairs", "Starting", "Finishing", "Accepted Poll", "Initialized", "Voted", "Resuming":
		return "busy"
	case "Damaged", "Not in service", "failed", "Error", "missing", "damaged", "LOST", "LOST_VOTER_ONLY":
		return "bad"
	case "Waiting for crawl", "Waiting for poll", "No quorum", "No quorum in the last poll", "Partly undecided", "No Quorum", "disputed", "Expired", "Aborted",
		"read-only", "foreign", "double", "TOO_CLOSE", "LOST_POLLER_ONLY", "NO_QUORUM", "low", "full", "Interrupted":
		return "look"
	default:
		if strings.Contains(s, "rror") || strings.HasPrefix(s, "No permission") {
			return "bad"
		}
	}
	return ""
}

// plain is a word of the protocol as people say it.
func plain(text any) string {
	s := fmt.Sprint(text)
	if w, ok := map[string]string{"WON": "agrees", "LOST": "differs", "LOST_POLLER_ONLY": "only here", "LOST_VOTER_ONLY": "missing here",
		"TOO_CLOSE": "too close", "NO_QUORUM": "too few votes", "Declined Poll": "declined", "Accepted Poll": "accepted"}[s]; ok {
		return w
	}
	return s
}

// link is the page of a cell's value, or "".
func link(c status.Column, row status.Row) string {
	v := fmt.Sprint(row[c.Name])
	switch c.Type {
	case status.AU:
		return "/collection?" + url.Values{"id": {v}}.Encode()
	case status.Poll:
		return "/poll?" + url.Values{"key": {v}}.Encode()
	case status.Crawl:
		return "/crawl?" + url.Values{"id": {v}}.Encode()
	case status.URL:
		if au, ok := row["au"].(lockss.AUID); ok && row["result"] != "failed" && c.Name == "url" && row["reason"] == nil {
			return "/url?" + url.Values{"id": {string(au)}, "url": {v}}.Encode()
		}
	}
	return ""
}

// where is the page that a piece of evidence points to.
func where(e status.Evidence) string {
	if e.Key != "" {
		switch e.Table {
		case "aus":
			return "/collection?" + url.Values{"id": {e.Key}}.Encode()
		case "polls":
			return "/poll?" + url.Values{"key": {e.Key}}.Encode()
		}
	}
	page, ok := map[string]string{"aus": "/collections", "polls": "/polls", "votes": "/votes", "peers": "/peers",
		"repairs": "/repairs", "disks": "/disks", "titles": "/titles", "config": "/settings"}[e.Table]
	if !ok {
		return ""
	}
	return page
}

// host is the address of a peer without what is the same for all.
func host(p lockss.PeerID) string {
	a := p.AddrPort()
	if !a.IsValid() {
		return string(p)
	}
	return a.String()
}

// short is the beginning of a poll key or checksum.
func short(s string) string {
	if alg, hex, ok := strings.Cut(s, ":"); ok && len(hex) > 12 {
		return alg + ":" + hex[:12] + "…"
	}
	if len(s) > 12 {
		return s[:12] + "…"
	}
	return s
}

// matches tells whether a title has all words of a search.
func matches(t status.TitleRow, find string) bool {
	text := strings.ToLower(t.Name + " " + t.Journal + " " + t.Plugin + " " + t.Key)
	for _, w := range strings.Fields(strings.ToLower(find)) {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}
