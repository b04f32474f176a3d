package status

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// healthy is a node of which everything is known and nothing is wrong.
func healthy() node {
	return node{
		box:   BoxRow{Host: "box", Started: now.Add(-48 * time.Hour), Quorum: 2, PollEvery: 7 * 24 * time.Hour, Polling: true, Crawling: true},
		disks: []DiskRow{{Path: "/cache0", State: DiskOK, Total: 1 << 40, Free: 1 << 39, Level: DiskOK}},
		aus: []AURow{
			{AU: "p&a", Name: "Journal A", URLs: 10, Bytes: 1000, Crawled: now.Add(-24 * time.Hour), Polled: now.Add(-12 * time.Hour), Agreement: 1, AgreeingPeers: 3},
			{AU: "p&b", Name: "Journal B", URLs: 10, Bytes: 1000, Crawled: now.Add(-24 * time.Hour), Polled: now.Add(-6 * time.Hour), Agreement: 1, AgreeingPeers: 3},
			{AU: "r&x", Name: "Plugin registry", Internal: true, URLs: 1, Crawled: now.Add(-24 * time.Hour), Agreement: None},
		},
		peers: []PeerRow{
			{Peer: "TCP:[192.0.2.1]:9729", Configured: true, LastMessage: now.Add(-time.Hour)},
			{Peer: "TCP:[192.0.2.2]:9729", Configured: true, LastMessage: now.Add(-time.Hour)},
		},
		polls: []PollRow{{Key: "k1", AU: "p&b", Name: "Journal B", Started: now.Add(-7 * time.Hour), Ended: now.Add(-6 * time.Hour), Status: "Complete", Agreement: 1}},
	}
}

type node struct {
	box     BoxRow
	disks   []DiskRow
	aus     []AURow
	peers   []PeerRow
	polls   []PollRow
	repairs []RepairRow
	err     error
}

func (n *node) sources() Sources {
	return Sources{
		Health:  func() Health { return Health{State: HealthOK} },
		Box:     func() BoxRow { return n.box },
		Disks:   func() []DiskRow { return n.disks },
		AUs:     func() []AURow { return n.aus },
		Peers:   func() []PeerRow { return n.peers },
		Polls:   func(Query) ([]PollRow, error) { return n.polls, n.err },
		Repairs: func(Query) ([]RepairRow, error) { return n.repairs, n.err },
	}
}

func TestSummary(t *testing.T) {
	fixed := RepairRow{AU: "p&a", Name: "Journal A", URL: "http://press.example/1", From: "TCP:[192.0.2.1]:9729", At: now.Add(-time.Hour), Result: RepairVerified}
	failed := RepairRow{AU: "p&a", Name: "Journal A", URL: "http://press.example/1", At: now.Add(-2 * time.Hour), Result: RepairFailed, Reason: "no source"}
	for _, c := range []struct {
		name   string
		change func(*node)
		want   [3]Verdict // intact, network, repairs
		say    string     // in a sentence or evidence
	}{
		{"all well", func(n *node) {}, [3]Verdict{Good, Good, Good}, "All 2 collections are here, and the other nodes confirm them."},
		{"one collection", func(n *node) { n.aus = n.aus[:1] }, [3]Verdict{Good, Good, Good}, "The one collection is here"},
		{"no collection", func(n *node) { n.aus = nil }, [3]Verdict{Attention, Good, Good}, "no collection has been added"},
		{"never crawled", func(n *node) { n.aus[0] = AURow{AU: "p&a", Name: "Journal A", Agreement: None} }, [3]Verdict{Attention, Good, Good}, "Not collected yet: Journal A"},
		{"first crawl failed", func(n *node) {
			n.aus[0] = AURow{AU: "p&a", Name: "Journal A", CrawlFailed: true, CrawlResult: "No permission from publisher"}
		}, [3]Verdict{Attention, Good, Good}, "the last crawl failed: No permission from publisher"},
		{"never polled", func(n *node) { n.aus[0].Polled = time.Time{} }, [3]Verdict{Attention, Good, Good}, "nobody has confirmed this copy"},
		{"no quorum", func(n *node) { n.aus[0].NoQuorum = true }, [3]Verdict{Attention, Good, Good}, "No quorum: Journal A"},
		{"no quorum ever", func(n *node) { n.aus[0].NoQuorum, n.aus[0].Polled = true, time.Time{} }, [3]Verdict{Attention, Good, Good}, "nobody has confirmed this copy"},
		{"damage", func(n *node) { n.aus[1].Damaged = 3 }, [3]Verdict{Bad, Good, Good}, "Damaged: Journal B (3 URLs differ from the other copies and are not repaired)."},
		{"undecided", func(n *node) { n.aus[1].Undecided = 1 }, [3]Verdict{Attention, Good, Good}, "1 URL the last poll could not decide"},
		{"poll overdue", func(n *node) { n.aus[0].Polled = now.Add(-15 * 24 * time.Hour) }, [3]Verdict{Attention, Good, Good}, "Poll overdue: Journal A"},
		{"alone", func(n *node) { n.aus[0].AgreeingPeers = 0 }, [3]Verdict{Attention, Good, Good}, "No other copy is known"},
		{"not in service", func(n *node) { n.aus[0].Fault = "plugin missing" }, [3]Verdict{Bad, Good, Good}, "plugin missing"},
		{"disk missing", func(n *node) { n.disks[0].State = "missing" }, [3]Verdict{Bad, Good, Good}, "Disk /cache0: missing"},
		{"disk low", func(n *node) { n.disks[0].Level = DiskLow }, [3]Verdict{Attention, Good, Good}, "but something needs a look"},
		{"no disks", func(n *node) { n.disks = nil }, [3]Verdict{Attention, Good, Good}, "Nothing is known about the disks"},
		{"box alarm", func(n *node) { n.box.Alarm, n.box.Todo = true, []string{"Flip the write lock."} }, [3]Verdict{Bad, Good, Good}, "Flip the write lock."},
		{"old configuration", func(n *node) { n.box.ConfigFault = "server not reached" }, [3]Verdict{Attention, Good, Good}, "server not reached"},
		{"no peers", func(n *node) { n.peers = nil }, [3]Verdict{Good, Bad, Good}, "No peer is known"},
		{"peers silent", func(n *node) { n.peers[0].LastMessage, n.peers[1].LastMessage = time.Time{}, time.Time{} }, [3]Verdict{Good, Bad, Good}, "None of the 2 known peers"},
		{"peers silent, just started", func(n *node) {
			n.peers[0].LastMessage, n.peers[1].LastMessage = time.Time{}, time.Time{}
			n.box.Started = now.Add(-10 * time.Minute)
		}, [3]Verdict{Good, Attention, Good}, "in the 10m0s since the start"},
		{"too few peers", func(n *node) { n.box.Quorum = 5 }, [3]Verdict{Good, Attention, Good}, "a poll needs 5 votes"},
		{"quorum unknown", func(n *node) { n.box.Quorum = 0 }, [3]Verdict{Good, Attention, Good}, "is not known"},
		{"polls off", func(n *node) { n.box.Polling = false }, [3]Verdict{Good, Attention, Good}, "switched off"},
		{"no poll yet", func(n *node) { n.polls = nil }, [3]Verdict{Good, Attention, Attention}, "not known whether polls work"},
		{"first poll running", func(n *node) { n.polls[0].Running = true }, [3]Verdict{Good, Attention, Attention}, "The first poll is running"},
		{"last poll without quorum", func(n *node) { n.polls[0].Status = "No Quorum" }, [3]Verdict{Good, Attention, Attention}, "with: No Quorum"},
		{"histories unreadable", func(n *node) { n.err = errors.New("disk error") }, [3]Verdict{Good, Attention, Attention}, "the history of repairs cannot be read"},
		{"repaired", func(n *node) { n.repairs = []RepairRow{fixed} }, [3]Verdict{Good, Good, Good}, "Yes, once, and polls confirmed it"},
		{"repaired at last", func(n *node) { n.repairs = []RepairRow{fixed, failed} }, [3]Verdict{Good, Good, Good}, "Yes, once, and polls confirmed it"},
		{"failed since", func(n *node) { n.repairs = []RepairRow{failed, fixed} }, [3]Verdict{Good, Good, Attention}, "not everything could be put right"},
		{"failed only", func(n *node) { n.repairs = []RepairRow{failed} }, [3]Verdict{Good, Good, Attention}, "none was confirmed"},
	} {
		n := healthy()
		c.change(&n)
		sum := n.sources().Summary(now)
		var got [3]Verdict
		var text strings.Builder
		for i, a := range sum.Answers {
			got[i] = a.Verdict
			fmt.Fprintf(&text, "%s\n  %s: %s\n", a.Question, a.Verdict, a.Sentence)
			for _, e := range a.Evidence {
				fmt.Fprintf(&text, "    %s: %s\n", e.Verdict, e.Text)
			}
		}
		if got != c.want || !strings.Contains(text.String(), c.say) {
			t.Errorf("%s: got %v, want %v and %q in:\n%s", c.name, got, c.want, c.say, text.String())
		}
		for _, a := range sum.Answers {
			if a.Sentence == "" || len(a.Evidence) == 0 {
				t.Errorf("%s: %s: no sentence or no evidence:\n%s", c.name, a.Question, text.String())
			}
		}
	}
}

// TestSummaryKnowsNothing: a node that gives nothing is nowhere called good.
func TestSummaryKnowsNothing(t *testing.T) {
	sum := Sources{}.Summary(now)
	for _, a := range sum.Answers {
		if a.Verdict == Good || a.Sentence == "" {
			t.Errorf("%s: %s: %q", a.Question, a.Verdict, a.Sentence)
		}
	}
	if sum.Health.State == HealthOK || sum.Verdict == Good {
		t.Errorf("health %+v, verdict %s", sum.Health, sum.Verdict)
	}
}

// TestSummaryStarting: while the daemon starts, nothing is good as a whole.
func TestSummaryStarting(t *testing.T) {
	n := healthy()
	s := n.sources()
	s.Health = func() Health { return Health{State: HealthStarting, Reason: "opening disks"} }
	if sum := s.Summary(now); sum.Verdict == Good {
		t.Error("a starting node is called good")
	}
}

func TestSummaryOfMany(t *testing.T) {
	n := healthy()
	n.aus = nil
	for i := range 1000 {
		n.aus = append(n.aus, AURow{AU: "p&", Name: fmt.Sprint("Volume ", i), Damaged: 1})
	}
	a := n.sources().Summary(now).Answers[0]
	if len(a.Evidence) > 20 || a.Verdict != Bad {
		t.Errorf("%d pieces of evidence, verdict %s", len(a.Evidence), a.Verdict)
	}
}

func TestTables(t *testing.T) {
	n := healthy()
	s := n.sources()
	for _, name := range Names() {
		tab, err := s.Table(name, Params{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if tab.Name != name || tab.Title == "" || len(tab.Columns) == 0 || tab.Rows == nil {
			t.Errorf("%s: %+v", name, tab)
		}
	}
	for name := range keyedTables {
		if _, err := s.Table(name, Params{Key: "none"}); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s of a node without any: %v, want ErrNotFound", name, err)
		}
	}
	if _, err := s.Table("nonsense", Params{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown table: %v, want ErrNotFound", err)
	}
}

// TestTableForms: the same table as JSON, text and CSV.
func TestTableForms(t *testing.T) {
	n := healthy()
	n.aus = n.aus[:2]
	n.aus[0] = AURow{AU: "p&a", Name: "The Journal 10\x1b[2J", URLs: Unknown, Bytes: Unknown, Agreement: None}
	n.aus[1].Name, n.aus[1].Agreement = "Journal 9", 0.99999
	tab, err := n.sources().Table("aus", Params{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(tab)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Name    string
		Columns []struct{ Name, Title, Type string }
		Rows    []map[string]any
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Rows) != 2 || got.Rows[0]["name"] != "Journal 9" {
		t.Fatalf("rows are not in catalogue order: %s", b)
	}
	if got.Rows[0]["agreement"] != 0.99999 || got.Rows[0]["polled"] != "2026-11-21T06:00:00Z" {
		t.Errorf("raw values: %v", got.Rows[0])
	}
	for _, absent := range []string{"urls", "bytes", "agreement", "crawled", "polled"} {
		if v, ok := got.Rows[1][absent]; ok {
			t.Errorf("%s of a collection of which nothing is known: %v", absent, v)
		}
	}
	var text, csv bytes.Buffer
	tab.WriteText(&text)
	tab.WriteCSV(&csv)
	if !strings.Contains(text.String(), "99.99%") || strings.Contains(text.String(), "\x1b") {
		t.Errorf("text:\n%s", text.String())
	}
	if !strings.HasPrefix(csv.String(), "au,name,state,") || !strings.Contains(csv.String(), "0.99999") {
		t.Errorf("csv:\n%s", csv.String())
	}
}

func TestConfigHidesPasswords(t *testing.T) {
	s := Sources{Config: func() []ConfigRow {
		return []ConfigRow{
			{Name: "org.lockss.platform.ui.password", Value: "SHA-256:00"},
			{Name: "org.lockss.ui.users.x.password", Value: "SHA-256:00"},
			{Name: "org.lockss.au.P.k.user_pass", Value: "a;b"},
			{Name: "org.lockss.ui.port", Value: "8081"},
		}
	}}
	tab, _ := s.Table("config", Params{})
	for _, r := range tab.Rows {
		if hidden := r["value"] == "(hidden)"; hidden == (r["name"] == "org.lockss.ui.port") {
			t.Errorf("%v: %v", r["name"], r["value"])
		}
	}
}

func TestFormat(t *testing.T) {
	for _, c := range []struct {
		typ  Type
		v    any
		want string
	}{
		{Percent, 1.0, "100%"}, {Percent, 0.98765, "98.76%"}, {Percent, 0.999999, "99.99%"}, {Percent, 0.0, "0%"}, {Percent, 0.29, "29%"}, {Percent, 0.105, "10.5%"},
		{Int, 1234567, "1,234,567"}, {Int, 999, "999"}, {Int, -1234, "-1,234"}, {Int, -123, "-123"},
		{Bytes, int64(0), "0 B"}, {Bytes, int64(1024), "1.0 KB"}, {Bytes, int64(1 << 40), "1.0 TB"}, {Bytes, int64(466 << 30), "466 GB"}, {Bytes, int64(1<<20 - 1), "1.0 MB"},
		{Crawl, int64(1234), "1234"}, {Bool, true, "yes"}, {Text, nil, ""},
		{Time, now, "2026-11-21 12:00 UTC"}, {Time, now.In(time.FixedZone("CET", 3600)), "2026-11-21 12:00 UTC"}, {Time, time.Time{}, "never"},
	} {
		if got := Format(c.typ, c.v); got != c.want {
			t.Errorf("%s %v: got %q, want %q", c.typ, c.v, got, c.want)
		}
	}
}

func TestCompareNames(t *testing.T) {
	order := []string{"a Box of Letters 2", "The Box of Letters 10", "Journal 02", "journal 9", "Journal 9 b", "Journal 10"}
	for i := range order {
		for j := range order {
			if got := CompareNames(order[i], order[j]); (got < 0) != (i < j) || (got == 0) != (i == j) {
				t.Errorf("%q, %q: got %d", order[i], order[j], got)
			}
		}
	}
}

func TestAddRequest(t *testing.T) {
	for _, c := range []struct {
		r  AddRequest
		ok bool
	}{
		{AddRequest{Title: "t"}, true},
		{AddRequest{Plugin: "p", Params: map[string]string{"base_url": "http://press.example/"}}, true},
		{AddRequest{}, false},
		{AddRequest{Title: "t", Plugin: "p"}, false},
		{AddRequest{Title: "t", Params: map[string]string{"year": "1"}}, false},
	} {
		if err := c.r.Check(); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrRefused) {
			t.Errorf("%+v: %v", c.r, err)
		}
	}
}
