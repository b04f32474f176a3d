package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"armarium/daemon/account"
	"armarium/daemon/lockss"
	"armarium/daemon/status"
)

const (
	hashOf1 = "SHA-256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b" // of "1"
	au1     = lockss.AUID("org|example|press|P&base_url~http%3A%2F%2Fpress%2Eexample%2F&volume~a%20b")
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// box is a node that remembers what it was asked to do.
type box struct {
	mu    sync.Mutex
	did   []string
	trail []status.ActionRow
	err   error
	state string
}

func (b *box) note(what string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.did = append(b.did, what)
	return b.err
}

func (b *box) AddAU(_ context.Context, r AddRequest) (lockss.AUID, error) {
	return "new&au", b.note(fmt.Sprintf("add %s%s %v %s", r.Title, r.Plugin, r.Params, r.Disk))
}
func (b *box) Crawl(_ context.Context, au lockss.AUID) error { return b.note("crawl " + string(au)) }
func (b *box) Poll(_ context.Context, au lockss.AUID) error  { return b.note("poll " + string(au)) }

func (b *box) sources() status.Sources {
	return status.Sources{
		Health: func() status.Health { return status.Health{State: b.state, Reason: "because"} },
		Box:    func() status.BoxRow { return status.BoxRow{Host: "box.example"} },
		AUs: func() []status.AURow {
			return []status.AURow{{AU: au1, Name: "Press", URLs: 3, Agreement: status.None, Crawled: noon}}
		},
		Crawls: func(q status.Query) ([]status.CrawlRow, error) {
			if q.AU != "" && q.AU != au1 {
				return nil, nil
			}
			return []status.CrawlRow{{ID: 7, AU: au1, Name: "Press", Status: "Successful", OK: true, Started: noon}}, nil
		},
		Crawl: func(id int64) (status.CrawlRow, error) {
			if id != 7 {
				return status.CrawlRow{}, status.ErrNotFound
			}
			return status.CrawlRow{ID: 7, AU: au1, Failures: []status.CrawlFailure{{URL: "http://press.example/x", Reason: "404"}}}, nil
		},
		Poll: func(key string) (status.PollRow, error) {
			if key != "a/b+c=" {
				return status.PollRow{}, status.ErrNotFound
			}
			return status.PollRow{Key: key, AU: au1, Participants: []status.ParticipantRow{{Peer: "TCP:[192.0.2.1]:9729"}}}, nil
		},
		Repairs: func(status.Query) ([]status.RepairRow, error) { return nil, errors.New("disk error in /secret/path") },
		URLs: func(au lockss.AUID, after string, limit int) ([]status.URLRow, error) {
			var rows []status.URLRow
			for i := range 3 {
				if u := fmt.Sprintf("http://press.example/%d?a=b&c", i); u > after && len(rows) < limit {
					rows = append(rows, status.URLRow{URL: u, Version: 1, Size: 10, Versions: 1})
				}
			}
			return rows, nil
		},
		Version: func(_ lockss.AUID, u string) ([]status.VersionRow, error) {
			if !strings.HasPrefix(u, "http://press.example/") {
				return nil, status.ErrNotFound
			}
			return []status.VersionRow{{URL: u, Version: 2, Current: true}, {URL: u, Version: 1}}, nil
		},
	}
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
	b := &box{state: status.HealthOK}
	h, err := New(Config{Accounts: accounts, Sources: b.sources(), Actions: b, Trail: status.Trail{Record: func(r status.ActionRow) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.trail = append(b.trail, r)
		return nil
	}}})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return b, srv
}

// ask sends a request as a user ("" for nobody), with headers "Name: value".
func ask(t *testing.T, srv *httptest.Server, user, method, path, body string, headers ...string) (int, map[string]any, *http.Response) {
	t.Helper()
	req, err := http.NewRequest(method, srv.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, "1")
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Set(k, v)
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if resp.Header.Get("Content-Type") == "application/json" {
		if err := json.Unmarshal(b, &v); err != nil {
			t.Errorf("%s %s: answer is not JSON: %s", method, path, b)
		}
	} else {
		v = map[string]any{"text": string(b)}
	}
	return resp.StatusCode, v, resp
}

const (
	intent = "X-Armarium-Request: 1"
	asJSON = "Content-Type: application/json"
)

func auPath(rest string) string { return Prefix + "aus/" + url.PathEscape(string(au1)) + rest }

func TestReads(t *testing.T) {
	b, srv := start(t)
	for _, name := range status.Names() {
		if name == "repairs" {
			continue
		}
		code, v, resp := ask(t, srv, "reader", "GET", Prefix+name, "")
		if code != 200 || v["name"] != name || v["columns"] == nil || v["rows"] == nil {
			t.Errorf("%s: %d %v", name, code, v)
		}
		if resp.Header.Get("X-Content-Type-Options") != "nosniff" || resp.Header.Get("Cache-Control") != "no-store" ||
			!strings.Contains(resp.Header.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
			t.Errorf("%s: headers %v", name, resp.Header)
		}
	}
	for _, c := range []struct {
		path string
		code int
		say  string // in the answer
	}{
		{Prefix + "status", 200, `"question":"Are my collections intact`},
		{Prefix + "box", 200, `"host":"box.example"`},
		{Prefix + "aus", 200, `"name":"Press"`},
		{auPath(""), 500, "disk error"}, // the repairs of this node cannot be read
		{auPath("/urls"), 200, `"url":"http://press.example/2?a=b&c"`},
		{auPath("/urls?limit=1"), 200, `"next":"http://press.example/0?a=b&c"`},
		{auPath("/urls?after=" + url.QueryEscape("http://press.example/1?a=b&c")), 200, `"rows":[{"size":10,"url":"http://press.example/2`},
		{auPath("/versions?url=" + url.QueryEscape("http://press.example/1")), 200, `"version":2`},
		{auPath("/versions?url=nothing"), 404, ""},
		{Prefix + "aus/none", 404, "collection none: not found"},
		{Prefix + "aus/none/urls", 404, ""},
		{Prefix + "crawls?au=" + url.QueryEscape(string(au1)), 200, `"Successful"`},
		{Prefix + "crawls?au=other", 200, `"rows":[]`},
		{Prefix + "crawls/7", 200, `"reason":"404"`},
		{Prefix + "crawls/8", 404, ""},
		{Prefix + "crawls/x", 404, ""},
		{Prefix + "polls/" + url.PathEscape("a/b+c="), 200, `"key":"a/b+c="`},
		{Prefix + "polls/none", 404, ""},
		{Prefix + "aus?limit=0", 400, "limit"},
		{Prefix + "aus?limit=99999999", 400, "limit"},
		{Prefix + "crawls?before=yesterday", 400, "before"},
		{Prefix + "aus?format=xml", 400, "format"},
		{Prefix + "aus?format=csv", 200, "au,name,state"},
		{Prefix + "aus?format=text", 200, "Waiting for poll"},
		{Prefix + "nonsense", 404, ""},
		{Prefix, 404, ""},
	} {
		code, v, _ := ask(t, srv, "reader", "GET", c.path, "")
		var text bytes.Buffer
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(false)
		e.Encode(v)
		if s := text.String(); code != c.code || !strings.Contains(s, c.say) && !strings.Contains(fmt.Sprint(v["text"]), c.say) {
			t.Errorf("%s: got %d %s, want %d with %q", c.path, code, s, c.code, c.say)
		}
		if code >= 400 && v["error"] == "" {
			t.Errorf("%s: an error without text: %v", c.path, v)
		}
	}
	if len(b.did) > 0 || len(b.trail) > 0 {
		t.Errorf("reading did something: %v %v", b.did, b.trail)
	}
}

func TestOneAU(t *testing.T) {
	b := &box{state: status.HealthOK}
	s := b.sources()
	s.Repairs = nil
	accounts, _ := account.New(account.Config{Users: []account.User{{Name: "reader", Password: hashOf1}}})
	h, err := New(Config{Accounts: accounts, Sources: s, Actions: b})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	defer srv.Close()
	code, v, _ := ask(t, srv, "reader", "GET", auPath(""), "")
	if code != 200 || v["au"] != string(au1) || v["urls"] != 3.0 || v["state"] != "Waiting for poll" || len(v["crawls"].([]any)) != 1 {
		t.Errorf("got %d %v", code, v)
	}
}

func TestHealth(t *testing.T) {
	b, srv := start(t)
	for state, want := range map[string]int{status.HealthOK: 200, status.HealthStarting: 200, "failing": 503} {
		b.state = state
		if code, v, _ := ask(t, srv, "", "GET", Prefix+"health", ""); code != want || v["state"] != state || v["reason"] != "because" {
			t.Errorf("%s: got %d %v, want %d", state, code, v, want)
		}
	}
	r := httptest.NewRequest("GET", Prefix+"health", nil) // from 192.0.2.1
	w := httptest.NewRecorder()
	srv.Config.Handler.ServeHTTP(w, r)
	if w.Code != 401 {
		t.Errorf("from elsewhere without login: got %d, want 401", w.Code)
	}
}

func TestNoLogin(t *testing.T) {
	b, srv := start(t)
	for _, path := range append(slices.Clone(status.Names()), "status", "box", "aus/x", "polls/x", "nonsense") {
		code, v, resp := ask(t, srv, "", "GET", Prefix+path, "")
		if code != 401 || v["hint"] == "" || resp.Header.Get("WWW-Authenticate") != `Basic realm="LOCKSS Admin"` {
			t.Errorf("%s: got %d %v", path, code, v)
		}
	}
	for range 5 {
		req, _ := http.NewRequest("GET", srv.URL+Prefix+"aus", nil)
		req.SetBasicAuth("admin", "wrong")
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 401 {
			t.Fatalf("wrong password: got %d", resp.StatusCode)
		}
	}
	if code, _, resp := ask(t, srv, "admin", "GET", Prefix+"aus", ""); code != 429 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("after five wrong passwords: got %d, want 429", code)
	}
	if len(b.did) > 0 {
		t.Errorf("done without login: %v", b.did)
	}
}

func TestChanges(t *testing.T) {
	for _, c := range []struct {
		name, user, method, path, body string
		headers                        []string
		err                            error
		code                           int
		did                            string // "" nothing
		say                            string
	}{
		{"crawl", "admin", "POST", auPath("/crawl"), "", []string{intent}, nil, 202, "crawl " + string(au1), ""},
		{"poll", "admin", "POST", auPath("/poll"), "", []string{intent}, nil, 202, "poll " + string(au1), ""},
		{"add a title", "admin", "POST", Prefix + "aus", `{"title":"T8"}`, []string{intent, asJSON}, nil, 201, "add T8 map[] ", ""},
		{"add by plugin", "admin", "POST", Prefix + "aus", `{"plugin":"org.example.P","params":{"year":"2020"},"disk":"/cache1"}`, []string{intent, asJSON}, nil, 201, "add org.example.P map[year:2020] /cache1", ""},
		{"no intent", "admin", "POST", auPath("/crawl"), "", nil, nil, 403, "", "X-Armarium-Request"},
		{"intent, other origin", "admin", "POST", auPath("/crawl"), "", []string{intent, "Origin: http://evil.example"}, nil, 403, "", ""},
		{"role missing", "reader", "POST", auPath("/crawl"), "", []string{intent}, nil, 403, "", "auAdminRole"},
		{"nobody", "", "POST", auPath("/crawl"), "", []string{intent}, nil, 401, "", ""},
		{"by GET", "admin", "GET", auPath("/crawl"), "", []string{intent}, nil, 404, "", ""},
		{"by PUT", "admin", "PUT", auPath("/crawl"), "", []string{intent}, nil, 404, "", ""},
		{"unknown unit", "admin", "POST", Prefix + "aus/none/crawl", "", []string{intent}, nil, 404, "", ""},
		{"not JSON", "admin", "POST", Prefix + "aus", "title=T8", []string{intent, "Content-Type: application/x-www-form-urlencoded"}, nil, 415, "", ""},
		{"broken JSON", "admin", "POST", Prefix + "aus", `{"title":`, []string{intent, asJSON}, nil, 400, "", ""},
		{"two objects", "admin", "POST", Prefix + "aus", `{"title":"T8"}{}`, []string{intent, asJSON}, nil, 400, "", ""},
		{"unknown field", "admin", "POST", Prefix + "aus", `{"titel":"T8"}`, []string{intent, asJSON}, nil, 400, "", "titel"},
		{"nothing asked for", "admin", "POST", Prefix + "aus", `{}`, []string{intent, asJSON}, nil, 422, "", "title or a plugin"},
		{"too long", "admin", "POST", Prefix + "aus", `{"title":"` + strings.Repeat("x", maxBody) + `"}`, []string{intent, asJSON}, nil, 413, "", ""},
		{"refused", "admin", "POST", auPath("/poll"), "", []string{intent}, fmt.Errorf("never crawled: %w", status.ErrRefused), 422, "poll " + string(au1), "never crawled"},
		{"busy", "admin", "POST", auPath("/poll"), "", []string{intent}, fmt.Errorf("a poll %w", status.ErrBusy), 409, "poll " + string(au1), ""},
		{"fault", "admin", "POST", auPath("/poll"), "", []string{intent}, errors.New("disk"), 500, "poll " + string(au1), "log"},
	} {
		b, srv := start(t)
		b.err = c.err
		code, v, _ := ask(t, srv, c.user, c.method, c.path, c.body, c.headers...)
		if did := strings.Join(b.did, "; "); code != c.code || did != c.did {
			t.Errorf("%s: got %d %v, did %q; want %d, %q", c.name, code, v, did, c.code, c.did)
		}
		if s := fmt.Sprint(v); !strings.Contains(s, c.say) || code >= 400 && v["error"] == nil {
			t.Errorf("%s: answer %s, want %q in it", c.name, s, c.say)
		}
		if c.did == "" && c.code != 400 && c.code != 404 && c.code != 413 && c.code != 415 && c.code != 422 && len(b.trail) > 0 {
			t.Errorf("%s: recorded %v", c.name, b.trail)
		}
		if c.did != "" {
			if len(b.trail) != 1 || b.trail[0].User != "admin from 127.0.0.1" || (b.trail[0].Result == "ok") != (c.err == nil) || b.trail[0].Object == "" {
				t.Errorf("%s: recorded %+v", c.name, b.trail)
			}
		}
		srv.Close()
	}
}

// TestSessionNeedsToken: with the cookie of the pages the token is needed, not the header.
func TestSessionNeedsToken(t *testing.T) {
	b, srv := start(t)
	accounts := srv.Config.Handler.(*service).Accounts
	w := httptest.NewRecorder()
	r := httptest.NewRequest("POST", "/login", nil)
	id, err := accounts.Login(w, r, "admin", "1")
	if err != nil {
		t.Fatal(err)
	}
	cookie := "Cookie: " + w.Result().Cookies()[0].Name + "=" + w.Result().Cookies()[0].Value
	if code, _, _ := ask(t, srv, "", "GET", Prefix+"aus", "", cookie); code != 200 {
		t.Errorf("read: got %d", code)
	}
	if code, _, _ := ask(t, srv, "", "POST", auPath("/crawl"), "", cookie, intent); code != 403 || len(b.did) > 0 {
		t.Errorf("change without token: got %d, did %v", code, b.did)
	}
	if code, _, _ := ask(t, srv, "", "POST", auPath("/crawl"), "", cookie, "X-Csrf-Token: "+id.Token); code != 202 || len(b.did) != 1 {
		t.Errorf("change with token: got %d, did %v", code, b.did)
	}
}
