package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"armarium/daemon/javaprops"
	"armarium/daemon/keystore"
	"armarium/daemon/lockss"
	"armarium/daemon/plugin"
	"armarium/daemon/status"
)

const (
	pressID  = "org.example.press.PressPlugin"
	user     = "admin"
	password = "a password of tests"
	granted  = "<html><head><title>Example Press plugins</title></head><body><p>LOCKSS system has permission to collect, preserve, and serve this Archival Unit</p>"
)

// patience bounds every wait. What is waited for takes milliseconds on an idle machine.
const patience = 30 * time.Second

// until waits for a condition.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// site is a web server whose files a test may change. Each change has a later date.
type site struct {
	URL    string
	server *httptest.Server

	mu    sync.Mutex
	files map[string]siteFile
	stamp time.Time
	asked int
	down  bool
}

type siteFile struct {
	body    []byte
	stamp   time.Time
	handler http.HandlerFunc // instead of a body
}

func newSite(t testing.TB) *site {
	s := &site{files: map[string]siteFile{}, stamp: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
	s.server = httptest.NewServer(s)
	s.URL = s.server.URL
	t.Cleanup(s.server.Close)
	return s
}

func (s *site) put(path, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stamp = s.stamp.Add(time.Second)
	s.files[path] = siteFile{body: []byte(body), stamp: s.stamp}
}

// answer lets a function answer for a path; nil: nobody does.
func (s *site) answer(path string, h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h == nil {
		delete(s.files, path)
		return
	}
	s.files[path] = siteFile{handler: h}
}

// setDown makes the server drop every connection, or work again.
func (s *site) setDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// requests counts all of them.
func (s *site) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked++
	f, ok := s.files[r.URL.Path]
	down := s.down
	s.mu.Unlock()
	switch {
	case down:
		if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
			c.Close()
		}
	case !ok:
		http.NotFound(w, r)
	case f.handler != nil:
		f.handler(w, r)
	default:
		http.ServeContent(w, r, r.URL.Path, f.stamp, bytes.NewReader(f.body))
	}
}

// stall gives a handler that sends the beginning of a body and then nothing until release.
func stall(t testing.TB) (h http.HandlerFunc, reached <-chan struct{}, release func()) {
	in, out := make(chan struct{}), make(chan struct{})
	var once, end sync.Once
	release = func() { end.Do(func() { close(out) }) }
	t.Cleanup(release)
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Content-Length", "20")
		w.Write([]byte("<p>0123"))
		w.(http.Flusher).Flush()
		once.Do(func() { close(in) })
		select {
		case <-out:
			w.Write([]byte("456789abcdef."))
		case <-r.Context().Done():
		}
	}, in, release
}

// world is what is outside of the nodes: a publisher, and the office of a network with its
// property file, keystore, title list and plugin registry.
type world struct {
	t      testing.TB
	press  *site
	office *site
	key    *keystore.KeyPair
	params map[string]string
	nodes  []*member
}

// pages of the publisher's volume v1, beside its start page.
var pages = []string{"a.html", "b.html", "c.html", "d.html", "e/f.html", "picture.png"}

func newWorld(t testing.TB) *world {
	w := &world{t: t, press: newSite(t), office: newSite(t), key: newKey(t, "Example Network")}
	w.press.put("/lockss.html", granted+`<a href="v1/index.html">v1</a></body></html>`)
	w.press.put("/v1/index.html", "<html><body>"+strings.Join(links(pages), "\n")+"</body></html>")
	for _, p := range pages {
		w.press.put("/v1/"+p, body(p, 1))
	}
	w.office.put("/keystore", trustFile(w.key))
	w.office.put("/titles.xml", propertyFile(map[string]string{
		"org.lockss.title.v1.title": "Volume One", "org.lockss.title.v1.plugin": pressID, "org.lockss.title.v1.journalTitle": "Example Press",
		"org.lockss.title.v1.param.1.key": "base_url", "org.lockss.title.v1.param.1.value": w.press.URL + "/",
		"org.lockss.title.v1.param.2.key": "volume", "org.lockss.title.v1.param.2.value": "v1",
	}))
	w.registry(map[string][]byte{"press.jar": pressJar(t, w.key, "1")})
	w.params = map[string]string{
		"org.lockss.plugin.registries":                              w.office.URL + "/plugins/index.html",
		"org.lockss.plugin.keystore.location":                       w.office.URL + "/keystore",
		"org.lockss.titleDbs":                                       "titles.xml",
		"org.lockss.bindAddrs":                                      "127.0.0.1",
		"org.lockss.scomm.bindToLocalIpOnly":                        "true",
		"org.lockss.proxy.audit.start":                              "true",
		"org.lockss.crawler.startCrawlsInitialDelay":                "1h",
		"org.lockss.crawler.newContentStartRate":                    "unlimited",
		"org.lockss.crawler.maxRetryCount":                          "1",
		"org.lockss.plugin.registries.fetchRate":                    "unlimited",
		"org.lockss.repository.diskSpace.warn.freeMB":               "0",
		"org.lockss.repository.diskSpace.warn.freePercent":          "0",
		"org.lockss.repository.diskSpace.full.freeMB":               "0",
		"org.lockss.repository.diskSpace.full.freePercent":          "0",
		"org.lockss.poll.v3.quorum":                                 "3",
		"org.lockss.poll.v3.minPollDuration":                        "1s",
		"org.lockss.poll.v3.voteDurationPadding":                    "20s",
		"org.lockss.poll.v3.tallyDurationPadding":                   "20s",
		"org.lockss.poll.v3.receiptPadding":                         "5s",
		"org.lockss.poll.v3.voteRequestDelay":                       "0",
		"org.lockss.poll.v3.voteMsgPadding":                         "1s",
		"org.lockss.poll.v3.repairFromCachePercent":                 "100%",
		"org.lockss.poll.pollStarterInitialDelay":                   "1d",
		"org.lockss.scomm.minPeerRetryInterval":                     "50ms",
		"org.lockss.scomm.retryDelay":                               "50ms",
		"org.lockss.metrics.default.hash.speed":                     "100000",
		"org.lockss.plugin.load.timeout":                            "20s",
		"org.lockss.crawler.maxPluginRegistryNewContentRate":        "unlimited",
		"org.lockss.poll.v3.voteRetryIntervalDurationCurve":         "[1s,1s],[1d,1s]",
		"org.lockss.id.initialV3PeerList":                           "",
		"org.lockss.proxy.includeLockssAuditProperties":             "true",
		"org.lockss.config.reloadInterval":                          "1d",
		"org.lockss.poll.v3.timeBetweenInvitations":                 "2s",
		"org.lockss.creativeCommonsPermission.validLicenseVersions": "4.0",
	}
	return w
}

func links(names []string) []string {
	var out []string
	for _, p := range names {
		out = append(out, fmt.Sprintf(`<a href="%s">%s</a>`, p, p))
	}
	return out
}

// body of a page in one of its editions.
func body(page string, edition int) string {
	if strings.HasSuffix(page, ".png") {
		return strings.Repeat(fmt.Sprintf("\x89PNG\x00%s %d", page, edition), 5000)
	}
	return fmt.Sprintf("<html><body>%s, edition %d</body></html>", page, edition)
}

func newKey(t testing.TB, name string) *keystore.KeyPair {
	t.Helper()
	k, err := keystore.NewKeyPair("signer", keystore.Subject{Name: name}, keystore.ECP256, time.Now().Add(-time.Hour), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// trustFile is a keystore that trusts these signers.
func trustFile(keys ...*keystore.KeyPair) string {
	var entries []keystore.Entry
	for _, k := range keys {
		entries = append(entries, keystore.Entry{Cert: k.Cert()})
	}
	return string(keystore.EncodeTrustPEM(entries))
}

func sha(s string) []byte { d := sha256.Sum256([]byte(s)); return d[:] }

// pressJar is a signed archive with the publisher's plugin.
func pressJar(t testing.TB, key *keystore.KeyPair, version string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/PressPlugin.xml")
	if err != nil {
		t.Fatal(err)
	}
	src := fstest.MapFS{"org/example/press/PressPlugin.xml": {Data: bytes.Replace(b, []byte("VERSION"), []byte(version), 1)}}
	jar, err := plugin.PackJar(src, []string{pressID})
	if err == nil {
		jar, err = plugin.SignJar(jar, key)
	}
	if err != nil {
		t.Fatal(err)
	}
	return jar
}

// registry publishes these archives, and no others.
func (w *world) registry(jars map[string][]byte) {
	names := slices.Sorted(maps.Keys(jars))
	w.office.put("/plugins/index.html", granted+strings.Join(links(names), "\n")+"</body></html>")
	for _, n := range names {
		w.office.put("/plugins/"+n, string(jars[n]))
	}
}

// propertyFile is a configuration in the property server's format.
func propertyFile(params map[string]string) string {
	var b bytes.Buffer
	b.WriteString("<lockss-config>\n")
	for _, name := range slices.Sorted(maps.Keys(params)) {
		b.WriteString("<property name=\"")
		xml.EscapeText(&b, []byte(name))
		b.WriteString("\" value=\"")
		xml.EscapeText(&b, []byte(params[name]))
		b.WriteString("\"/>\n")
	}
	b.WriteString("</lockss-config>\n")
	return b.String()
}

// publish puts the network's parameters on the property server.
func (w *world) publish() { w.office.put("/lockss.xml", propertyFile(w.params)) }

// nextPort is where the search for a free port goes on: below those that the system gives to
// outgoing connections, so that a port stays free while its node is stopped.
var nextPort atomic.Int32

func freePort(t testing.TB) int {
	t.Helper()
	nextPort.CompareAndSwap(0, int32(15000+os.Getpid()%100*100))
	for range 1000 {
		port := int(nextPort.Add(1))
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// logText is the log of a node.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// member is one node and its operator.
type member struct {
	t         testing.TB
	w         *world
	dir       string
	id        lockss.PeerID
	lcap      int
	ui, audit string // host:port
	disks     []string
	local     map[string]string // more parameters of local.txt
	props     []string          // configuration before local.txt; nil: the property server
	platform  string
	log       *logText

	cancel context.CancelFunc
	done   chan error
}

// add makes a node that is not started yet.
func (w *world) add() *member {
	dir := w.t.TempDir()
	lcap := freePort(w.t)
	m := &member{t: w.t, w: w, dir: dir, lcap: lcap, id: lockss.PeerID(fmt.Sprintf("TCP:[127.0.0.1]:%d", lcap)),
		ui: fmt.Sprintf("127.0.0.1:%d", freePort(w.t)), audit: fmt.Sprintf("127.0.0.1:%d", freePort(w.t)),
		disks: []string{filepath.Join(dir, "gamma")}, local: map[string]string{}}
	w.nodes = append(w.nodes, m)
	var ids []string
	for _, n := range w.nodes {
		ids = append(ids, string(n.id))
	}
	w.params["org.lockss.id.initialV3PeerList"] = strings.Join(ids, ";")
	w.publish()
	w.t.Cleanup(m.kill)
	return m
}

// disk is the first disk.
func (m *member) disk() string { return m.disks[0] }

// writeLocal writes the platform file.
func (m *member) writeLocal() {
	m.t.Helper()
	port := func(addr string) string { _, p, _ := net.SplitHostPort(addr); return p }
	props := map[string]string{
		"org.lockss.platform.localIPAddress": "127.0.0.1", "org.lockss.platform.v3.identity": string(m.id),
		"org.lockss.platform.diskSpacePaths": strings.Join(m.disks, ";"), "org.lockss.platform.fqdn": "node.example",
		"org.lockss.platform.version": "Appliance-1", "org.lockss.platform.accesssubnet": "127.0.0.0/8",
		"org.lockss.platform.ui.username": user, "org.lockss.platform.ui.password": fmt.Sprintf("SHA-256:%x", sha(password)),
		"org.lockss.ui.port": port(m.ui), "org.lockss.proxy.audit.port": port(m.audit), "org.lockss.ui.bindAddrs": "127.0.0.1",
	}
	maps.Copy(props, m.local)
	text := javaprops.Append(nil, nil, props)
	tmp := filepath.Join(m.dir, "local.new")
	err := os.WriteFile(tmp, text, 0o600)
	if err == nil {
		err = os.Rename(tmp, filepath.Join(m.dir, "local.txt"))
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// run starts the node without waiting for it.
func (m *member) run() {
	m.t.Helper()
	m.writeLocal()
	m.log = &logText{}
	urls := m.props
	if urls == nil {
		urls = []string{m.w.office.URL + "/lockss.xml"}
	}
	opt := Options{URLs: append(slices.Clone(urls), filepath.Join(m.dir, "local.txt")), Groups: []string{"test"}, Platform: m.platform,
		Log: slog.New(slog.NewTextHandler(m.log, nil))}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel, m.done = cancel, make(chan error, 1)
	go func(done chan error) { done <- Run(ctx, opt) }(m.done)
}

// start starts the node and waits until it is well.
func (m *member) start() {
	m.t.Helper()
	m.run()
	until(m.t, "a healthy node", func() bool {
		select {
		case err := <-m.done:
			m.t.Fatalf("the node ended: %v", err)
		default:
		}
		h, err := m.health()
		return err == nil && h.State == status.HealthOK
	})
}

func (m *member) health() (h status.Health, err error) {
	_, b, err := m.call("GET", "health", nil)
	if err == nil {
		err = json.Unmarshal(b, &h)
	}
	return h, err
}

// stop stops the node in order, which must not take long.
func (m *member) stop() {
	m.t.Helper()
	m.cancel()
	select {
	case err := <-m.done:
		if !errors.Is(err, context.Canceled) {
			m.t.Errorf("the node ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		m.t.Fatal("the node did not stop within 10 s")
	}
	m.done = nil
}

// kill stops a node that is left running at the end of a test, and shows the log of one that
// failed.
func (m *member) kill() {
	if m.done != nil {
		m.cancel()
		<-m.done
	}
	if m.t.Failed() && m.log != nil {
		m.t.Logf("log of %s:\n%s", m.id, m.log)
	}
}

// restart stops and starts the node.
func (m *member) restart() {
	m.t.Helper()
	m.stop()
	m.start()
}

func (m *member) logged(text string) bool { return strings.Contains(m.log.String(), text) }

// call makes one request of the API as the administrator.
func (m *member) call(method, path string, body any) (code int, answer []byte, err error) {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		payload = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, "http://"+m.ui+"/api/v1/"+path, payload)
	if err != nil {
		return 0, nil, err
	}
	req.SetBasicAuth(user, password)
	if method != "GET" {
		req.Header.Set("X-Armarium-Request", "1")
		req.Header.Set("Content-Type", "application/json")
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := c.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}

// get reads something of the API.
func (m *member) get(path string, v any) {
	m.t.Helper()
	code, b, err := m.call("GET", path, nil)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%d %s", code, b)
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		m.t.Fatalf("GET %s: %v", path, err)
	}
}

// post asks for something and wants this code.
func (m *member) post(path string, body any, want int) string {
	m.t.Helper()
	code, b, err := m.call("POST", path, body)
	if err != nil || code != want {
		m.t.Fatalf("POST %s: %d %s %v, want %d", path, code, b, err, want)
	}
	return string(b)
}

// row is a row of a table.
type row map[string]any

func (r row) text(column string) string {
	if v, ok := r[column]; ok {
		return fmt.Sprint(v)
	}
	return ""
}

func (m *member) table(path string) []row {
	m.t.Helper()
	var t struct{ Rows []row }
	m.get(path, &t)
	return t.Rows
}

// find gives the first row with this text in a column, or nil.
func (m *member) find(path, column, text string) row {
	m.t.Helper()
	rows := m.table(path)
	if i := slices.IndexFunc(rows, func(r row) bool { return strings.Contains(r.text(column), text) }); i >= 0 {
		return rows[i]
	}
	return nil
}

func (m *member) box() (b status.BoxRow) {
	m.t.Helper()
	m.get("box", &b)
	return b
}

// unit is what the API says of one collection.
type unit struct {
	status.AURow
	Crawls  []status.CrawlRow
	Polls   []status.PollRow
	Repairs []status.RepairRow
}

func (w *world) au() lockss.AUID {
	return lockss.NewAUID(pressID, map[string]string{"base_url": w.press.URL + "/", "volume": "v1"})
}

func (w *world) registryAU() lockss.AUID {
	return lockss.NewAUID(plugin.RegistryPluginID, map[string]string{"base_url": w.office.URL + "/plugins/index.html"})
}

func (m *member) unit(id lockss.AUID) (u unit) {
	m.t.Helper()
	m.get("aus/"+url.PathEscape(string(id)), &u)
	return u
}

// crawl asks for a crawl of a unit and waits until it has ended.
func (m *member) crawl(id lockss.AUID) status.CrawlRow {
	m.t.Helper()
	before := len(ended(m.unit(id).Crawls))
	m.post("aus/"+url.PathEscape(string(id))+"/crawl", nil, http.StatusAccepted)
	return m.crawled(id, before)
}

// crawled waits until more than so many crawls have ended, and gives the last with failures.
func (m *member) crawled(id lockss.AUID, before int) (c status.CrawlRow) {
	m.t.Helper()
	var list []status.CrawlRow
	until(m.t, "the end of a crawl", func() bool { list = ended(m.unit(id).Crawls); return len(list) > before })
	m.get(fmt.Sprint("crawls/", list[0].ID), &c)
	return c
}

func ended(list []status.CrawlRow) []status.CrawlRow {
	return slices.DeleteFunc(list, func(c status.CrawlRow) bool { return c.Running })
}

// collect adds the collection by its title and waits for a good crawl.
func (m *member) collect() lockss.AUID {
	m.t.Helper()
	var a struct{ AU lockss.AUID }
	if err := json.Unmarshal([]byte(m.post("aus", map[string]string{"title": "v1"}, http.StatusCreated)), &a); err != nil {
		m.t.Fatal(err)
	}
	if c := m.crawled(a.AU, 0); !c.OK {
		m.t.Fatalf("first crawl: %+v", c)
	}
	return a.AU
}

// poll calls a poll and waits for its end.
func (m *member) poll(id lockss.AUID) status.PollRow {
	m.t.Helper()
	return m.pollEnded(m.callPoll(id))
}

// callPoll calls a poll and gives its key.
func (m *member) callPoll(id lockss.AUID) (key string) {
	m.t.Helper()
	before := m.unit(id).Polls
	until(m.t, "the end of the poll before", func() bool {
		code, b, err := m.call("POST", "aus/"+url.PathEscape(string(id))+"/poll", nil)
		if err != nil || code != http.StatusAccepted && code != http.StatusConflict {
			m.t.Fatalf("ask for a poll: %d %s %v", code, b, err)
		}
		return code == http.StatusAccepted
	})
	until(m.t, "a poll", func() bool {
		for _, p := range m.unit(id).Polls {
			if !slices.ContainsFunc(before, func(o status.PollRow) bool { return o.Key == p.Key }) {
				key = p.Key
			}
		}
		return key != ""
	})
	return key
}

func (m *member) pollNow(key string) (p status.PollRow) {
	m.t.Helper()
	m.get("polls/"+url.PathEscape(key), &p)
	return p
}

func (m *member) pollEnded(key string) (p status.PollRow) {
	m.t.Helper()
	until(m.t, "the end of a poll", func() bool { p = m.pollNow(key); return !p.Running && !p.Ended.IsZero() })
	return p
}

// participant finds a peer in a poll.
func participant(p status.PollRow, id lockss.PeerID) status.ParticipantRow {
	for _, q := range p.Participants {
		if q.Peer == id {
			return q
		}
	}
	return status.ParticipantRow{}
}

// read asks the audit proxy for a URL.
func (m *member) read(rawURL string) (code int, text string) {
	m.t.Helper()
	proxy := &url.URL{Scheme: "http", Host: m.audit}
	c := http.Client{Transport: &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return proxy, nil }, DisableKeepAlives: true}, Timeout: patience}
	resp, err := c.Get(rawURL)
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// wantPages checks that the audit proxy gives these editions of pages.
func (m *member) wantPages(editions map[string]int) {
	m.t.Helper()
	for page, edition := range editions {
		if code, text := m.read(m.w.press.URL + "/v1/" + page); code != http.StatusOK || text != body(page, edition) {
			m.t.Errorf("%s: %d %.80q, want edition %d", page, code, text, edition)
		}
	}
}

// node finds the directory of a preserved page on the first disk that has it.
func (m *member) node(page string) string {
	m.t.Helper()
	for _, d := range m.disks {
		if found, _ := filepath.Glob(filepath.Join(d, "cache", "*", "*", "http", "v1", filepath.FromSlash(page))); len(found) > 0 {
			return found[0]
		}
	}
	m.t.Fatalf("%s is on no disk", page)
	return ""
}
