package node

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"armarium/daemon/lockss"
	"armarium/daemon/poll"
	"armarium/daemon/status"
)

// network starts nodes that all have the collection.
func (w *world) network(n int) (lockss.AUID, []*member) {
	w.t.Helper()
	var nodes []*member
	for range n {
		nodes = append(nodes, w.add())
	}
	for _, m := range nodes {
		m.run()
	}
	for _, m := range nodes {
		until(w.t, "a healthy node", func() bool { h, err := m.health(); return err == nil && h.State == status.HealthOK })
		m.collect()
	}
	return w.au(), nodes
}

// damage does to three pages what disks do: one has other bytes, one has no bytes, one is
// gone with its directory.
func (m *member) damage(altered, emptied, removed string) {
	m.t.Helper()
	for _, err := range []error{
		os.WriteFile(filepath.Join(m.node(altered), "#content", "current"), []byte("<html>not what it was</html>"), 0o644),
		os.Remove(filepath.Join(m.node(emptied), "#content", "current")),
		os.RemoveAll(m.node(removed)),
	} {
		if err != nil {
			m.t.Fatal(err)
		}
	}
}

// wantWhole checks that a poll finds all in order.
func (m *member) wantWhole(id lockss.AUID) {
	m.t.Helper()
	p := m.poll(id)
	if p.Status != "Complete" || p.Agreement != 1 || p.Won != p.URLs || p.URLs != len(pages)+2 || p.Repairs != 0 {
		m.t.Errorf("poll: %s", show(p))
	}
	if u := m.unit(id); u.Damaged != 0 || u.Undecided != 0 || u.Agreement != 1 {
		m.t.Errorf("after the poll: damaged %d, undecided %d, agreement %v", u.Damaged, u.Undecided, u.Agreement)
	}
}

// wantRepaired checks that a poll finds three damaged pages and repairs them from peers.
func (m *member) wantRepaired(id lockss.AUID, damaged ...string) {
	m.t.Helper()
	p := m.poll(id)
	if p.Status != "Complete" || p.Voters != 3 || p.Repairs != len(damaged) || p.Lost != 0 || p.Agreement != 1 || len(p.Damage) != len(damaged) {
		m.t.Errorf("poll: %s", show(p))
	}
	for _, d := range p.Damage {
		if (d.Result != "LOST" && d.Result != "LOST_VOTER_ONLY") || d.Repair != "verified" || d.After != "WON" || d.From == "" {
			m.t.Errorf("damage: %+v", d)
		}
	}
	editions := map[string]int{}
	for _, page := range damaged {
		editions[page] = 1
		r := m.find("repairs", "url", "/v1/"+page)
		if r == nil || r.text("result") != status.RepairVerified || r.text("poll") != p.Key {
			m.t.Errorf("repair of %s: %v", page, r)
		}
	}
	m.wantPages(editions)
}

func show(v any) string { b, _ := json.Marshal(v); return string(b) }

func TestDamageIsRepaired(t *testing.T) {
	w := newWorld(t)
	id, nodes := w.network(4)
	w.press.server.Close() // from here on the nodes have each other only
	for _, m := range nodes {
		m.wantWhole(id)
	}
	m := nodes[0]

	m.damage("a.html", "picture.png", "e/f.html")
	m.wantRepaired(id, "a.html", "picture.png", "e/f.html")
	m.wantWhole(id)
	// What the disk made of the page is kept as a version of its own.
	kept, err := os.ReadFile(filepath.Join(m.node("a.html"), "#content", "1"))
	if err != nil || !bytes.Contains(kept, []byte("not what it was")) {
		t.Errorf("the damaged version: %q, %v", kept, err)
	}

	var agreements, crawls, polls, repairs []row
	tables := func() {
		agreements, crawls, polls, repairs = m.table("agreements"), m.table("crawls"), m.table("polls"), m.table("repairs")
	}
	tables()
	before := show([][]row{agreements, crawls, polls, repairs})
	if len(agreements) != 3 || len(crawls) != 2 || len(polls) != 3 || len(repairs) != 3 {
		t.Errorf("%d agreements, %d crawls, %d polls, %d repairs", len(agreements), len(crawls), len(polls), len(repairs))
	}
	for _, r := range agreements {
		if r.text("last") != "1" || r.text("highest") != "1" || r.text("hint") != "1" || r.text("repairs") != "true" {
			t.Errorf("agreement: %v", r)
		}
	}
	m.stop()
	m.damage("b.html", "c.html", "d.html")
	m.start()
	tables()
	if after := show([][]row{agreements, crawls, polls, repairs}); after != before {
		t.Errorf("before the restart\n%s\nafter\n%s", before, after)
	}
	m.wantRepaired(id, "b.html", "c.html", "d.html")
	m.wantWhole(id)
	if n := len(m.table("repairs")); n != 6 {
		t.Errorf("%d repairs in the journal, want 6", n)
	}

	// A peer that was away finds its way back.
	nodes[1].restart()
	nodes[1].wantWhole(id)

	// Damage that nobody repairs is said to be there, also after the next start.
	m.local["org.lockss.poll.v3.maxRepairs"] = "1"
	m.restart()
	m.damage("a.html", "b.html", "c.html")
	if p := m.poll(id); p.Repairs != 1 || p.Lost != 2 {
		t.Errorf("poll with one repair: %s", show(p))
	}
	for range 2 {
		if u := m.unit(id); u.Damaged != 2 || u.State() != "Damaged" {
			t.Errorf("%d URLs damaged, state %s; want the 2 that were not repaired", u.Damaged, u.State())
		}
		m.restart()
	}
}

// A vote waits for the end of a crawl; one that would come too late is refused for want of
// time.
func TestVoteWhileCrawling(t *testing.T) {
	w := newWorld(t)
	id, nodes := w.network(4)
	caller, voter := nodes[0], nodes[1]
	crawling := func() func() {
		t.Helper()
		slow, reached, release := stall(t)
		w.press.answer("/v1/c.html", slow)
		voter.post("aus/"+url.PathEscape(string(id))+"/crawl", nil, http.StatusAccepted)
		<-reached
		w.press.put("/v1/c.html", body("c.html", 1))
		if !voter.unit(id).Crawling {
			t.Error("the voter does not say that it is crawling")
		}
		return release
	}
	othersVoted := func(p status.PollRow) bool {
		n := 0
		for _, q := range p.Participants {
			if q.Peer != voter.id && !q.Voted.IsZero() {
				n++
			}
		}
		return n == 2
	}
	vote := func(key string) row {
		t.Helper()
		for _, r := range voter.table("votes") {
			if r.text("key") == key {
				return r
			}
		}
		return row{}
	}

	before := len(ended(voter.unit(id).Crawls))
	release := crawling()
	key := caller.callPoll(id)
	until(t, "the votes of the others", func() bool {
		p := caller.pollNow(key)
		return p.Running && othersVoted(p) && participant(p, voter.id).Status == "Waiting for Vote"
	})
	if v := vote(key); v.text("status") != "Hashing" || v.text("urls") != "0" {
		t.Errorf("the voter hashes what it is crawling: %v", v)
	}
	release()
	if c := voter.crawled(id, before); c.Status == "" {
		t.Errorf("crawl: %+v", c)
	}
	p := caller.pollEnded(key)
	if q := participant(p, voter.id); p.Status != "Complete" || p.Voters != 3 || q.Status != "Complete" || q.Agree < len(pages)+1 {
		t.Errorf("poll: %s", show(p))
	}
	// What stalled has come with other bytes, which the vote had already: the crawl was over.
	if q := participant(p, voter.id); q.Agree+q.Disagree != len(pages)+2 {
		t.Errorf("the voter's vote: %+v", q)
	}

	// The next vote has no time. The shorter polls take effect without a restart.
	caller.local["org.lockss.poll.v3.voteDurationPadding"] = "5s"
	caller.local["org.lockss.poll.v3.tallyDurationPadding"] = "20s"
	caller.writeLocal()
	until(t, "the shorter vote", func() bool {
		for _, r := range caller.table("config?limit=1000") {
			if r.text("name") == "org.lockss.poll.v3.voteDurationPadding" {
				return r.text("value") == "5s"
			}
		}
		return false
	})
	if c := voter.crawl(id); !c.OK {
		t.Fatalf("crawl: %+v", c)
	}
	release = crawling()
	key = caller.callPoll(id)
	p = caller.pollEnded(key)
	q := participant(p, voter.id)
	if q.Status != "Dropped Out" || q.Reason == "" || !strings.Contains(p.Sentence, q.Reason) {
		t.Errorf("the poller was not told: %s", show(p))
	}
	if got := q.Reason; !strings.Contains(strings.ToLower(got), "busy") {
		t.Errorf("the voter refused because of %q, want lack of time", got)
	}
	if p.Status != poll.EndedNoQuorum.String() || !othersVoted(p) {
		t.Errorf("poll: %s", show(p))
	}
	if v := vote(key); v.text("status") != poll.VoteNoTime.String() {
		t.Errorf("vote: %v", v)
	}
	if !voter.unit(id).Crawling {
		t.Error("the crawl was ended")
	}
	release()
	caller.wantVoters(id, 3)
}

// wantVoters checks that so many peers vote.
func (m *member) wantVoters(id lockss.AUID, n int) {
	m.t.Helper()
	if p := m.poll(id); p.Voters != n {
		m.t.Errorf("%d voters, want %d: %s", p.Voters, n, show(p))
	}
}
