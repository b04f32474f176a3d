package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/html"

	"armarium/daemon/account"
	"armarium/daemon/lockss"
	"armarium/daemon/status"
	"armarium/daemon/store"
)

const (
	hashOf1 = "SHA-256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b" // of "1"
	au1     = lockss.AUID(`org|example|press|P&base_url~http%3A%2F%2Fpress%2Eexample%2F&x~"<script>`)
	page1   = `http://press.example/1?a=b&c=<script>alert("url")</script>`
	evil    = `<script>alert("row")</script>`
	pollKey = "a/b+c=="
	peer1   = lockss.PeerID("TCP:[192.0.2.11]:9729")
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// box is a node in which every text that comes from outside is hostile.
type box struct {
	mu    sync.Mutex
	did   []string
	trail []string
	err   error
	busy  bool
	store *store.Store
}

func (b *box) note(what string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.did = append(b.did, what)
	return b.err
}

func (b *box) AddAU(_ context.Context, r status.AddRequest) (lockss.AUID, error) {
	return au1, b.note("add " + r.Title + " on " + r.Disk)
}
func (b *box) Crawl(_ context.Context, au lockss.AUID) error { return b.note("crawl " + string(au)) }
func (b *box) Poll(_ context.Context, au lockss.AUID) error  { return b.note("poll " + string(au)) }

func (b *box) sources() status.Sources {
	poll := status.PollRow{Key: pollKey, AU: au1, Name: evil, Variant: "PoR", Started: noon, Ended: noon.Add(time.Hour), Status: "Complete",
		Quorum: 2, Voters: 3, Agreement: 0.98765, URLs: 100, Won: 97, Lost: 1, TooClose: 1, NoQuorum: 1, Repairs: 1, Sentence: "Three of four peers voted. " + evil,
		Participants: []status.ParticipantRow{{Peer: peer1, Status: "Complete", Agreement: 1}, {Peer: "TCP:[192.0.2.12]:9729", Status: "Declined Poll", Reason: evil, Agreement: status.None}},
		Damage:       []status.DamageRow{{URL: page1, Result: "LOST", Disagree: 3, Repair: evil, From: peer1, After: "WON", Votes: []status.URLVote{{Peer: peer1, Verdict: evil}}}}}
	return status.Sources{
		Health: func() status.Health { return status.Health{State: "starting", Reason: evil} },
		Box: func() status.BoxRow {
			return status.BoxRow{Host: "box.example", Version: "1", Peer: "TCP:[192.0.2.7]:9729", Groups: []string{evil}, Started: noon, Quorum: 2, Polling: true, Lock: "hardware", LockNote: evil, Sentence: evil, Alarm: true, Todo: []string{evil}}
		},
		AUs: func() []status.AURow {
			return []status.AURow{
				{AU: au1, Name: "Press " + evil, Plugin: evil, Params: map[string]string{"x": evil}, StartURLs: []string{page1}, URLs: 3, Bytes: 1000, Crawled: noon, CrawlAttempt: noon, CrawlResult: evil,
					Polled: noon, PollResult: evil, Agreement: 0.98765, Damaged: 1, Fault: "", AgreeingPeers: 2, Polling: b.busy},
				{AU: "never", Name: "Never seen", URLs: status.Unknown, Bytes: status.Unknown, Versions: status.Unknown, Agreement: status.None, AgreeingPeers: status.Unknown, Repairers: status.Unknown, Fault: evil},
			}
		},
		Crawls: func(status.Query) ([]status.CrawlRow, error) {
			return []status.CrawlRow{{AU: au1, Name: evil, Running: b.busy, Status: "Active", Started: noon, Current: page1}, {ID: 7, AU: au1, Name: evil, Kind: evil, Status: "Fetch error", Started: noon, Message: evil}}, nil
		},
		Crawl: func(id int64) (status.CrawlRow, error) {
			if id != 7 {
				return status.CrawlRow{}, status.ErrNotFound
			}
			return status.CrawlRow{ID: 7, AU: au1, Name: evil, Status: "Fetch error", Message: evil, Failures: []status.CrawlFailure{{URL: page1, Reason: evil}}}, nil
		},
		Polls: func(status.Query) ([]status.PollRow, error) { return []status.PollRow{poll}, nil },
		Poll: func(key string) (status.PollRow, error) {
			if key != pollKey {
				return status.PollRow{}, status.ErrNotFound
			}
			return poll, nil
		},
		Votes: func(status.Query) ([]status.VoteRow, error) {
			return []status.VoteRow{{Key: "v", AU: au1, Name: evil, Poller: peer1, Status: "Voted", Reason: evil, Started: noon, Agreement: status.None}}, nil
		},
		Peers: func() []status.PeerRow {
			return []status.PeerRow{{Peer: peer1, Configured: true, LastMessage: noon, LastRefusal: evil, Fault: evil, State: evil, Groups: []string{evil}}}
		},
		Agree: func() ([]status.AgreementRow, error) {
			return []status.AgreementRow{{AU: au1, Name: evil, Peer: peer1, Last: 0.98765, LastAt: noon, Highest: 1, HighestAt: noon, Hint: status.None}}, nil
		},
		Repairs: func(status.Query) ([]status.RepairRow, error) {
			return []status.RepairRow{{At: noon, AU: au1, Name: evil, URL: page1, Poll: pollKey, Result: "verified", From: peer1, Old: evil, New: evil}}, nil
		},
		Disks: func() []status.DiskRow {
			return []status.DiskRow{
				{Path: "/cache0", State: "ok", Total: 1 << 40, Free: 1 << 30, Level: status.DiskLow, Device: evil, Serial: evil, Note: evil},
				{Path: "/cache1", State: "ok", Total: 1 << 40, Free: 1 << 39},
				{Path: "/cache2", State: "missing", Fault: evil},
			}
		},
		Titles: func() []status.TitleRow {
			return []status.TitleRow{{Key: `k"` + evil, Name: "New " + evil, Journal: evil, Plugin: evil}, {Key: "b", Name: "Bad", Plugin: "p", Problem: evil}, {Key: "a", Name: "There", AU: au1, Added: true}}
		},
		Plugins: func() []status.PluginRow {
			return []status.PluginRow{{ID: evil, Name: evil, Version: evil, Origin: evil, Signer: evil, Fault: evil}}
		},
		Actions: func(status.Query) ([]status.ActionRow, error) {
			return []status.ActionRow{{At: noon, User: evil, What: evil, Object: evil, Result: evil}}, nil
		},
		Config: func() []status.ConfigRow {
			return []status.ConfigRow{{Name: evil, Value: evil, Origin: evil, Note: evil}, {Name: "org.lockss.platform.ui.password", Value: "s3cret"}}
		},
		URLs: func(_ lockss.AUID, after string, _ int) ([]status.URLRow, error) {
			return []status.URLRow{{URL: page1, Version: 1, Size: status.Unknown, Versions: 1, Checksum: evil}}, nil
		},
		Version: func(_ lockss.AUID, u string) ([]status.VersionRow, error) {
			if u != page1 {
				return nil, status.ErrNotFound
			}
			return []status.VersionRow{{URL: u, Version: 2, Current: true, Type: "text/html", Collected: noon, Props: map[string]string{"x-evil": evil}}, {URL: u, Version: 1, Type: evil, From: peer1, Fault: evil}}, nil
		},
	}
}

func (b *box) content(au lockss.AUID, u string, number int) (*store.Version, error) {
	unit, err := b.store.Unit(au)
	if err != nil {
		return nil, err
	}
	if number == 0 {
		return unit.Current(u)
	}
	vs, err := unit.Versions(u, 0)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(vs, func(v *store.Version) bool { return v.Number == number }); i >= 0 {
		return vs[i], nil
	}
	return nil, store.ErrNotPreserved
}

func start(t *testing.T) (*box, *httptest.Server) {
	t.Helper()
	accounts, err := account.New(account.Config{Users: []account.User{
		{Name: "admin", Password: hashOf1, Roles: []string{account.RoleUserAdmin}},
		{Name: "reader", Password: hashOf1},
	}})
	if err != nil {
		t.Fatal(err)
	}
	b := &box{}
	if b.store, err = store.Open(store.Config{Roots: []string{t.TempDir()}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.store.Close() })
	unit, err := b.store.Create(au1, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"first", "<script>alert(2)</script>"} {
		w, err := unit.New("http://press.example/stored")
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, body)
		if _, err := w.Seal(map[string]string{"x-lockss-content-type": "text/html", "x-lockss-node-url": "http://press.example/stored"}); err != nil {
			t.Fatal(err)
		}
	}
	h, err := New(Config{Accounts: accounts, Sources: b.sources(), Actions: b, Content: b.content, Trail: status.Trail{Record: func(r status.ActionRow) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.trail = append(b.trail, fmt.Sprintf("%s %s %s: %s", r.User, r.What, r.Object, r.Result))
		return nil
	}}})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return b, srv
}

// A browser keeps cookies and follows redirects.
type browser struct {
	*http.Client
	t    *testing.T
	base string
}

func newBrowser(t *testing.T, srv *httptest.Server) *browser {
	jar, _ := cookiejar.New(nil)
	return &browser{&http.Client{Jar: jar}, t, srv.URL}
}

func (b *browser) do(method, path string, form url.Values, headers ...string) (*http.Response, string) {
	b.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequest(method, b.base+path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html,*/*;q=0.8")
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Set(k, v)
	}
	resp, err := b.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp, string(text)
}

func (b *browser) login(user string) {
	b.t.Helper()
	resp, text := b.do("POST", "/login", url.Values{"user": {user}, "password": {"1"}})
	if resp.StatusCode != 200 || resp.Request.URL.Path != "/" {
		b.t.Fatalf("login of %s: %d at %s\n%s", user, resp.StatusCode, resp.Request.URL, text)
	}
}

// token finds the token in a page's forms.
func (b *browser) token() string {
	b.t.Helper()
	_, text := b.do("GET", "/", nil)
	m := regexp.MustCompile(`name="csrf" value="([^"]+)"`).FindStringSubmatch(text)
	if m == nil {
		b.t.Fatal("the page has no token")
	}
	return m[1]
}

func auLink(path string) string { return path + "?id=" + url.QueryEscape(string(au1)) }

// each calls f for every element of a page.
func each(t *testing.T, page string, f func(n *html.Node, attr map[string]string)) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	for n := range doc.Descendants() {
		if n.Type == html.ElementNode {
			attr := map[string]string{}
			for _, a := range n.Attr {
				attr[a.Key] = a.Val
			}
			f(n, attr)
		}
	}
}

// TestAllPages follows every link from the overview, as a reader would, and holds each page
// against the rules that all share: it answers, hostile text stays text, nothing is inline,
// forms that change something carry the token, inputs have labels, and nothing was changed.
func TestAllPages(t *testing.T) {
	b, srv := start(t)
	br := newBrowser(t, srv)
	br.login("admin")
	b.trail = nil
	seen := map[string]bool{"/": true}
	queue := []string{"/", auLink("/urls"), "/plugins", "/actions", "/votes", "/nonsense", "/collection?id=none"}
	for len(queue) > 0 {
		path := queue[0]
		queue = queue[1:]
		resp, text := br.do("GET", path, nil)
		want := 200
		if path == "/nonsense" || path == "/collection?id=none" || strings.HasPrefix(path, "/content") {
			want = 404 // page1 is in the lists, but not in the store
		}
		if resp.StatusCode != want {
			t.Errorf("%s: got %d, want %d", path, resp.StatusCode, want)
		}
		h := resp.Header
		if csp := h.Get("Content-Security-Policy"); csp != policy || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") == "" || h.Get("X-Frame-Options") != "DENY" {
			t.Errorf("%s: headers %v", path, h)
		}
		if !strings.Contains(h.Get("Content-Type"), "text/html") {
			continue
		}
		if strings.Contains(text, "<script") || strings.Contains(text, "s3cret") {
			t.Errorf("%s: hostile text is not escaped, or a secret is shown", path)
		}
		if strings.Contains(text, "%!") || strings.Contains(text, "ZgotmplZ") || strings.Contains(text, "<nil>") {
			t.Errorf("%s: a value is not formatted", path)
		}
		labelled := map[string]bool{}
		heads, hasLang := 0, false
		each(t, text, func(n *html.Node, attr map[string]string) {
			if n.Data == "label" {
				labelled[attr["for"]] = true
			}
		})
		each(t, text, func(n *html.Node, attr map[string]string) {
			for k := range attr {
				if strings.HasPrefix(k, "on") || k == "style" {
					t.Errorf("%s: <%s %s> is inline", path, n.Data, k)
				}
			}
			switch n.Data {
			case "html":
				hasLang = attr["lang"] != ""
			case "h1":
				heads++
			case "script", "style", "iframe", "object":
				t.Errorf("%s: has <%s>", path, n.Data)
			case "img":
				if _, ok := attr["alt"]; !ok {
					t.Errorf("%s: an image without alt", path)
				}
			case "input":
				if attr["type"] != "hidden" && !labelled[attr["id"]] {
					t.Errorf("%s: input %s has no label", path, attr["name"])
				}
			case "form":
				if strings.EqualFold(attr["method"], "post") && attr["action"] != "/login" {
					found := false
					for in := range n.Descendants() {
						found = found || in.Type == html.ElementNode && in.Data == "input" && slices.Contains(in.Attr, html.Attribute{Key: "name", Val: "csrf"})
					}
					if !found {
						t.Errorf("%s: the form %s has no token", path, attr["action"])
					}
				}
			case "a":
				to := attr["href"]
				if strings.HasPrefix(to, "#") {
					return
				}
				if !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") {
					t.Errorf("%s: link out of the site: %s", path, to)
					return
				}
				if !seen[to] {
					seen[to] = true
					queue = append(queue, to)
				}
			}
		})
		if heads != 1 || !hasLang {
			t.Errorf("%s: %d headings of the page, language %v", path, heads, hasLang)
		}
	}
	for _, want := range []string{"/collections", "/polls", "/votes", "/crawls", "/crawl?id=7", "/repairs", "/peers", "/disks", "/titles", "/settings", "/actions",
		"/poll?key=a%2Fb%2Bc%3D%3D"} {
		if !seen[want] {
			t.Errorf("no link leads to %s", want)
		}
	}
	if len(seen) < 20 {
		t.Errorf("only %d pages found", len(seen))
	}
	if len(b.did) > 0 || len(b.trail) > 0 {
		t.Errorf("reading pages did something: %v %v", b.did, b.trail)
	}
}

func TestLogin(t *testing.T) {
	b, srv := start(t)
	br := newBrowser(t, srv)
	resp, text := br.do("GET", auLink("/urls"), nil)
	if resp.Request.URL.Path != "/login" || !strings.Contains(text, `type="password"`) {
		t.Fatalf("without login: %d at %s", resp.StatusCode, resp.Request.URL)
	}
	next := resp.Request.URL.Query().Get("next")
	resp, text = br.do("POST", "/login", url.Values{"user": {"admin"}, "password": {"2"}, "next": {next}})
	if resp.StatusCode != 401 || !strings.Contains(text, "is wrong") {
		t.Errorf("wrong password: got %d", resp.StatusCode)
	}
	resp, _ = br.do("POST", "/login", url.Values{"user": {"admin"}, "password": {"1"}, "next": {next}})
	if resp.StatusCode != 200 || resp.Request.URL.RequestURI() != auLink("/urls") {
		t.Errorf("after login: %d at %s, want the page first asked for", resp.StatusCode, resp.Request.URL)
	}
	if resp, _ := br.do("POST", "/logout", nil); resp.StatusCode != 403 {
		t.Errorf("logout without token: got %d, want 403", resp.StatusCode)
	}
	if resp, _ := br.do("POST", "/logout", url.Values{"csrf": {br.token()}}); resp.Request.URL.Path != "/login" {
		t.Errorf("after logout: at %s", resp.Request.URL)
	}
	if resp, _ := br.do("GET", "/collections", nil); resp.Request.URL.Path != "/login" {
		t.Errorf("a page after logout: at %s, want the login", resp.Request.URL)
	}
	if want := []string{"admin from 127.0.0.1 logged in : ok", "admin from 127.0.0.1 logged out : ok"}; !slices.Equal(b.trail, want) {
		t.Errorf("audit trail %q, want %q", b.trail, want)
	}
	for _, to := range []string{"//evil.example/", "https://evil.example/", `/\evil.example`, "evil"} {
		if got := localPath(to); got != "/" {
			t.Errorf("after login to %s: leads to %s", to, got)
		}
	}
}

func TestLoginThrottle(t *testing.T) {
	_, srv := start(t)
	br := newBrowser(t, srv)
	wrong := url.Values{"user": {"admin"}, "password": {"2"}}
	for range 5 {
		if resp, _ := br.do("POST", "/login", wrong); resp.StatusCode != 401 {
			t.Fatalf("wrong password: got %d", resp.StatusCode)
		}
	}
	resp, text := br.do("POST", "/login", url.Values{"user": {"admin"}, "password": {"1"}})
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" || !strings.Contains(text, "too many wrong passwords") {
		t.Errorf("right password after five wrong ones: got %d", resp.StatusCode)
	}
}

// TestBasic: scripts log in with each request.
func TestBasic(t *testing.T) {
	b, srv := start(t)
	get := func(password string, headers ...string) *http.Response {
		req, _ := http.NewRequest("POST", srv.URL+"/collection/crawl", strings.NewReader("id="+url.QueryEscape(string(au1))))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if password != "" {
			req.SetBasicAuth("admin", password)
		}
		for _, h := range headers {
			k, v, _ := strings.Cut(h, ": ")
			req.Header.Set(k, v)
		}
		c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	if resp := get(""); resp.StatusCode != 401 || resp.Header.Get("WWW-Authenticate") != `Basic realm="LOCKSS Admin"` {
		t.Errorf("no credentials: got %d %v", resp.StatusCode, resp.Header)
	}
	if resp := get("1"); resp.StatusCode != 403 || len(b.did) > 0 {
		t.Errorf("without the header of intent: got %d, did %v", resp.StatusCode, b.did)
	}
	if resp := get("1", "X-Armarium-Request: 1"); resp.StatusCode != 303 || len(b.did) != 1 {
		t.Errorf("with the header of intent: got %d, did %v", resp.StatusCode, b.did)
	}
}

func TestActions(t *testing.T) {
	id := url.Values{"id": {string(au1)}}
	for _, c := range []struct {
		name, user, path string
		form             url.Values
		token            bool
		headers          []string
		err              error
		code             int
		did, say         string
	}{
		{"crawl", "admin", "/collection/crawl", id, true, nil, nil, 200, "crawl " + string(au1), "The crawl was asked for"},
		{"poll", "admin", "/collection/poll", id, true, nil, nil, 200, "poll " + string(au1), "The poll was asked for"},
		{"add", "admin", "/titles/add", url.Values{"title": {"t9"}, "disk": {"/cache1"}}, true, nil, nil, 200, "add t9 on /cache1", "The collection was added"},
		{"no token", "admin", "/collection/crawl", id, false, nil, nil, 403, "", "load it again"},
		{"other site", "admin", "/collection/crawl", id, true, []string{"Origin: http://evil.example"}, nil, 403, "", ""},
		{"role missing", "reader", "/collection/crawl", id, true, nil, nil, 403, "", "not authorized"},
		{"unknown", "admin", "/collection/crawl", url.Values{"id": {"none"}}, true, nil, nil, 404, "", ""},
		{"no title", "admin", "/titles/add", url.Values{}, true, nil, nil, 422, "", "title"},
		{"busy", "admin", "/collection/poll", id, true, nil, fmt.Errorf("a poll %w", status.ErrBusy), 409, "poll " + string(au1), "already being done"},
		{"fault", "admin", "/collection/poll", id, true, nil, errors.New("disk " + evil), 500, "poll " + string(au1), "disk &lt;script"},
		{"too long", "admin", "/collection/poll", url.Values{"id": {strings.Repeat("x", maxForm)}}, true, nil, nil, 403, "", ""},
	} {
		b, srv := start(t)
		br := newBrowser(t, srv)
		br.login(c.user)
		form := url.Values{}
		for k, v := range c.form {
			form[k] = v
		}
		if c.token {
			form.Set("csrf", br.token())
		}
		b.err, b.trail = c.err, nil
		resp, text := br.do("POST", c.path, form, c.headers...)
		if did := strings.Join(b.did, "; "); resp.StatusCode != c.code || did != c.did || !strings.Contains(text, c.say) {
			t.Errorf("%s: got %d, did %q, want %d, %q and %q in\n%s", c.name, resp.StatusCode, did, c.code, c.did, c.say, text)
		}
		if c.did != "" && (len(b.trail) != 1 || !strings.HasPrefix(b.trail[0], "admin from 127.0.0.1 ")) {
			t.Errorf("%s: audit trail %q", c.name, b.trail)
		}
		if resp, _ := br.do("GET", c.path+"?"+form.Encode(), nil); resp.StatusCode != 404 {
			t.Errorf("%s by GET: got %d, want 404", c.name, resp.StatusCode)
		}
		srv.Close()
	}
}

// TestReaderSeesNoButtons: who may not act is not offered to.
func TestReaderSeesNoButtons(t *testing.T) {
	_, srv := start(t)
	br := newBrowser(t, srv)
	br.login("reader")
	for _, path := range []string{auLink("/collection"), "/titles"} {
		if _, text := br.do("GET", path, nil); strings.Contains(text, "/crawl\"") || strings.Contains(text, "/titles/add") {
			t.Errorf("%s: has buttons", path)
		}
	}
	if resp, _ := br.do("GET", auLink("/content")+"&url=http://press.example/stored", nil); resp.StatusCode != 403 {
		t.Errorf("content: got %d, want 403", resp.StatusCode)
	}
}

func TestContent(t *testing.T) {
	_, srv := start(t)
	br := newBrowser(t, srv)
	br.login("admin")
	link := auLink("/content") + "&url=" + url.QueryEscape("http://press.example/stored")
	resp, text := br.do("GET", link, nil)
	csp := resp.Header.Get("Content-Security-Policy")
	if resp.StatusCode != 200 || text != "<script>alert(2)</script>" || !strings.HasPrefix(csp, "sandbox;") || strings.Contains(csp, "allow-") {
		t.Errorf("got %d %q, policy %q", resp.StatusCode, text, csp)
	}
	if resp.Header.Get("Content-Type") != "text/html" || !strings.HasPrefix(resp.Header.Get("Content-Disposition"), "inline") {
		t.Errorf("headers %v", resp.Header)
	}
	if _, text := br.do("GET", link+"&version=1", nil); text != "first" {
		t.Errorf("first version: %q", text)
	}
	if resp, _ := br.do("GET", link+"&save=1", nil); !strings.HasPrefix(resp.Header.Get("Content-Disposition"), "attachment") {
		t.Errorf("to save: %v", resp.Header)
	}
	for _, bad := range []string{"&version=9", "&version=x", "&version=0"} {
		if resp, _ := br.do("GET", link+bad, nil); resp.StatusCode != 404 {
			t.Errorf("%s: got %d, want 404", bad, resp.StatusCode)
		}
	}
	if resp, _ := newBrowser(t, srv).do("GET", link, nil); resp.Request.URL.Path != "/login" {
		t.Errorf("without login: at %s", resp.Request.URL)
	}
}

// TestRefresh: only pages with something running load themselves again.
func TestRefresh(t *testing.T) {
	b, srv := start(t)
	br := newBrowser(t, srv)
	br.login("admin")
	for _, busy := range []bool{false, true} {
		b.busy = busy
		for path, can := range map[string]bool{"/": true, "/collections": true, auLink("/collection"): true, "/crawls": true, "/peers": false, "/settings": false, "/titles": false} {
			_, text := br.do("GET", path, nil)
			if got := strings.Contains(text, `http-equiv="refresh"`); got != (busy && can) {
				t.Errorf("%s, running %v: loads itself again: %v", path, busy, got)
			}
		}
	}
}

// TestWords: what the pages say, in the words that people look for.
func TestWords(t *testing.T) {
	_, srv := start(t)
	br := newBrowser(t, srv)
	br.login("admin")
	for path, words := range map[string][]string{
		"/":                         {"Are my collections intact, and where they should be?", "Is the network working?", "Was any copy ever repaired?", "Please act", "The daemon is not ready: starting"},
		"/collections":              {"Damaged", "98.76%", "Not in service"},
		auLink("/collection"):       {"1 of its URLs lost the last poll", "Crawl now", "192.0.2.11:9729", "98.76%"},
		"/collection?id=never":      {"not known", "never", "No other copy is known yet"},
		"/poll?key=a%2Fb%2Bc%3D%3D": {"Three of four peers voted.", "differs", "agrees", "too few votes", "declined"},
		"/peers":                    {"98.76%", "192.0.2.11:9729", "TCP:[192.0.2.7]:9729"},
		"/disks":                    {"1.0 GB free of 1.0 TB", "missing", "hardware"},
		"/settings":                 {"(hidden)"},
		"/titles?find=THERE":        {"There"},
		"/titles?find=nothing":      {"No title has all of these words."},
		"/crawl?id=7":               {"Fetch error"},
		"/nonsense":                 {"There is no such thing"},
	} {
		_, text := br.do("GET", path, nil)
		for _, w := range words {
			if !strings.Contains(text, w) {
				t.Errorf("%s: does not say %q", path, w)
			}
		}
	}
	if _, text := br.do("GET", "/titles?find=THERE", nil); strings.Contains(text, "Bad") {
		t.Error("the search finds what it should not")
	}
}

// TestPaging: a long history has a way on and back.
func TestPaging(t *testing.T) {
	b, _ := start(t)
	s := b.sources()
	s.Crawls = func(q status.Query) ([]status.CrawlRow, error) {
		var list []status.CrawlRow
		for i := range 250 {
			at := noon.Add(-time.Duration(i) * time.Minute)
			if (q.Before.IsZero() || at.Before(q.Before)) && len(list) < q.Limit {
				list = append(list, status.CrawlRow{ID: int64(i + 1), AU: au1, Name: "Press", Started: at, Status: "Successful"})
			}
		}
		return list, nil
	}
	accounts, _ := account.New(account.Config{Users: []account.User{{Name: "admin", Password: hashOf1}}})
	h, err := New(Config{Accounts: accounts, Sources: s, Actions: b, Content: b.content})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	defer srv.Close()
	br := newBrowser(t, srv)
	br.login("admin")
	pages, ids, path := 0, map[string]bool{}, "/crawls"
	for path != "" && pages < 10 {
		pages++
		_, text := br.do("GET", path, nil)
		path = ""
		each(t, text, func(n *html.Node, attr map[string]string) {
			if n.Data != "a" {
				return
			}
			if id, ok := strings.CutPrefix(attr["href"], "/crawl?id="); ok {
				ids[id] = true
			}
			if n.FirstChild != nil && n.FirstChild.Data == "More" {
				path = attr["href"]
			}
		})
	}
	if pages != 3 || len(ids) != 250 {
		t.Errorf("%d crawls on %d pages, want 250 on 3", len(ids), pages)
	}
	if resp, _ := br.do("GET", "/crawls?before=yesterday", nil); resp.StatusCode != 404 {
		t.Errorf("a bad time: got %d", resp.StatusCode)
	}
}

func TestAgo(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "just now", 90 * time.Second: "1 minute ago", 2 * time.Hour: "2 hours ago", 30 * time.Hour: "1 day ago", 15 * 24 * time.Hour: "2 weeks ago",
		8 * 24 * time.Hour: "8 days ago", 800 * 24 * time.Hour: "2 years ago", -3 * time.Hour: "in 3 hours",
	} {
		if got := ago(noon, noon.Add(-d)); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}

func TestStatic(t *testing.T) {
	_, srv := start(t)
	for path, want := range map[string]int{"/static/style.css": 200, "/static/logo.svg": 200, "/static/none": 404, "/static/..%2Fweb.go": 404} {
		resp, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: got %d, want %d", path, resp.StatusCode, want)
		}
	}
}

func TestForemostPeers(t *testing.T) {
	var rows []status.Row
	for i := range 2 * maxPeers {
		rows = append(rows, status.Row{"peer": i, "configured": false})
	}
	rows = append(rows, status.Row{"peer": "heard", "configured": false, "lastMessage": time.Unix(1e9, 0)},
		status.Row{"peer": "configured", "configured": true})
	got := foremost(rows)
	if len(got) != maxPeers || got[0]["peer"] != "configured" || got[1]["peer"] != "heard" || got[2]["peer"] != 0 {
		t.Errorf("%d peers, first %v", len(got), got[:3])
	}
}
