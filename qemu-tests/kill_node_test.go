package qemutests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"armarium/daemon/lockss"
	"armarium/qemu-tests/world"
)

const killVoters = 3 // the others, which vote and give repairs

// killer is the network, the node that is killed, and what is known of it.
type killer struct {
	t       *testing.T
	rng     *rand.Rand
	kills   int
	nth     int
	ports   world.Plan
	daemon  string
	dir     string
	press   *press
	victim  *world.Process
	book    *book
	late    int // kills whose moment never came: at the end of the crawl or poll
	planned string
	fired   chan struct{} // closed when the node was killed

	asking sync.Mutex // held while the API is asked and the book is written

	mu       sync.Mutex
	killed   bool
	wasLate  bool
	watcher  *fsnotify.Watcher
	triggers []*trigger
}

// trigger waits for the n-th line of the log with a message.
type trigger struct {
	msg string
	n   int
	do  func()
	got chan map[string]string
}

func newKiller(t *testing.T, seed uint64, kills int) *killer {
	k := &killer{t: t, rng: rand.New(rand.NewPCG(seed, 1)), kills: kills, daemon: daemonProgram(t), dir: t.TempDir(), book: newBook()}
	var err error
	if k.ports, err = world.FreePlan("kill", 1+killVoters); err != nil {
		t.Fatal(err)
	}
	k.press = newPress(t, k.ports.PublisherPort)
	jar, trust, err := world.SignedPlugin("unlimited")
	if err != nil {
		t.Fatal(err)
	}
	office, err := world.StartOffice(k.ports.OfficePort, k.ports.RegistryPort)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { office.Stop() })
	registry := fmt.Sprintf("http://%s:%d/plugins/index.html", world.Address, k.ports.RegistryPort)
	var peers []string
	for i := range 1 + killVoters {
		peers = append(peers, k.ports.Identity(i+1))
	}
	// Published parameters, as any network has them; the times are short.
	office.Put("/lockss.xml", world.PropertyFile(map[string]string{
		"org.lockss.id.initialV3PeerList":             strings.Join(peers, ";"),
		"org.lockss.plugin.registries":                registry,
		"org.lockss.plugin.keystore.location":         fmt.Sprintf("http://%s:%d/network.pem", world.Address, k.ports.OfficePort),
		"org.lockss.crawler.starterEnabled":           "false",
		"org.lockss.crawler.retryDelay":               "1s",
		"org.lockss.poll.v3.quorum":                   strconv.Itoa(killVoters),
		"org.lockss.poll.v3.minPollDuration":          "20s",
		"org.lockss.poll.v3.voteDurationPadding":      "10s",
		"org.lockss.poll.v3.tallyDurationPadding":     "10s",
		"org.lockss.poll.v3.receiptPadding":           "2s",
		"org.lockss.poll.v3.extraPollTime":            "5s",
		"org.lockss.poll.v3.voteRequestDelay":         "0",
		"org.lockss.poll.v3.voteMsgPadding":           "1s",
		"org.lockss.poll.v3.timeBetweenInvitations":   "5s",
		"org.lockss.poll.v3.repairFromCachePercent":   "100%",
		"org.lockss.poll.pollStarterInitialDelay":     "1d",
		"org.lockss.scomm.minPeerRetryInterval":       "1s",
		"org.lockss.scomm.retryDelay":                 "1s",
		"org.lockss.scomm.timeout.connect":            "5s",
		"org.lockss.metrics.default.hash.speed":       "4000",
		"org.lockss.repository.diskSpace.warn.freeMB": "1",
	}), time.Now())
	office.Put("/network.pem", trust, time.Now())
	office.Put("/plugins/index.html", world.RegistryPage("Test plugins", "Documentation.jar"), time.Now())
	office.Put("/plugins/Documentation.jar", jar, time.Now())
	t.Cleanup(func() {
		if k.victim != nil {
			k.victim.Kill()
		}
		if t.Failed() {
			b, _ := os.ReadFile(filepath.Join(k.dir, "node1", "daemon.log"))
			t.Logf("the end of the node's log:\n%s", b[max(0, len(b)-6000):])
		}
	})
	return k
}

// patience bounds every wait; a machine that is busy may need much of it.
func (k *killer) patience() context.Context {
	ctx, cancel := context.WithTimeoutCause(k.t.Context(), time.Minute, errors.New("waited a minute"))
	k.t.Cleanup(cancel)
	return ctx
}

func (k *killer) params() map[string]string {
	return map[string]string{"base_url": k.press.base, "directory": "pages"}
}

func (k *killer) id() lockss.AUID { return lockss.NewAUID(world.PluginID, k.params()) }

func (k *killer) service(name string) string {
	return "/api/v1/aus/" + url.PathEscape(string(k.id())) + name
}

func (k *killer) call(method, path string, body any) {
	k.t.Helper()
	if err := k.victim.Call(k.patience(), method, path, body, nil); err != nil {
		k.t.Fatal(err)
	}
}

// home is the directory of node i.
func (k *killer) home(i int) string {
	dir := filepath.Join(k.dir, fmt.Sprintf("node%d", i))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		k.t.Fatal(err)
	}
	return dir
}

// restart starts the node that is killed, on the disk as the kill left it.
func (k *killer) restart() {
	k.t.Helper()
	k.mu.Lock()
	k.triggers, k.killed, k.wasLate, k.fired = nil, false, false, make(chan struct{})
	k.mu.Unlock()
	p, err := k.ports.StartProcess(1, k.daemon, k.home(1), k.line)
	if err != nil {
		k.t.Fatal(err)
	}
	k.victim = p
	if err := p.Healthy(k.patience()); err != nil {
		k.t.Fatal(err)
	}
}

// startVoters starts the other nodes, which collect the site as it is now.
func (k *killer) startVoters() {
	k.t.Helper()
	for i := 2; i <= 1+killVoters; i++ {
		crawled := make(chan string, 1)
		p, err := k.ports.StartProcess(i, k.daemon, k.home(i), func(line string) {
			if a := logFields(line); a["msg"] == "crawl ended" && a["au"] == string(k.id()) {
				crawled <- a["status"]
			}
		})
		if err != nil {
			k.t.Fatal(err)
		}
		k.t.Cleanup(p.Kill)
		ctx := k.patience()
		if err := p.Healthy(ctx); err != nil {
			k.t.Fatal(err)
		}
		add := map[string]any{"plugin": world.PluginID, "params": k.params()}
		if err := p.Call(ctx, http.MethodPost, "/api/v1/aus", add, nil); err != nil {
			k.t.Fatal(err)
		}
		select {
		case s := <-crawled:
			if s != "Successful" {
				k.t.Fatalf("%s: crawl ended as %s", p.Name, s)
			}
		case <-ctx.Done():
			k.t.Fatalf("%s: no crawl ended", p.Name)
		}
	}
}

// line takes a line of the node's log.
func (k *killer) line(text string) {
	a := logFields(text)
	if au := a["au"]; au != "" && au != string(k.id()) {
		return
	}
	var do []func()
	k.mu.Lock()
	for _, g := range k.triggers {
		if g.msg != a["msg"] {
			continue
		}
		if g.n--; g.n == 0 {
			if g.do != nil {
				do = append(do, g.do)
			}
			if g.got != nil {
				g.got <- a
			}
		}
	}
	k.mu.Unlock()
	for _, f := range do {
		f()
	}
}

// onLine has do called at the n-th line with a message.
func (k *killer) onLine(msg string, n int, do func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.triggers = append(k.triggers, &trigger{msg: msg, n: n, do: do})
}

// wait waits for a line with a message that is yet to come or just came.
func (k *killer) wait(msg string) map[string]string {
	k.t.Helper()
	g := &trigger{msg: msg, n: 1, got: make(chan map[string]string, 1)}
	k.mu.Lock()
	k.triggers = append(k.triggers, g)
	k.mu.Unlock()
	ctx := k.patience()
	select {
	case a := <-g.got:
		return a
	case <-ctx.Done():
		k.t.Fatalf("no %q in the log of the node", msg)
		return nil
	}
}

// begin counts a kill.
func (k *killer) begin() { k.nth++ }

func (k *killer) plan(format string, args ...any) { k.planned = fmt.Sprintf(format, args...) }

// fire kills the node.
func (k *killer) fire() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.killed {
		return
	}
	k.killed = true
	syscall.Kill(k.victim.PID(), syscall.SIGKILL) // one that has ended shows in end
	close(k.fired)
}

// fireLate kills the node at the end of what was to be interrupted.
func (k *killer) fireLate() {
	k.mu.Lock()
	k.wasLate = !k.killed
	k.mu.Unlock()
	k.fireAcknowledged()
}

// fireAcknowledged kills the node after it has acknowledged all that it says to have stored.
func (k *killer) fireAcknowledged() {
	k.acknowledge()
	k.fire()
}

// end waits for the kill and looks at what is left.
func (k *killer) end() {
	k.t.Helper()
	ctx := k.patience()
	select {
	case <-k.fired:
	case <-ctx.Done():
		k.t.Fatalf("kill %d (%s): its moment did not come, nor the end of what was to be interrupted", k.nth, k.planned)
	}
	k.press.calm()
	k.mu.Lock()
	w, late := k.watcher, k.wasLate
	k.watcher = nil
	k.mu.Unlock()
	if w != nil {
		w.Close()
	}
	k.victim.Kill()         // takes note of the end
	k.asking.Lock()         // an answer that came just before it still counts
	defer k.asking.Unlock() // what asks from now on finds the node dead
	what := fmt.Sprintf("kill %d of %d: %s", k.nth, k.kills, k.planned)
	if late {
		k.late++
		what += " (did not come; killed at the end)"
	}
	k.inspect(what)
}

// inspect opens a copy of the dead node's tree.
func (k *killer) inspect(what string) {
	k.t.Helper()
	root := copyTree(k.t, k.victim.Disk)
	urls, versions := k.book.check(k.t, root, k.id(), k.press.published)
	if k.t.Failed() {
		k.t.Fatalf("%s: the tree is not as it must be", what)
	}
	if err := os.RemoveAll(root); err != nil {
		k.t.Fatal(err)
	}
	k.t.Logf("%s: %d URLs, %d versions, all as acknowledged", what, urls, versions)
}

// acknowledge notes what the node's API lists. A node that is killed meanwhile has not
// acknowledged anything more.
func (k *killer) acknowledge() {
	k.asking.Lock()
	defer k.asking.Unlock()
	k.mu.Lock()
	dead := k.killed
	k.mu.Unlock()
	if dead {
		return
	}
	var list struct {
		Rows []struct {
			URL, Checksum string
			Version       int
		}
	}
	err := k.victim.Call(k.t.Context(), http.MethodGet, k.service("/urls?limit=10000"), nil, &list)
	if err != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		if !k.killed {
			k.t.Errorf("list of URLs: %v", err)
		}
		return
	}
	for _, r := range list.Rows {
		if old, ok := k.book.acked[r.URL][r.Version]; ok && old != r.Checksum {
			k.t.Errorf("version %d of %s is listed with checksum %s, before with %s", r.Version, r.URL, r.Checksum, old)
		}
		note(k.book.acked, r.URL, r.Version, r.Checksum)
	}
}

// wantSite says whether the node lists the site as the publisher has it now.
func (k *killer) wantSite() {
	k.t.Helper()
	current := k.book.current()
	for i := range k.press.count() {
		path := "pages/" + pageName(i)
		b, _, _ := k.press.body("/docs/" + path)
		u := k.press.base + path
		if got := k.book.acked[u][current[u]]; got != storeSum(b) {
			k.t.Errorf("%s: version %d has checksum %q, the publisher's bytes have %s", u, current[u], got, storeSum(b))
		}
	}
}

// content is the directory of the versions of a page.
func (k *killer) content(page string) string {
	units, err := filepath.Glob(filepath.Join(k.victim.Disk, "cache", "*", fmt.Sprintf("127.0.0.1:%d", k.ports.PublisherPort)))
	if err != nil || len(units) != 1 {
		k.t.Fatalf("directory of the unit: %q, %v", units, err)
	}
	return filepath.Join(units[0], "http", "docs", "pages", page, "#content")
}

// watch kills the node when something in the directory of a page has changed n times.
func (k *killer) watch(page string, n int) {
	w, err := fsnotify.NewWatcher()
	if err == nil {
		err = w.Add(k.content(page))
	}
	if err != nil {
		k.t.Fatal(err)
	}
	k.mu.Lock()
	k.watcher = w
	k.mu.Unlock()
	go func() {
		for range w.Events {
			if n--; n == 0 {
				k.fire()
			}
		}
	}()
}

// damage spoils the current bodies of n pages on the running node's disk: a byte changed,
// the end cut off, emptied, or removed. It returns all pages that are damaged now, with those
// whose repairs the last kills prevented; when these are many it spoils no more.
func (k *killer) damage(n int) (pages []string) {
	k.t.Helper()
	current := k.book.current()
	var whole []string
	for i := range k.press.count() {
		if u := k.press.base + "pages/" + pageName(i); k.book.broken(u, current[u]) {
			pages = append(pages, pageName(i))
		} else {
			whole = append(whole, pageName(i))
		}
	}
	if len(pages) > len(whole) {
		return pages
	}
	k.rng.Shuffle(len(whole), func(a, b int) { whole[a], whole[b] = whole[b], whole[a] })
	for _, page := range whole[:n] {
		u := k.press.base + "pages/" + page
		k.spoil(filepath.Join(k.content(page), "current"), u, current[u])
		pages = append(pages, page)
	}
	return pages
}

// spoil damages one body.
func (k *killer) spoil(file, u string, version int) {
	k.t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		k.t.Fatal(err)
	}
	if storeSum(b) != k.book.acked[u][version] {
		k.t.Fatalf("%s: the body on disk is not that of version %d", u, version)
	}
	at := k.rng.IntN(len(b))
	switch k.rng.IntN(4) {
	case 0:
		b[at] ^= 0x20
		err = os.WriteFile(file, b, 0o644)
	case 1:
		b = b[:at]
		err = os.Truncate(file, int64(at))
	case 2:
		b = b[:0]
		err = os.Truncate(file, 0)
	default:
		b = nil
		err = os.Remove(file)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	sum := ""
	if b != nil {
		sum = storeSum(b)
	}
	note(k.book.damaged, u, version, sum)
}

// summary says how the kills went, and fails when too many missed what they were to hit.
func (k *killer) summary() {
	repaired := 0
	current := k.book.current()
	for u, vs := range k.book.damaged {
		for n := range vs {
			if current[u] > n {
				repaired++
			}
		}
	}
	k.t.Logf("%d kills, %d of them at the end of what they were to interrupt; %d damaged bodies repaired", k.nth, k.late, repaired)
	if k.late > k.nth/2 {
		k.t.Errorf("%d of %d kills came too late to interrupt anything", k.late, k.nth)
	}
	for _, dir := range []string{"cache", "config"} {
		if _, err := os.Stat(filepath.Join(k.victim.Disk, dir)); errors.Is(err, fs.ErrNotExist) {
			k.t.Errorf("%s is gone", dir)
		}
	}
}

// logFields reads a line of the daemon's log: key=value or key="quoted value".
func logFields(line string) map[string]string {
	a := map[string]string{}
	for b := []byte(line); len(b) > 0; b = bytes.TrimLeft(b, " ") {
		key, rest, ok := bytes.Cut(b, []byte("="))
		if !ok {
			break
		}
		value, err := strconv.QuotedPrefix(string(rest))
		if err == nil {
			b = rest[len(value):]
			value, err = strconv.Unquote(value)
		}
		if err != nil {
			var v []byte
			v, b, _ = bytes.Cut(rest, []byte(" "))
			value = string(v)
		}
		a[string(key)] = value
	}
	return a
}
