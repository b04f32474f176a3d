package node

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"armarium/daemon/journal"
	"armarium/daemon/lockss"
	"armarium/daemon/platform"
	"armarium/daemon/poll"
	"armarium/daemon/status"
)

// What a publisher does not give, or not whole, is listed and costs nothing that is stored.
func TestFailingPublisher(t *testing.T) {
	w := newWorld(t)
	w.params["org.lockss.crawler.timeout.data"] = "300ms"
	m := w.add()
	m.start()
	id := m.collect()
	for _, p := range pages {
		w.press.put("/v1/"+p, body(p, 2))
	}
	w.press.answer("/v1/a.html", func(rw http.ResponseWriter, r *http.Request) {
		http.Error(rw, "broken", http.StatusInternalServerError)
	})
	w.press.answer("/v1/b.html", nil) // 404
	slow, _, release := stall(t)
	w.press.answer("/v1/c.html", slow)
	w.press.answer("/v1/d.html", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Length", "1000")
		rw.Write([]byte("<html>too short"))
	})
	c := m.crawl(id)
	if c.OK || c.Status != "Fetch error" || c.Errors != 4 || len(c.Failures) != 4 {
		t.Errorf("crawl: %+v", c)
	}
	for page, reason := range map[string]string{"a.html": "500", "b.html": "404", "c.html": "timeout", "d.html": "ended before its Content-Length"} {
		if !slices.ContainsFunc(c.Failures, func(f status.CrawlFailure) bool {
			return strings.HasSuffix(f.URL, "/v1/"+page) && strings.Contains(f.Reason, reason)
		}) {
			t.Errorf("%s is not listed with %q: %+v", page, reason, c.Failures)
		}
	}
	release()
	m.wantPages(map[string]int{"a.html": 1, "b.html": 1, "c.html": 1, "d.html": 1, "e/f.html": 2, "picture.png": 2})
	if u := m.unit(id); !u.CrawlFailed || u.CrawlResult != "Fetch error" || u.URLs != len(pages)+2 || u.Versions != u.URLs+2 {
		t.Errorf("collection: %+v", u.AURow)
	}

	w.press.put("/lockss.html", "<html><body>nothing is permitted any more</body></html>")
	if c := m.crawl(id); c.OK || c.Status != "No permission from publisher" || c.Fetched != 0 {
		t.Errorf("crawl without permission: %+v", c)
	}
	w.press.setDown(true)
	if c := m.crawl(id); c.OK || c.Status != "Fetch error" || !strings.Contains(c.Message, "permission page") {
		t.Errorf("crawl without publisher: %+v", c)
	}
	m.wantPages(map[string]int{"a.html": 1, "e/f.html": 2})

	w.press.setDown(false)
	w.press.put("/lockss.html", granted)
	for _, p := range pages {
		w.press.put("/v1/"+p, body(p, 3))
	}
	if c := m.crawl(id); !c.OK || len(c.Failures) > 0 {
		t.Errorf("crawl when all is well again: %+v", c)
	}
	m.wantPages(map[string]int{"a.html": 3, "c.html": 3, "picture.png": 3})
}

// A stop in the middle of a crawl and of a poll is quick, and the next start tells of both.
func TestStopInTheMiddle(t *testing.T) {
	w := newWorld(t)
	m := w.add()
	w.add() // a peer that is never started
	m.start()
	id := m.collect()
	slow, reached, _ := stall(t)
	w.press.answer("/v1/b.html", slow)
	m.post("aus/"+url.PathEscape(string(id))+"/crawl", nil, http.StatusAccepted)
	<-reached
	key := m.callPoll(id)
	if p := m.pollNow(key); !p.Running || p.Status != poll.Inviting.String() {
		t.Errorf("poll: %s", show(p))
	}
	began := time.Now()
	m.stop()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("the stop took %v", d)
	}

	// A run that ended without warning leaves its poll behind as running.
	crashed := journal.Poll{Key: "crashed", AU: id, Role: string(poll.RolePoller), Peer: m.id, Started: time.Now(), Agreement: -1}
	j, err := journal.Open(filepath.Join(m.disk(), "node.db"))
	if err == nil {
		err = j.AddPoll(crashed)
	}
	if err == nil {
		err = j.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	m.start()
	u := m.unit(id)
	if u.CrawlResult != "Interrupted by daemon exit" || !u.CrawlFailed || u.Crawling || u.Crawls[0].Status != "Interrupted by daemon exit" {
		t.Errorf("crawl: %s, %+v", u.CrawlResult, u.Crawls[0])
	}
	if p := m.pollNow(key); p.Running || p.Status != poll.Aborted.String() || !strings.Contains(p.Sentence, "the node stops") {
		t.Errorf("poll: %s", show(p))
	}
	if p := m.pollNow("crashed"); p.Running || p.Status != "Interrupted" || p.Ended.IsZero() || p.Sentence == "" {
		t.Errorf("poll of a crash: %s", show(p))
	}
	if !m.logged("polls cut short by the last stop") {
		t.Error("the log does not tell of the poll that was cut short")
	}
	m.stop()

	// Nor does a crawl of such a run pass for one that goes on.
	state := filepath.Join(u.Dir, "#au_state.xml")
	b, err := os.ReadFile(state)
	if err == nil {
		err = os.WriteFile(state, bytes.Replace(b, []byte("<lastCrawlResult>11<"), []byte("<lastCrawlResult>2<"), 1), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	m.start()
	if u := m.unit(id); u.CrawlResult != "Interrupted by daemon exit" || !u.CrawlFailed || u.Crawling {
		t.Errorf("crawl of a crash: %s", u.CrawlResult)
	}
	w.press.put("/v1/b.html", body("b.html", 2))
	if c := m.crawl(id); !c.OK {
		t.Errorf("crawl after the restart: %+v", c)
	}
	m.wantPages(map[string]int{"b.html": 2})
}

// A poll is in the journal from its first invitation on, so that a crash can be told of.
func TestRunningPollIsKept(t *testing.T) {
	w := newWorld(t)
	m := w.add()
	w.add()
	m.start()
	key := m.callPoll(m.collect())
	j, err := journal.Open(filepath.Join(m.disk(), "node.db")) // beside the node's own
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	list, err := j.RunningPolls()
	if err != nil || len(list) != 1 || list[0].Key != key || list[0].Peer != m.id {
		t.Errorf("running polls: %+v, %v", list, err)
	}
}

// A disk that is away or no disk at all is told of where it matters.
func TestMissingDisk(t *testing.T) {
	w := newWorld(t)
	m := w.add()
	missing := filepath.Join(m.dir, "cache1", "gamma")
	m.disks = append(m.disks, missing)
	m.start()
	if r := m.find("disks", "path", missing); r == nil || r.text("state") != platform.DiskMissing || !strings.Contains(r.text("fault"), "check that the disk is mounted") {
		t.Errorf("disk: %v", r)
	}
	if h, err := m.health(); err != nil || !strings.Contains(h.Reason, missing) {
		t.Errorf("health: %+v, %v", h, err)
	}
	for disk, want := range map[string]string{missing: "check that the disk is mounted", "/nowhere": "not one of this node's disks"} {
		if text := m.post("aus", map[string]string{"title": "v1", "disk": disk}, http.StatusUnprocessableEntity); !strings.Contains(text, want) {
			t.Errorf("adding on %s: %s", disk, text)
		}
	}
	if u := m.unit(m.collect()); u.Disk != m.disk() {
		t.Errorf("the collection is on %s", u.Disk)
	}
	m.stop()

	m.disks = []string{missing}
	m.run()
	select {
	case err := <-m.done:
		if err == nil || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), "check that the disk is mounted") {
			t.Errorf("the node ended with %v", err)
		}
	case <-time.After(patience):
		t.Error("the node runs without a disk")
	}
	m.done = nil
}

// smallDisk mounts a disk of so many bytes, or skips the test where that is not allowed.
func smallDisk(t *testing.T, size string) string {
	dir := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("no small disk can be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A disk that is full stops crawls on it, with its name, and costs nothing that is stored.
func TestFullAndReadOnlyDisk(t *testing.T) {
	small := smallDisk(t, "1m")
	w := newWorld(t)
	m := w.add()
	m.disks = append(m.disks, small)
	m.start()
	m.post("aus", map[string]string{"title": "v1", "disk": small}, http.StatusCreated)
	id := w.au()
	if c := m.crawled(id, 0); !c.OK {
		t.Fatalf("first crawl: %+v", c)
	}
	if u := m.unit(id); u.Disk != small {
		t.Fatalf("the collection is on %s", u.Disk)
	}
	w.press.put("/v1/picture.png", strings.Repeat("a picture that is too large", 100_000))
	c := m.crawl(id)
	if c.OK || c.Status != "Repository error" || !strings.Contains(c.Message, "the disk is full: add a disk") || !strings.Contains(c.Message, small) {
		t.Errorf("crawl on a full disk: %+v", c)
	}
	m.wantPages(map[string]int{"a.html": 1, "picture.png": 1})

	// By its limits the disk is full before that: nothing new is begun on it.
	m.local["org.lockss.repository.diskSpace.full.freeMB"] = "2"
	m.disks[0], m.disks[1] = m.disks[1], m.disks[0]
	m.restart()
	if r := m.find("disks", "path", small); r.text("level") != status.DiskFull {
		t.Errorf("disk: %v", r)
	}
	if text := m.post("aus/"+url.PathEscape(string(id))+"/crawl", nil, http.StatusUnprocessableEntity); !strings.Contains(text, small+" is full") {
		t.Errorf("crawl on a full disk: %s", text)
	}
	params := map[string]any{"plugin": pressID, "params": map[string]string{"base_url": w.press.URL + "/", "volume": "v2"}}
	m.post("aus", params, http.StatusCreated)
	second := lockss.NewAUID(pressID, params["params"].(map[string]string))
	if u := m.unit(second); u.Disk != m.disks[1] {
		t.Errorf("the second collection is on %s, want the disk that has space", u.Disk)
	}

	delete(m.local, "org.lockss.repository.diskSpace.full.freeMB")
	if err := syscall.Mount("", small, "", syscall.MS_REMOUNT, "size=4m"); err != nil {
		t.Fatal(err)
	}
	m.restart()
	if c = m.crawl(id); !c.OK {
		t.Errorf("crawl with space: %+v", c)
	}

	// One that refuses writes is not used, which the disk and its collection say.
	m.stop()
	if err := syscall.Mount("", small, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	m.start()
	if r := m.find("disks", "path", small); !strings.Contains(r.text("fault"), "read-only") {
		t.Errorf("disk: %v", r)
	}
	if u := m.unit(id); !strings.Contains(u.Fault, "read-only") || u.State() != "Not in service" {
		t.Errorf("collection: %+v", u.AURow)
	}
	if u := m.unit(second); u.Fault != "" {
		t.Errorf("collection on the other disk: %s", u.Fault)
	}
	m.stop()
}

// A port that is taken, or a configuration without an identity, ends the start with its name.
func TestStartFaults(t *testing.T) {
	w := newWorld(t)
	taken := w.add()
	taken.start()
	for _, c := range []struct {
		name   string
		change func(m *member)
		want   string
	}{
		{"port of the pages", func(m *member) { m.ui = taken.ui }, "pages: listen tcp " + taken.ui},
		{"port of the proxy", func(m *member) { m.audit = taken.audit }, "audit proxy: listen tcp " + taken.audit},
		{"port of the peers", func(m *member) { m.id = taken.id }, "listen for peers as " + string(taken.id)},
		{"identity", func(m *member) { m.id = "here" }, "set org.lockss.platform.v3.identity"},
		{"the disk of another node", func(m *member) { m.disks = taken.disks }, "another node uses this disk"},
		{"no disk", func(m *member) { m.disks = nil }, "set org.lockss.platform.diskSpacePaths"},
	} {
		m := w.add()
		c.change(m)
		m.run()
		select {
		case err := <-m.done:
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: the node ended with %v", c.name, err)
			}
		case <-time.After(patience):
			t.Errorf("%s: the node runs", c.name)
		}
		m.done = nil
	}
	if err := Run(context.Background(), Options{}); err == nil {
		t.Error("a node without configuration runs")
	}
}
