package plugin

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"armarium/daemon/lockss"
)

// definition makes the file of a plugin with base_url and these entries, given as XML.
func definition(entries ...string) []byte {
	return []byte(`<map><entry><string>plugin_config_props</string><list><org.lockss.daemon.ConfigParamDescr><key>base_url</key>` +
		`<type>3</type><definitional>true</definitional></org.lockss.daemon.ConfigParamDescr></list></entry>` + strings.Join(entries, "") + `</map>`)
}

func entry(key, value string) string {
	return "<entry><string>" + key + "</string>" + value + "</entry>"
}

func str(s string) string { return "<string>" + s + "</string>" }

func mustParse(t *testing.T, entries ...string) *Definition {
	t.Helper()
	d, err := ParseDefinition("org.example.TestPlugin", definition(entries...), nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func mustBind(t *testing.T, d *Definition) *AU {
	t.Helper()
	au, err := d.Bind(map[string]string{"base_url": "http://www.example.com/"})
	if err != nil {
		t.Fatal(err)
	}
	return au
}

// TestUnsupported: a class that this node lacks is listed and has its consequence
// (plugins.md 12.3).
func TestUnsupported(t *testing.T) {
	class := str("org.example.Code")
	for _, c := range []struct {
		key, value    string
		listed        bool
		collect, vote bool // allowed
	}{
		{"plugin_name", str("x"), false, true, true},
		{"text/html_filter_factory", class, true, true, false},
		{"text/html_filter_factory", "<org.lockss.util.None/>", false, true, true},
		{"text/html_crawl_filter_factory", class, true, false, true},
		{"text/html_link_extractor_factory", class, true, false, true},
		{"text/html_link_extractor_factory", str("org.lockss.extractor.GoslingHtmlLinkExtractor$Factory"), false, true, true},
		{"text/css_link_extractor_factory", "<org.lockss.util.None/>", false, true, true},
		{"text/html_link_rewriter_factory", class, true, true, true},
		{"plugin_article_iterator_factory", class, true, true, true},
		{"plugin_crawl_seed_factory", class, true, false, true},
		{"au_url_normalizer", class, true, false, true},
		{"au_login_page_checker", class, true, false, true},
		{"au_crawlrules", class, true, false, false},
		{"au_crawlwindow_ser", "<org.lockss.daemon.CrawlWindows-Daily><from>1:00</from></org.lockss.daemon.CrawlWindows-Daily>", true, false, true},
		{"au_crawlwindow_ser", "<org.lockss.daemon.CrawlWindows-Always/>", false, true, true},
		{"plugin_cache_result_list", "<list>" + str("404=org.example.Handler") + "</list>", true, false, true},
		{"au_url_poll_result_weight", str(`"^%s", base_url,0.5`), true, true, true},
		{"au_repair_from_peer_if_missing_url_pattern", str(`"^%s", base_url`), true, true, true},
		{"au_substance_url_pattern", "<list>" + str(`"^%s", base_url`) + "</list>", true, true, true},
		{"au_non_substance_url_pattern", str(`"^%s", base_url`), true, true, true},
		{"plugin_store_probe_permission", "<boolean>false</boolean>", true, true, true},
		{"plugin_store_probe_permission", "<boolean>true</boolean>", false, true, true},
		{"some_future_key", class, false, true, true},
	} {
		d := mustParse(t, entry(c.key, c.value))
		if got := len(d.Unsupported()) > 0; got != c.listed {
			t.Errorf("%s: unsupported %q, want listed %v", c.key, d.Unsupported(), c.listed)
		}
		if (d.MayCollect() == nil) != c.collect || (d.MayVote() == nil) != c.vote {
			t.Errorf("%s: collect %v, vote %v", c.key, d.MayCollect(), d.MayVote())
		}
		var ue *UnsupportedError
		if err := d.MayVote(); err != nil && !errors.As(err, &ue) {
			t.Errorf("%s: error %T", c.key, err)
		}
	}
}

func TestLoadErrors(t *testing.T) {
	for _, c := range []struct{ name, entries, want string }{
		{"look-ahead", entry("au_crawlrules", "<list>"+str(`1,"^%s(?!x)", base_url`)+"</list>"), "(?!x)"},
		{"back-reference", entry("au_exclude_urls_from_polls_pattern", str(`(a)\1`)), `(a)\1`},
		{"version", entry("required_daemon_version", str("1.80.0")), "1.80.0"},
		{"rule without action", entry("au_crawlrules", "<list>"+str(`"^%s", base_url`)+"</list>"), "action"},
		{"rate", entry("au_rate_limiter_info", "<org.lockss.plugin.RateLimiterInfo><rate>often</rate></org.lockss.plugin.RateLimiterInfo>"), "often"},
		{"wrong kind", entry("au_start_url", "<map/>"), "au_start_url"},
		{"reference", entry("au_start_url", `<string reference="../x"/>`), "references"},
		{"not XML", "<", "file of"},
		{"deep", strings.Repeat("<list>", 60) + strings.Repeat("</list>", 60), "nested"},
		{"negative", entry("au_refetch_depth", "<int>-1</int>"), "au_refetch_depth"},
	} {
		_, err := ParseDefinition("org.example.TestPlugin", definition(c.entries), nil)
		var de *DefinitionError
		if !errors.As(err, &de) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want a *DefinitionError with %q", c.name, err, c.want)
		}
	}
	if _, err := ParseDefinition("../x", definition(), nil); err == nil {
		t.Error("an id that is a path is accepted")
	}
}

func TestLoadOptions(t *testing.T) {
	parent := func(id string) ([]byte, error) {
		if id != "org.example.Parent" {
			return nil, fs.ErrNotExist
		}
		return definition(entry("plugin_version", str("4")), entry("au_def_pause_time", "<long>9000</long>")), nil
	}
	child := []byte("<map>" + entry("plugin_parent", str("org.example.Parent")) + entry("plugin_parent_version", str("3")) +
		entry("lab_override", "<map>"+entry("au_def_pause_time", "<long>8000</long>")+"</map>") + "</map>")
	d, err := ParseDefinition("org.example.Child", child, parent)
	if err != nil || len(d.Warnings()) != 1 {
		t.Fatalf("%v, warnings %q: want one on the parent's version", err, d.Warnings())
	}
	if p := mustBind(t, d).PauseTime(); p != 9*time.Second {
		t.Errorf("pause %v", p)
	}
	if d, err = (LoadOptions{TestingMode: "lab"}).Parse("org.example.Child", child, parent); err != nil {
		t.Fatal(err)
	}
	if p := mustBind(t, d).PauseTime(); p != 8*time.Second {
		t.Errorf("pause in testing mode %v", p)
	}
	if _, err := (LoadOptions{ParentVersionMismatch: "Error"}).Parse("org.example.Child", child, parent); err == nil {
		t.Error("a parent of the wrong version is accepted")
	}
	need := definition(entry("required_daemon_version", str("1.62.1")))
	if _, err := (LoadOptions{DaemonVersion: "1.62.0"}).Parse("org.example.P", need, nil); err == nil {
		t.Error("a too new plugin is accepted")
	}
}

func TestConfiguration(t *testing.T) {
	d := mustParse(t)
	conf, dropped, err := d.Configuration(map[string]string{"base_url": "http://x.example/", "pub_down": "true", "odd": "1", "pause_time": "10s"})
	if err != nil || len(conf) != 2 || !slices.Equal(dropped, []string{"odd"}) {
		t.Errorf("%v, %v, %v", conf, dropped, err)
	}
	if _, _, err := d.Configuration(nil); err == nil {
		t.Error("no error without base_url")
	}
}

func TestResults(t *testing.T) {
	au := mustBind(t, mustParse(t, entry("plugin_cache_result_list", "<list>"+
		str("404=org.lockss.util.urlconn.CacheException$RetryDeadLinkException")+
		str("emptyfile = org.lockss.util.urlconn.CacheException$NoStoreWarningOnly")+
		str("java.io.IOException=org.lockss.util.urlconn.CacheException$RetryableNetworkException_5_60S")+"</list>")))
	if r, ok := au.Result(404); !ok || !r.Retry || r.Fail {
		t.Errorf("404: %+v, %v", r, ok)
	}
	if _, ok := au.Result(500); ok {
		t.Error("500 has a result")
	}
	if r, ok := au.ResultEmpty(); !ok || !r.NoStore {
		t.Errorf("empty: %+v", r)
	}
	if r, ok := au.ResultFailure("java.net.SocketTimeoutException", "java.io.IOException"); !ok || r.Tries != 5 || r.Delay != time.Minute {
		t.Errorf("time-out: %+v", r)
	}
}

func TestRates(t *testing.T) {
	d := mustParse(t, entry("au_rate_limiter_info", `<org.lockss.plugin.RateLimiterInfo><rate>10/1s</rate>`+
		`<mimeRates><entry><string>image/*,text/css</string><string>5/1s</string></entry><entry><string>*/*</string><string>20/1s</string></entry></mimeRates>`+
		`</org.lockss.plugin.RateLimiterInfo>`))
	au := mustBind(t, d)
	for _, c := range []struct {
		mime string
		want int
	}{{"", 10}, {"image/png", 5}, {"text/css", 5}, {"text/html", 20}} {
		if got := au.Rates().For("http://www.example.com/x", c.mime); got.Events != c.want {
			t.Errorf("after %q: %+v, want %d a second", c.mime, got, c.want)
		}
	}
	if got := au.FetchRate(); got != (lockss.Rate{Events: 5, Per: time.Second}) {
		t.Errorf("slowest %+v", got)
	}
	if au.PauseTime() != DefaultPause {
		t.Errorf("pause %v", au.PauseTime())
	}
	urls := mustBind(t, mustParse(t, entry("au_url_rate_limiter_map", "<map>"+entry("/img/", str("5/1s"))+"</map>")))
	if got := urls.Rates().For("http://www.example.com/img/a", ""); got.Events != 5 {
		t.Errorf("url rate %+v", got)
	}
	if got := urls.FetchRate(); got != (lockss.Rate{Events: 1, Per: DefaultPause}) {
		t.Errorf("slowest %+v", got)
	}
}

func TestLinkExtractor(t *testing.T) {
	au := mustBind(t, mustParse(t, entry("text/css_link_extractor_factory", "<org.lockss.util.None/>")))
	for mime, want := range map[string]string{"text/html": "html", "text/css": "", "text/xml": "xml", "image/png": ""} {
		if got := au.LinkExtractor(mime); got != want {
			t.Errorf("%s: %q, want %q", mime, got, want)
		}
	}
}

// TestRegistryAU follows plugin-packaging.md 4.2.
func TestRegistryAU(t *testing.T) {
	au := RegistryAU("http://props.example.org:8080/plugins/")
	if got, want := au.ID(), lockss.AUID("org|lockss|plugin|RegistryPlugin&base_url~http%3A%2F%2Fprops%2Eexample%2Eorg%3A8080%2Fplugins%2F"); got != want {
		t.Errorf("id %s, want %s", got, want)
	}
	for url, want := range map[string]bool{
		"http://props.example.org:8080/plugins/":      true,
		"HTTP://props.example.org:8080/Plugins/":      true,
		"http://other.example.net/A.JAR":              true,
		"http://props.example.org:8080/plugins/a.xml": false,
	} {
		if au.Included(url) != want {
			t.Errorf("%s: included %v", url, !want)
		}
	}
	if !au.IsRegistry() || au.RefetchDepth() != 1000 || au.Definition().PollVersion() != "1" || au.Definition().MayCollect() != nil {
		t.Errorf("registry AU: %v %d %s", au.IsRegistry(), au.RefetchDepth(), au.Definition().PollVersion())
	}
	if !slices.Equal(au.Stems(), []string{"http://props.example.org:8080/"}) {
		t.Errorf("stems %v", au.Stems())
	}
	// The methods that read keys must not fail on a definition without a file.
	if au.UserMessage() != "" || !au.SendReferrer() || au.DontPoll() || len(au.Cookies()) > 0 {
		t.Error("a registry AU has settings that nobody made")
	}
}

func FuzzParseDefinition(f *testing.F) {
	for _, n := range []string{"PollPlugin", "WindowPlugin", "LegacyPlugin", "AllTypesPlugin", "MapQuirksPlugin"} {
		b, err := xmlFile("org.example.plugin." + n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDefinition("org.example.Fuzz", b, nil)
		if err != nil {
			var de *DefinitionError
			if !errors.As(err, &de) {
				t.Fatalf("error %T: %v", err, err)
			}
			return
		}
		params := map[string]string{"base_url": "http://www.example.com/"}
		for _, p := range d.Params() {
			if _, ok := params[p.Key]; !ok {
				params[p.Key] = map[int]string{TypeYear: "1999", TypeURL: "http://x.example/", TypeUserPasswd: "u:p", TypeBoolean: "true"}[p.Type]
				if params[p.Key] == "" {
					params[p.Key] = "1"
				}
			}
		}
		if au, err := d.Bind(params); err == nil {
			au.Match("http://www.example.com/x")
			au.PollWeight(fmt.Sprint(au.ID()))
		}
	})
}

func FuzzCompilePattern(f *testing.F) {
	for _, p := range []string{`^http://www\.(a|b)\d+{2,3}?$`, `[\W\d-z]`, `(?i)[[:alpha:]-x]`, `(?x) a # b`} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		if re, err := compilePattern(p, true); err == nil {
			re.match("http://www.example.com/a1")
		}
	})
}
