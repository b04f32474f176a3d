package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"armarium/daemon/au"
	"armarium/daemon/javaprops"
	"armarium/daemon/status"
)

// From nothing to a page that is read after its publisher is gone.
func TestFirstStart(t *testing.T) {
	w := newWorld(t)
	m := w.add()
	m.start()

	if p := m.find("plugins", "id", pressID); p == nil || p.text("version") != "1" || !strings.Contains(p.text("signer"), "Example Network") || p.text("fault") != "" {
		t.Errorf("plugin: %v", p)
	}
	if r := m.find("titles", "key", "v1"); r == nil || r.text("au") != string(w.au()) || r.text("added") != "false" || r.text("problem") != "" {
		t.Errorf("title: %v", r)
	}
	if code, text := m.read(w.press.URL + "/v1/a.html"); code != http.StatusNotFound {
		t.Errorf("before there is a collection the audit proxy says %d %s", code, text)
	}
	id := m.collect()
	if id != w.au() {
		t.Errorf("added %s, want %s", id, w.au())
	}
	m.post("aus", map[string]string{"title": "v1"}, http.StatusConflict)
	if text := m.post("aus", map[string]any{"plugin": pressID, "params": map[string]string{"volume": "v2"}}, http.StatusUnprocessableEntity); !strings.Contains(text, "base_url") {
		t.Errorf("a collection without base_url is refused with %s", text)
	}
	text, err := os.ReadFile(filepath.Join(m.disk(), "config", auFile))
	if err != nil {
		t.Fatal(err)
	}
	props, err := javaprops.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	entries, errs := au.Entries(props)
	if len(errs) > 0 || len(entries) != 1 || entries[0].ID != id || entries[0].Root != "local:"+m.disk() || entries[0].Name != "Volume One" || entries[0].Disabled {
		t.Errorf("au.txt: %+v, %v\n%s", entries, errs, text)
	}

	asked := w.press.requests()
	m.wantPages(map[string]int{"a.html": 1, "e/f.html": 1, "picture.png": 1})
	w.press.put("/v1/none.html", "new")
	if code, _ := m.read(w.press.URL + "/v1/none.html"); code != http.StatusNotFound {
		t.Errorf("what is not preserved: %d", code)
	}
	if n := w.press.requests(); n != asked {
		t.Errorf("the publisher was asked %d times by the audit proxy", n-asked)
	}
	w.press.server.Close()
	m.wantPages(map[string]int{"d.html": 1})
	testPages(t, m)
	testDoor(t, m)

	var before unit
	until(t, "the poll that was asked for", func() bool { before = m.unit(id); return before.PollResult != "" && !before.Polling })
	m.restart()
	after := m.unit(id)
	if before.URLs != len(pages)+2 {
		t.Errorf("%d URLs, want the pages, the start page and the permission page", before.URLs)
	}
	for _, u := range []*unit{&before, &after} { // on disk are milliseconds
		u.Created = time.Time{}
		for _, at := range []*time.Time{&u.Crawled, &u.CrawlAttempt, &u.PollAttempt} {
			*at = at.Truncate(time.Millisecond)
		}
	}
	a, _ := json.Marshal(before)
	b, _ := json.Marshal(after)
	if string(a) != string(b) {
		t.Errorf("before the restart\n%s\nafter\n%s", a, b)
	}
	m.wantPages(map[string]int{"b.html": 1})
	if r := m.find("actions", "what", "added collection"); r == nil || !strings.HasPrefix(r.text("user"), user+" from 127.0.0.1") {
		t.Errorf("audit trail: %v", m.table("actions"))
	}
}

var tokenField = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

// testPages logs in as a person does and asks for a crawl with and without the token.
func testPages(t *testing.T, m *member) {
	jar, _ := cookiejar.New(nil)
	c := http.Client{Jar: jar, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	do := func(method, path string, form url.Values) (int, string) {
		t.Helper()
		req, _ := http.NewRequest(method, "http://"+m.ui+path, strings.NewReader(form.Encode()))
		req.Header.Set("Accept", "text/html")
		if form != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, resp.Header.Get("Location") + string(b)
	}
	if code, text := do("GET", "/collections", nil); code != http.StatusSeeOther || !strings.Contains(text, "/login") {
		t.Errorf("without login: %d %s", code, text)
	}
	if code, _ := do("POST", "/login", url.Values{"user": {user}, "password": {"wrong"}}); code == http.StatusSeeOther {
		t.Error("logged in with a wrong password")
	}
	if code, text := do("POST", "/login", url.Values{"user": {user}, "password": {password}}); code != http.StatusSeeOther {
		t.Fatalf("login: %d %s", code, text)
	}
	for _, path := range []string{"/", "/collections", "/crawls", "/polls", "/votes", "/peers", "/repairs", "/disks", "/titles", "/plugins", "/settings", "/actions"} {
		if code, text := do("GET", path, nil); code != http.StatusOK || !strings.Contains(text, "</html>") {
			t.Errorf("%s: %d", path, code)
		}
	}
	page := "/collection?id=" + url.QueryEscape(string(m.w.au()))
	_, text := do("GET", page, nil)
	token := tokenField.FindStringSubmatch(text)
	if token == nil || !strings.Contains(text, "Example Press v1") {
		t.Fatalf("page of the collection:\n%s", text)
	}
	form := url.Values{"id": {string(m.w.au())}}
	if code, _ := do("POST", "/collection/poll", form); code != http.StatusForbidden {
		t.Errorf("form without token: %d", code)
	}
	form.Set("csrf", token[1])
	if code, text := do("POST", "/collection/poll", form); code != http.StatusSeeOther {
		t.Errorf("form with token: %d %s", code, text)
	}
}

// testDoor asks the API without what it takes.
func testDoor(t *testing.T, m *member) {
	for _, c := range []struct {
		name, method, user, header string
		want                       int
	}{
		{"no login", "GET", "", "", http.StatusUnauthorized},
		{"login", "GET", user, "", http.StatusOK},
		{"change without login", "POST", "", "1", http.StatusUnauthorized},
		{"change without header", "POST", user, "", http.StatusForbidden},
		{"wrong name", "GET", "somebody", "", http.StatusUnauthorized},
	} {
		req, _ := http.NewRequest(c.method, "http://"+m.ui+"/api/v1/aus", strings.NewReader(`{"title":"v1"}`))
		req.Header.Set("Content-Type", "application/json")
		if c.user != "" {
			req.SetBasicAuth(c.user, password)
		}
		if c.header != "" {
			req.Header.Set("X-Armarium-Request", c.header)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s: %d, want %d", c.name, resp.StatusCode, c.want)
		}
	}
}

// Archives that are not rightly signed are refused and said to be; a good one is taken then.
func TestPluginArchives(t *testing.T) {
	w := newWorld(t)
	good := pressJar(t, w.key, "1")
	damaged := append([]byte(nil), good...)
	damaged[bytes.LastIndex(damaged, []byte("PK\x03\x04"))+200] ^= 1 // in the definition, the last file of the archive
	w.registry(map[string][]byte{"press.jar": damaged})
	m := w.add()
	m.start()
	refused := func(text string) {
		t.Helper()
		until(t, "the archive to be refused", func() bool {
			p := m.find("plugins", "name", "press.jar")
			return p != nil && strings.Contains(p.text("fault"), text)
		})
		if r := m.find("titles", "key", "v1"); !strings.Contains(r.text("problem"), "press.jar was refused") || !strings.Contains(r.text("problem"), text) {
			t.Errorf("title: %v", r)
		}
		if !m.logged("plugin archive refused") {
			t.Error("the log does not say so")
		}
	}
	refused("org/example/press/PressPlugin.xml: damaged")
	if text := m.post("aus", map[string]string{"title": "v1"}, http.StatusNotFound); !strings.Contains(text, "press.jar was refused") {
		t.Errorf("adding it: %s", text)
	}

	w.registry(map[string][]byte{"press.jar": pressJar(t, newKey(t, "Somebody Else"), "1")})
	if c := m.crawl(w.registryAU()); !c.OK {
		t.Fatalf("crawl of the registry: %+v", c)
	}
	refused("signed by CN=Somebody Else")

	w.registry(map[string][]byte{"press.jar": good})
	m.crawl(w.registryAU())
	loaded := func(version string) {
		t.Helper()
		until(t, "version "+version, func() bool {
			p := m.find("plugins", "id", pressID)
			return p != nil && p.text("version") == version
		})
	}
	loaded("1")
	if p := m.find("plugins", "name", "press.jar"); p != nil {
		t.Errorf("still refused: %v", p)
	}
	id := m.collect()

	// A newer one takes the place of the older one, an older one never does.
	w.registry(map[string][]byte{"press.jar": good, "new.jar": pressJar(t, w.key, "2")})
	m.crawl(w.registryAU())
	until(t, "the collection to have the new plugin", func() bool { return m.unit(id).PluginVersion == "2" })
	if p := m.find("plugins", "id", pressID); p.text("version") != "2" || p.text("aus") != "1" || !strings.HasSuffix(p.text("origin"), "/new.jar") {
		t.Errorf("plugin: %v", p)
	}
	w.registry(map[string][]byte{"press.jar": good, "new.jar": pressJar(t, w.key, "2"), "old.jar": pressJar(t, w.key, "1-x")})
	m.crawl(w.registryAU())
	until(t, "the older plugin to be passed over", func() bool { return m.logged("older plugin passed over") })
	loaded("2")
	m.restart()
	loaded("2")
	if u := m.unit(id); u.PluginVersion != "2" || u.Fault != "" {
		t.Errorf("after a restart: version %s, %s", u.PluginVersion, u.Fault)
	}

	// A key that the office adds counts without a restart.
	other := newKey(t, "Second Signer")
	w.office.put("/keystore", trustFile(w.key, other))
	w.registry(map[string][]byte{"press.jar": good, "third.jar": pressJar(t, other, "3")})
	m.crawl(w.registryAU())
	loaded("3")
}

// A node whose property server is down has its plugins, from a copy of the keystore.
func TestKeystoreCopy(t *testing.T) {
	w := newWorld(t)
	m := w.add()
	// The configuration itself is a local file: no copy of it is kept.
	m.props = []string{filepath.Join(m.dir, "lockss.xml"), filepath.Join(m.dir, "titles.txt")}
	w.params["org.lockss.titleDbs"] = w.office.URL + "/titles.xml"
	if err := os.WriteFile(m.props[0], []byte(propertyFile(w.params)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.props[1], nil, 0o644); err != nil {
		t.Fatal(err)
	}
	w.office.setDown(true)
	m.run()
	until(t, "the fault to be said", func() bool {
		var box status.BoxRow
		if code, b, err := m.call("GET", "box", nil); err != nil || code != http.StatusOK || json.Unmarshal(b, &box) != nil {
			return false
		}
		return strings.Contains(box.ConfigFault, "plugin keystore") && strings.Contains(box.ConfigFault, "/titles.xml")
	})
	m.stop()
	w.office.setDown(false)
	m.start()
	id := m.collect()
	m.stop()
	w.office.setDown(true)
	m.start()
	if p := m.find("plugins", "id", pressID); p == nil || p.text("version") != "1" {
		t.Errorf("plugins: %v", m.table("plugins"))
	}
	if u := m.unit(id); u.Fault != "" || u.PluginVersion != "1" {
		t.Errorf("collection: version %q, fault %q", u.PluginVersion, u.Fault)
	}
	if !m.logged("its last good copy is used") {
		t.Error("the log does not say that a copy is used")
	}
	m.wantPages(map[string]int{"a.html": 1})
}

// A configuration that does not load is waited for, and the port of the pages says why.
func TestSyntaxErrorAtTheStart(t *testing.T) {
	w := newWorld(t)
	m := w.add()
	w.office.put("/lockss.xml", "<lockss-config>\n<property name=\"a\" value=\"b\"/>\n<property nam=\"c\"/>\n</lockss-config>")
	m.run()
	want := "/lockss.xml: line 3: <property> without a name"
	until(t, "the fault in the log", func() bool { return m.logged(want) })
	until(t, "a health that tells of it", func() bool {
		h, err := m.health()
		return err == nil && h.State == status.HealthStarting && strings.Contains(h.Reason, want)
	})
	resp, err := http.Get("http://" + m.ui + "/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("page without login: %d", resp.StatusCode)
	}
	req, _ := http.NewRequest("GET", "http://"+m.ui+"/", nil)
	req.SetBasicAuth(user, password)
	if resp, err = http.DefaultClient.Do(req); err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(text), "line 3") || !strings.Contains(string(text), "node.example") {
		t.Errorf("page: %d %s", resp.StatusCode, text)
	}
	w.publish()
	until(t, "the mended file to be taken up", func() bool {
		h, err := m.health()
		return err == nil && h.State == status.HealthOK
	})
	m.stop()
}

// What is wrong with the configuration is said, what can change changes, and the rest is named.
func TestReconfiguration(t *testing.T) {
	w := newWorld(t)
	w.params["org.lockss.poll.v3.qorum"] = "3"
	w.params["org.lockss.poll.maxPollersSleep"] = "soon"
	m := w.add()
	m.start()
	config := func(name string) row {
		t.Helper()
		for _, r := range m.table("config?limit=1000") {
			if r.text("name") == name {
				return r
			}
		}
		t.Fatalf("no parameter %s", name)
		return nil
	}
	if r := config("org.lockss.poll.v3.qorum"); !strings.Contains(r.text("note"), "unknown parameter") || !strings.Contains(r.text("origin"), "/lockss.xml") {
		t.Errorf("unknown parameter: %v", r)
	}
	if r := config("org.lockss.poll.maxPollersSleep"); !strings.Contains(r.text("note"), `the default "10m" is used`) {
		t.Errorf("unusable parameter: %v", r)
	}
	if r := config("org.lockss.platform.ui.password"); strings.Contains(fmt.Sprint(r), "SHA-256") {
		t.Errorf("a secret is shown: %v", r)
	}
	if !m.logged("name=org.lockss.poll.v3.qorum") || !m.logged("name=org.lockss.poll.maxPollersSleep") {
		t.Error("the log does not name what cannot be used")
	}

	delete(w.params, "org.lockss.poll.v3.qorum")
	w.params["org.lockss.poll.v3.quorum"] = "4"
	w.params["org.lockss.crawler.maxCrawlDepth"] = "7"
	w.params["org.lockss.ui.users.staff.user"] = "staff"
	w.params["org.lockss.ui.users.staff.password"] = "SHA1:5ebe2294ecd0e0f08eab7690d2a6ee69" // too short
	w.params["org.lockss.ui.users.two.user"] = "two"
	w.params["org.lockss.ui.users.two.password"] = "SHA-256:" + fmt.Sprintf("%x", sha(password))
	w.publish()
	m.writeLocal() // a change of a local file makes it look at all files
	until(t, "the new quorum", func() bool { return m.box().Quorum == 4 })
	until(t, "the names of parameters that wait", func() bool {
		return m.logged(`take effect at the next start only" names=org.lockss.crawler.maxCrawlDepth`)
	})
	if r := config("org.lockss.crawler.maxCrawlDepth"); r.text("value") != "7" || !strings.Contains(r.text("note"), `next start; until then "1000"`) {
		t.Errorf("parameter that waits: %v", r)
	}
	until(t, "the account that cannot be used in the log", func() bool { return m.logged("user staff cannot log in") })
	login := func(name string) int {
		t.Helper()
		req, _ := http.NewRequest("GET", "http://"+m.ui+"/api/v1/box", nil)
		req.SetBasicAuth(name, password)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	until(t, "the account of the network", func() bool { return login("two") == http.StatusOK })

	// An au.txt that is broken by hand drops no collection, is told of, and not written over.
	id := m.collect()
	file := filepath.Join(m.disk(), "config", auFile)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(whole[:len(whole):len(whole)], "x=\\u1\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	until(t, "the fault of au.txt", func() bool { return strings.Contains(m.box().ConfigFault, auFile) })
	if u := m.unit(id); u.Fault != "" {
		t.Errorf("the collection: %s", u.Fault)
	}
	params := map[string]any{"plugin": pressID, "params": map[string]string{"base_url": w.press.URL + "/", "volume": "v2"}}
	if text := m.post("aus", params, http.StatusInternalServerError); !strings.Contains(text, auFile) {
		t.Errorf("adding to a broken au.txt: %s", text)
	}
	if err := os.WriteFile(file, whole, 0o644); err != nil {
		t.Fatal(err)
	}
	until(t, "au.txt to be whole again", func() bool { return m.box().ConfigFault == "" })
	m.post("aus", params, http.StatusCreated)
	if n := len(m.table("aus")); n != 3 {
		t.Errorf("%d collections, want two and the registry", n)
	}
}

// Pages do not hang on a PID 1 that is not there or does not answer.
func TestWithoutPlatform(t *testing.T) {
	w := newWorld(t)
	m := w.add()
	m.platform = filepath.Join(m.dir, "init.sock")
	m.start()
	ask := func() status.BoxRow {
		t.Helper()
		began := time.Now()
		box := m.box()
		m.table("disks")
		if d := time.Since(began); d > 4*time.Second {
			t.Errorf("the answers took %v", d)
		}
		return box
	}
	if box := ask(); !box.Alarm || !strings.Contains(box.Sentence, "does not answer") {
		t.Errorf("box: %+v", box)
	}
	l, err := net.Listen("unix", m.platform)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	until(t, "an answer of its own", func() bool { return strings.Contains(ask().Sentence, "timeout") })
	m.stop()
}
