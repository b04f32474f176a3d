package crawl

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"armarium/daemon/au"
	"armarium/daemon/links"
)

// Names of the accepted statements (crawl.md 4.2).
const (
	stmtLOCKSS = "LOCKSS"
	stmtOpen   = "LOCKSS-open-access"
	stmtOJS    = "OJS"
	stmtRDF    = "CC-RDF"
	stmtLink   = "CC-link"
)

var sentences = []struct{ name, text string }{
	{stmtLOCKSS, "lockss system has permission to collect, preserve, and serve this archival unit"},
	{stmtOpen, "lockss system has permission to collect, preserve, and serve this open access archival unit"},
	{stmtOJS, "this journal utilizes the lockss system to create a distributed archiving system among participating libraries and " +
		"permits those libraries to create permanent archives of the journal for purposes of preservation and restoration"},
}

// blankTags are replaced by a blank before sentences are searched; "<br/>" and "&#160;" are
// not (crawl.md 4.2).
var blankTags = regexp.MustCompile(`(?i)<br>|&nbsp;|\x{a0}`)

// whiteRuns become one blank.
var whiteRuns = regexp.MustCompile(`[\x00-\x20\x7f]+`)

// statements finds the accepted statements on a page. types and versions are those of
// Creative Commons licences.
func statements(page string, types, versions []string) []string {
	var found []string
	text := strings.ToLower(whiteRuns.ReplaceAllString(blankTags.ReplaceAllString(page, " "), " "))
	for _, s := range sentences {
		if strings.Contains(text, s.text) {
			found = append(found, s.name)
		}
	}
	if licenseRDF(page) {
		found = append(found, stmtRDF)
	}
	if licenseLink(page, types, versions) {
		found = append(found, stmtLink)
	}
	return found
}

// licenseURL is the address of a licence: type and version.
var licenseURL = regexp.MustCompile(`(?i)^https?://creativecommons\.org/licenses/([^/]+)/([^/]+)(?s:/.*)?$`)

// licenseLink looks for <a rel="license" href="…">, or link.
func licenseLink(page string, types, versions []string) bool {
	found := false
	in := func(list []string, s string) bool {
		return slices.ContainsFunc(list, func(t string) bool { return strings.EqualFold(t, s) })
	}
	// A string gives no read error.
	_ = links.Tags(strings.NewReader(page), func(t links.Tag) {
		if t.Name != "a" && t.Name != "link" {
			return
		}
		rel, _ := t.Attr("rel")
		href, _ := t.Attr("href")
		if m := licenseURL.FindStringSubmatch(href); m != nil && strings.EqualFold(rel, "license") && in(types, m[1]) && in(versions, m[2]) {
			found = true
		}
	})
	return found
}

const (
	rdfNS  = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
	ccNS   = "http://web.resource.org/cc/"
	maxRDF = 65535 // characters
)

// licenseRDF looks for an RDF block, also in comments, whose licence permits distribution. Of
// a page that begins more than maxBlocks, which no page does, the rest is not looked at.
func licenseRDF(page string) bool {
	const maxBlocks = 100
	for range maxBlocks {
		i := strings.Index(page, "<rdf:RDF")
		if i < 0 {
			return false
		}
		page = page[i:]
		const end = "</rdf:RDF>"
		j := strings.Index(page, end)
		if j < 0 {
			return false
		}
		if j += len(end); j <= maxRDF && permitsDistribution(page[:j]) {
			return true
		}
		page = page[1:]
	}
	return false
}

func permitsDistribution(rdf string) bool {
	d := xml.NewDecoder(strings.NewReader(rdf))
	var open []xml.Name
	found := false
	for {
		t, err := d.Token()
		if err != nil {
			return found && errors.Is(err, io.EOF)
		}
		switch t := t.(type) {
		case xml.StartElement:
			if len(open) > 0 && open[len(open)-1] == (xml.Name{Space: ccNS, Local: "License"}) &&
				t.Name.Space == ccNS && (t.Name.Local == "permits" || t.Name.Local == "requires") {
				for _, a := range t.Attr {
					found = found || a.Name == (xml.Name{Space: rdfNS, Local: "resource"}) && a.Value == ccNS+"Distribution"
				}
			}
			open = append(open, t.Name)
		case xml.EndElement:
			open = open[:len(open)-1]
		}
	}
}

// undoEncoding decodes the beginning of a body; one that is not encoded as its header says is
// taken as it is.
func undoEncoding(encoding string, head []byte) []byte {
	var r io.Reader
	var err error
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "gzip", "x-gzip":
		r, err = gzip.NewReader(bytes.NewReader(head))
	case "deflate":
		if r, err = zlib.NewReader(bytes.NewReader(head)); err != nil {
			r, err = flate.NewReader(bytes.NewReader(head)), nil
		}
	default:
		return head
	}
	if err != nil {
		return head
	}
	// What the cut at the end of head makes unreadable is not searched.
	text, _ := io.ReadAll(io.LimitReader(r, int64(len(head))*20))
	if len(text) == 0 {
		return head
	}
	return text
}

// permits are the hosts that gave permission in one crawl, or for repairs of one unit.
type permits struct {
	at    time.Time
	hosts map[string]*permitted
}

// permitted is what is known of one host.
type permitted struct {
	ok     bool
	tries  int // of fetching its page
	reason *fault
}

// populate checks all permission pages before anything else is asked for (crawl.md 4.1).
func (cr *crawl) populate(ctx context.Context) *fault {
	byHost := map[string][]string{}
	var hosts []string
	for _, p := range cr.plugin.PermissionURLs() {
		if !cr.plugin.Included(p) {
			return &fault{result: classOf("PermissionException"), err: fmt.Errorf("permission page %s is outside the crawl rules", p), status: PluginError, stop: true}
		}
		h := hostOf(p)
		if byHost[h] == nil {
			hosts = append(hosts, h)
		}
		byHost[h] = append(byHost[h], p)
	}
	for _, h := range hosts {
		pages := byHost[h]
		if path := cr.plugin.PerHostPermissionPath(); path != "" {
			if u, _, err := splitURL(pages[0]); err == nil {
				pages = append(pages, u.Scheme+"://"+u.Host+path)
			}
		}
		if cr.exempt(pages[0]) {
			continue
		}
		p := cr.checkHost(ctx, pages)
		cr.permits.hosts[h] = p
		if !p.ok {
			p.reason.stop = true
			return p.reason
		}
	}
	return nil
}

// checkHost fetches the pages of a host until one permits. A page that cannot be fetched ends
// it, one without statement does not.
func (cr *crawl) checkHost(ctx context.Context, pages []string) *permitted {
	p := &permitted{tries: 1}
	for _, page := range pages {
		cr.at(page)
		var found []string
		o, f := cr.fetch(ctx, job{url: page, force: true, start: true, permission: func(contentType string, head []byte) bool {
			text, err := io.ReadAll(links.Text(contentType, bytes.NewReader(head)))
			if err != nil {
				return false
			}
			found = statements(string(text), cr.c.cfg.LicenseTypes, cr.c.cfg.LicenseVersions)
			return len(found) > 0
		}})
		if f != nil {
			f.err = fmt.Errorf("permission page: %w", f.err)
			cr.note(page, f.err.Error())
			if f.status == 0 {
				f.status = FetchError
			}
			p.reason = f
			return p
		}
		if o == stored {
			p.ok = true
			cr.fetched[page] = true
			if cr.access == "" {
				cr.access = au.Subscription
				if !slices.Contains(found, stmtLOCKSS) && !slices.Contains(found, stmtOJS) {
					cr.access = au.OpenAccess
				}
			}
			return p
		}
		cr.note(page, "no permission statement")
	}
	p.reason = &fault{
		result: classOf("PermissionException"),
		err:    fmt.Errorf("no permission statement on %s", strings.Join(pages, ", ")),
		status: NoPermission,
	}
	return p
}

// exempt says whether the host of a URL needs no permission page (crawl.md 4.4); its stem
// becomes one of the unit's.
func (cr *crawl) exempt(target string) bool {
	host := hostOf(target)
	match := func(res []*regexp.Regexp) bool {
		return slices.ContainsFunc(res, func(re *regexp.Regexp) bool { return re.MatchString(host) })
	}
	if !match(cr.c.permitted) {
		if !cr.plugin.PermittedHost(host) {
			return false
		}
		if !match(cr.c.pluginOK) {
			cr.log.Warn("plugin exempts a host from permission, which this node does not allow", "host", host)
			return false
		}
	}
	if u, _, err := splitURL(target); err == nil {
		cr.stems[u.Scheme+"://"+u.Host+"/"] = true
	}
	return true
}

// permit says whether the host of target may be asked for content; the fault says why not.
func (cr *crawl) permit(ctx context.Context, target string) *fault {
	host := hostOf(target)
	p := cr.permits.hosts[host]
	path := cr.plugin.PerHostPermissionPath()
	switch {
	case p != nil && p.ok:
		return nil
	case p == nil && cr.exempt(target):
		cr.permits.hosts[host] = &permitted{ok: true}
		return nil
	case path == "":
		return &fault{
			result: classOf("UnexpectedNoRetryFailException"),
			err:    fmt.Errorf("missing permission URL for host %s", host),
			status: NoPermission,
		}
	case p == nil || p.reason.status == FetchError && p.tries < 2: // one that failed to come is tried once more
		u, _, err := splitURL(target)
		if err != nil {
			return entry("MalformedURLException", "%w", err)
		}
		tries := 1
		if p != nil {
			tries = p.tries + 1
		}
		p = cr.checkHost(ctx, []string{u.Scheme + "://" + u.Host + path})
		p.tries = tries
		cr.permits.hosts[host] = p
		if p.ok {
			return nil
		}
	}
	return p.reason
}
