package plugin

import (
	"fmt"
	"slices"
	"strings"
)

// A missing function is something that a definition asks for and this node does not do: mostly
// a Java class.
type missing struct {
	key, class, effect string
	collect, vote      bool // may not be done without it
}

func (m missing) String() string {
	verdict := "no effect on collecting and voting"
	switch {
	case m.collect && m.vote:
		verdict = "not collected, not voted on"
	case m.collect:
		verdict = "not collected"
	case m.vote:
		verdict = "not voted on"
	}
	return fmt.Sprintf("%s = %s: %s; %s", m.key, m.class, m.effect, verdict)
}

// UnsupportedError says why an AU of a plugin may not be collected or voted on.
type UnsupportedError struct {
	ID     string
	Action string // "collect", "vote on"
	Why    []string
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("this node may not %s AUs of plugin %s: %s", e.Action, e.ID, strings.Join(e.Why, "; "))
}

func (d *Definition) lack(key, class, effect string, collect, vote bool) {
	d.missing = append(d.missing, missing{key, class, effect, collect, vote})
}

// Unsupported lists what the definition asks for and this node does not do, each with its
// consequence.
func (d *Definition) Unsupported() []string {
	var out []string
	for _, m := range d.missing {
		out = append(out, m.String())
	}
	return out
}

// MayCollect is nil, or says which missing function would make collected URLs or bytes
// differ from those of other nodes.
func (d *Definition) MayCollect() error {
	return d.may("collect", func(m missing) bool { return m.collect })
}

// MayVote is nil, or says which missing function would make hashes differ.
func (d *Definition) MayVote() error {
	return d.may("vote on", func(m missing) bool { return m.vote })
}

func (d *Definition) may(action string, stops func(missing) bool) error {
	e := &UnsupportedError{ID: d.id, Action: action}
	for _, m := range d.missing {
		if stops(m) {
			e.Why = append(e.Why, m.key+" = "+m.class)
		}
	}
	if e.Why == nil {
		return nil
	}
	return e
}

// classKeys are the keys that name a class (plugins.md 6, 12.3).
var classKeys = map[string]missing{
	"plugin_crawl_url_comparator_factory":       {effect: "URLs are fetched breadth first"},
	"plugin_access_url_factory":                 {effect: "readers are offered the start URLs"},
	"plugin_article_iterator_factory":           {effect: "no article metadata"},
	"plugin_article_metadata_extractor_factory": {effect: "no article metadata"},
	"plugin_substance_predicate_factory":        {effect: "only the substance patterns count"},
	"plugin_crawl_seed_factory":                 {effect: "start URLs would be lacking", collect: true},
	"plugin_url_fetcher_factory":                {effect: "redirects would be followed otherwise", collect: true},
	"plugin_url_consumer_factory":               {effect: "URLs would be stored otherwise", collect: true},
	"plugin_cache_result_handler":               {effect: "results of requests would be judged otherwise", collect: true},
	"plugin_au_factory":                         {effect: "the AU has code of its own", collect: true, vote: true},
	"au_url_normalizer":                         {effect: "URLs would differ", collect: true},
	"au_permission_checker_factory":             {effect: "permission would not be checked in full", collect: true},
	"au_login_page_checker":                     {effect: "login pages would be stored as content", collect: true},
	"au_exploder_helper":                        {effect: "archives would not be unpacked", collect: true},
	"au_exploder_pattern":                       {effect: "archives would not be unpacked", collect: true},
	"au_param_functor":                          {effect: "templates cannot be filled", collect: true, vote: true},
	"au_crawlwindow":                            {effect: "the hours of crawling would not be kept", collect: true},
}

// unused are keys that are read and then have no effect: what they ask for is not done by the
// services that would do it.
var unused = map[string]missing{
	"au_url_poll_result_weight":                  {effect: "in the agreement of a poll all URLs count the same"},
	"au_repair_from_peer_if_missing_url_pattern": {effect: "a URL that some voters have and this node lacks is not repaired while the vote on it is too close"},
	"au_substance_url_pattern":                   {effect: "an AU without content of substance is polled and voted on like any other"},
	"au_non_substance_url_pattern":               {effect: "an AU without content of substance is polled and voted on like any other"},
}

// nativeExtractors are link extractors that equal what this node does by itself for the
// type, by their class.
var nativeExtractors = map[string]string{
	"org.lockss.extractor.GoslingHtmlLinkExtractor$Factory": "html",
	"org.lockss.extractor.RegexpCssLinkExtractor$Factory":   "css",
}

// builtinExtractor is the extractor that a type has without any plugin (plugins.md 6.3).
func builtinExtractor(mime string) string {
	switch mime {
	case "text/html", "application/xhtml+xml":
		return "html"
	case "text/css":
		return "css"
	case "text/xml", "application/xml":
		return "xml"
	}
	return ""
}

// findClasses notes every class the definition names, and every key without effect.
func (d *Definition) findClasses() {
	keys := slices.Clone(d.m.keys)
	slices.Sort(keys)
	for _, k := range keys {
		v := d.m.values[k]
		class := className(v)
		if c, ok := classKeys[k]; ok {
			if class != "" {
				d.lack(k, class, c.effect, c.collect, c.vote)
			}
			continue
		}
		if c, ok := unused[k]; ok {
			if class != "" {
				d.lack(k, class, c.effect, c.collect, c.vote)
			}
			continue
		}
		switch {
		case k == "plugin_store_probe_permission":
			if on, _ := d.boolean(k, true); !on {
				d.lack(k, "false", "permission pages of further hosts are stored all the same", false, false)
			}
		case k == "au_crawlrules":
			if s, ok := v.(string); ok {
				d.lack(k, s, "which URLs belong to the AU is not known", true, true)
			}
		case k == "au_crawlwindow_ser":
			if o, ok := v.(*object); !ok || o.class != "org.lockss.daemon.CrawlWindows$Always" {
				d.lack(k, class, "the hours of crawling would not be kept", true, false)
			}
		case k == "plugin_archive_file_types":
			d.lack(k, class, "members of archives have no URLs of their own", false, false)
		case k == "au_hash_check":
			if on, _ := d.boolean(k, false); on {
				d.lack(k, "true", "files are not compared with their published checksums", false, false)
			}
		case strings.HasSuffix(k, "_crawl_filter_factory"):
			d.lackUnlessNone(k, v, "links that the plugin hides would be followed", true, false)
		case strings.HasSuffix(k, "_filter_factory"), strings.HasSuffix(k, "_filter"):
			d.lackUnlessNone(k, v, "hashes would differ", false, true)
		case strings.HasSuffix(k, "_link_extractor_factory"):
			mime := strings.TrimSuffix(k, "_link_extractor_factory")
			if n, ok := nativeExtractors[class]; ok && n == builtinExtractor(mime) {
				continue
			}
			d.lackUnlessNone(k, v, "other links would be found", true, false)
		case strings.HasSuffix(k, "_content_validator_factory"):
			d.lackUnlessNone(k, v, "error pages would be stored as content", true, false)
		case strings.HasSuffix(k, "_link_rewriter_factory"):
			d.lackUnlessNone(k, v, "pages are shown otherwise", false, false)
		case strings.HasSuffix(k, "_metadata_extractor_factory_map"):
			d.lack(k, "map", "no article metadata", false, false)
		}
	}
}

func (d *Definition) lackUnlessNone(key string, v any, effect string, collect, vote bool) {
	if _, ok := v.(none); ok || v == nil {
		return
	}
	d.lack(key, className(v), effect, collect, vote)
}

// className is the class that a value names; "" for none.
func className(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case *object:
		return v.class
	case none, nil:
		return ""
	case list:
		return "list"
	case *mapping:
		return "map"
	}
	return fmt.Sprint(v)
}
