package journal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"armarium/daemon/lockss"
)

func openAt(t testing.TB, path string, mirrors ...string) *Journal {
	t.Helper()
	j, err := Open(path, mirrors...)
	must(t, err)
	t.Cleanup(func() { j.Close() })
	return j
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got\n%+v, want\n%+v", what, got, want)
	}
}

var day = time.Date(2026, 11, 20, 19, 14, 16, 123e6, time.UTC)

const au = lockss.AUID("org|example|press|PressPlugin&base_url~x")

func TestPolls(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a dir with #, ? and %41", "node.db")
	must(t, os.Mkdir(filepath.Dir(path), 0o755))
	j := openAt(t, path)
	done := Poll{
		Key: "abc=", AU: au, Role: "poller", Peer: "TCP:[127.0.0.1]:9721", Started: day, Ended: day.Add(time.Hour), Status: "Complete",
		Quorum: 3, Voters: 4, Agreement: 0.9583, URLs: 72, Won: 69, Lost: 1, TooClose: 1, NoQuorum: 1, Repairs: 3,
		Sentence: "69 of 72 agree", Detail: json.RawMessage(`{"votes":[1]}`),
	}
	running := Poll{Key: "abc=", AU: "other&", Role: "voter", Started: day.Add(time.Minute), Agreement: -1}
	later := Poll{Key: "def=", AU: au, Role: "voter", Started: day.Add(2 * time.Minute), Agreement: -1}
	for _, p := range []Poll{done, running, later} {
		must(t, j.AddPoll(p))
	}
	if err := j.AddPoll(done); err == nil {
		t.Error("one poll was added twice")
	}
	list := func(f Filter) []Poll {
		polls, err := j.Polls(f)
		must(t, err)
		return polls
	}
	equal(t, "all", list(Filter{}), []Poll{later, running, done})
	equal(t, "of the unit", list(Filter{AU: au}), []Poll{later, done})
	equal(t, "as voter", list(Filter{Role: "voter"}), []Poll{later, running})
	equal(t, "by key", list(Filter{Poll: "abc="}), []Poll{running, done})
	equal(t, "before", list(Filter{Before: later.Started}), []Poll{running, done})
	equal(t, "one", list(Filter{Limit: 1}), []Poll{later})
	equal(t, "second", list(Filter{Limit: 1, Skip: 1}), []Poll{running})

	later.Voters, later.Sentence = 7, "voted"
	must(t, j.UpdatePoll(later))
	if err := j.UpdatePoll(Poll{Key: "none", Role: "voter"}); !errors.Is(err, ErrNoRecord) {
		t.Errorf("update of no poll: %v, want ErrNoRecord", err)
	}
	must(t, j.Close())

	j = openAt(t, path)
	if j.Rescue() != "" {
		t.Errorf("rescue: %s", j.Rescue())
	}
	open, err := j.RunningPolls()
	must(t, err)
	equal(t, "running after a restart", open, []Poll{running, later})
	ended, err := j.EndRunning(day.Add(time.Hour), "Aborted", "the node was restarted")
	must(t, err)
	slices.SortFunc(ended, func(a, b Poll) int { return a.Started.Compare(b.Started) })
	for _, p := range []*Poll{&running, &later} {
		p.Ended, p.Status, p.Sentence = day.Add(time.Hour), "Aborted", "the node was restarted"
	}
	equal(t, "ended by the restart", ended, []Poll{running, later})
	open, err = j.RunningPolls()
	must(t, err)
	equal(t, "running then", open, []Poll(nil))
}

func TestOtherRecords(t *testing.T) {
	j := openAt(t, filepath.Join(t.TempDir(), "node.db"))
	one := Crawl{
		AU: au, Kind: "new content", Started: day, Ended: day.Add(time.Minute), Status: 3, Message: "Successful",
		Fetched: 70, NotModified: 2, Excluded: 5, Errors: 1, Bytes: 116641, Failures: []CrawlFailure{{"http://press.example/x", "404"}},
	}
	two := Crawl{AU: "other&", Kind: "repair", Started: day.Add(time.Second)}
	var err error
	one.ID, err = j.AddCrawl(one)
	must(t, err)
	two.ID, err = j.AddCrawl(two)
	must(t, err)
	two.Message = "done"
	must(t, j.UpdateCrawl(two))
	if err := j.UpdateCrawl(Crawl{ID: 99}); !errors.Is(err, ErrNoRecord) {
		t.Errorf("update of no crawl: %v, want ErrNoRecord", err)
	}
	crawls, err := j.Crawls(Filter{})
	must(t, err)
	equal(t, "crawls", crawls, []Crawl{two, one})
	crawls, err = j.Crawls(Filter{AU: au})
	must(t, err)
	equal(t, "crawls of the unit", crawls, []Crawl{one})

	repairs := []Repair{
		{AU: au, URL: "http://press.example/a", Version: 2, From: "TCP:[127.0.0.1]:9723", Poll: "p", At: day, Result: "verified", Old: "SHA-1:00", New: "SHA-1:FF"},
		{AU: au, URL: "http://press.example/b", Version: 2, Poll: "q", At: day, Result: "failed"},
	}
	for _, r := range repairs {
		must(t, j.AddRepair(r))
	}
	got, err := j.Repairs(Filter{AU: au})
	must(t, err)
	equal(t, "repairs", got, []Repair{repairs[1], repairs[0]})
	got, err = j.Repairs(Filter{Poll: "p", Role: "poller", User: "no column of repairs"})
	must(t, err)
	equal(t, "repairs of a poll", got, repairs[:1])

	actions := []Action{{day, "ann", "add unit", string(au), "done"}, {day.Add(1e9), "bob", "log in", "", "refused"}}
	for _, a := range actions {
		must(t, j.AddAction(a))
	}
	trail, err := j.Actions(Filter{User: "ann"})
	must(t, err)
	equal(t, "trail of ann", trail, actions[:1])

	for key, value := range map[string]string{"hash/a": "1", "hash/b": "", "other": "x", "hash%": "y"} {
		must(t, j.Put(key, []byte(value)))
	}
	must(t, j.Put("hash/a", []byte("2")))
	must(t, j.Put("other", nil))
	keys, err := j.Keys("hash/")
	must(t, err)
	equal(t, "keys", keys, []string{"hash/a", "hash/b"})
	for key, want := range map[string][]byte{"hash/a": []byte("2"), "hash/b": {}, "other": nil} {
		value, err := j.Get(key)
		must(t, err)
		equal(t, key, value, want)
	}
}

func TestConcurrent(t *testing.T) {
	j := openAt(t, filepath.Join(t.TempDir(), "node.db"))
	var g sync.WaitGroup
	for n := range 4 {
		g.Go(func() {
			for i := range 20 {
				if err := j.AddAction(Action{At: day, User: fmt.Sprint(n), What: fmt.Sprint(i)}); err != nil {
					t.Error(err)
				}
				if _, err := j.Actions(Filter{User: fmt.Sprint(n)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	all, err := j.Actions(Filter{})
	if err != nil || len(all) != 80 {
		t.Errorf("%d actions, %v, want 80", len(all), err)
	}
}

// users are the names in the audit trail, oldest first.
func users(t *testing.T, j *Journal) string {
	t.Helper()
	all, err := j.Actions(Filter{})
	must(t, err)
	var names []string
	for _, a := range slices.Backward(all) {
		names = append(names, a.User)
	}
	return strings.Join(names, " ")
}

func act(t *testing.T, j *Journal, user string) {
	t.Helper()
	must(t, j.AddAction(Action{At: day, User: user}))
}

func TestMirror(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	path := filepath.Join(one, "node.db")
	j := openAt(t, path, two)
	act(t, j, "ann")
	must(t, j.Mirror(context.Background(), two))
	act(t, j, "bob")
	must(t, j.Mirror(context.Background(), two))
	act(t, j, "not copied")
	if err := j.Mirror(context.Background(), one); err == nil {
		t.Error("the journal was copied onto itself")
	}
	if err := j.Mirror(context.Background(), filepath.Join(two, "missing")); err == nil {
		t.Error("the journal was copied into a directory that is missing")
	}
	must(t, j.Close())
	files, err := filepath.Glob(filepath.Join(two, "*"))
	equal(t, "copy", files, []string{filepath.Join(two, "node.db")})
	must(t, err)

	for _, c := range []struct {
		name   string
		damage func(t *testing.T)
	}{
		{"missing", func(t *testing.T) { must(t, os.Remove(path)) }},
		{"no SQLite", func(t *testing.T) { must(t, os.WriteFile(path, bytes.Repeat([]byte("x"), 9000), 0o644)) }},
		{"damaged", func(t *testing.T) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
			_, err = f.WriteAt(bytes.Repeat([]byte{0xA5}, 3*4096), 4096)
			must(t, err)
			must(t, f.Close())
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.damage(t)
			j := openAt(t, path, filepath.Join(two, "missing"), two)
			if got := users(t, j); got != "ann bob" {
				t.Errorf("trail %q, want that of the copy", got)
			}
			if !strings.Contains(j.Rescue(), two) {
				t.Errorf("rescue %q, want the copy's place", j.Rescue())
			}
			aside, err := filepath.Glob(path + ".damaged-*")
			must(t, err)
			if c.name == "missing" {
				equal(t, "moved aside", len(aside), 0)
			} else if len(aside) != 2 || !strings.Contains(j.Rescue(), aside[0]) {
				t.Errorf("moved aside %q, rescue %q", aside, j.Rescue())
			} else if b, err := os.ReadFile(aside[1]); err != nil || len(b) < 5 {
				t.Errorf("reason %q, %v", b, err)
			}
			for _, a := range aside {
				must(t, os.Remove(a))
			}
			must(t, j.Close())
		})
	}
	t.Run("no copy", func(t *testing.T) {
		must(t, os.WriteFile(path, []byte(strings.Repeat("garbage", 1000)), 0o644))
		j := openAt(t, path)
		if users(t, j) != "" || !strings.Contains(j.Rescue(), "anew") {
			t.Errorf("trail %q, rescue %q", users(t, j), j.Rescue())
		}
	})
}

// The node ran from the copy while the first disk was away. Neither history is overwritten.
func TestMirrorOntoLater(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	first := openAt(t, filepath.Join(one, "node.db"))
	act(t, first, "ann")
	must(t, first.Mirror(context.Background(), two))
	must(t, first.Close())
	second := openAt(t, filepath.Join(two, "node.db"))
	act(t, second, "bob")
	must(t, second.Close())
	second = openAt(t, filepath.Join(two, "node.db"))
	act(t, second, "carl")
	must(t, second.Close())

	first = openAt(t, filepath.Join(one, "node.db"))
	act(t, first, "dora")
	must(t, first.Mirror(context.Background(), two))
	must(t, first.Mirror(context.Background(), two)) // an earlier copy now
	other, err := filepath.Glob(filepath.Join(two, "node.db.other-*Z"))
	if err != nil || len(other) != 1 {
		t.Fatalf("kept %q, %v, want one", other, err)
	}
	if got := users(t, openAt(t, other[0])); got != "ann bob carl" {
		t.Errorf("kept trail %q", got)
	}
	if got := users(t, openAt(t, filepath.Join(two, "node.db"))); got != "ann dora" {
		t.Errorf("copied trail %q", got)
	}
}

func TestMigrate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := connect(path, "rwc")
	must(t, err)
	defer db.Close()
	const one = "-- comment\n\n-- version 1\nCREATE TABLE a (x);\nINSERT INTO a VALUES (1);\n"
	const two = one + "\n-- version 2\nALTER TABLE a ADD COLUMN y DEFAULT 5;\n"
	const bad = two + "\n-- version 3\nINSERT INTO a VALUES (2, 2);\nINSERT INTO none VALUES (1);\n"
	for _, step := range []struct {
		schema string
		fails  bool
		rows   int
	}{{one, false, 1}, {one, false, 1}, {two, false, 1}, {bad, true, 1}, {two, false, 1}, {one, true, 1}} {
		if err := migrate(db, step.schema); (err != nil) != step.fails {
			t.Errorf("migrate: %v, want an error %v", err, step.fails)
		}
		var rows int
		must(t, db.QueryRow("SELECT count(*) FROM a").Scan(&rows))
		equal(t, "rows", rows, step.rows)
	}
	var y int
	must(t, db.QueryRow("SELECT y FROM a").Scan(&y))
	equal(t, "y", y, 5)
}

// A file of a newer release is neither changed nor moved aside.
func TestNewer(t *testing.T) {
	dir, copies := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "node.db")
	j := openAt(t, path)
	must(t, j.Mirror(context.Background(), copies))
	_, err := j.db.Exec("PRAGMA user_version = 1000")
	must(t, err)
	must(t, j.Close())
	if _, err := Open(path, copies); !errors.Is(err, ErrNewer) {
		t.Errorf("Open: %v, want ErrNewer", err)
	}
	if aside, _ := filepath.Glob(path + ".*"); len(aside) != 0 {
		t.Errorf("moved aside: %q", aside)
	}
}

const killPath = "ARMARIUM_TEST_JOURNAL" // environment of the helper process

func TestMain(m *testing.M) {
	path := os.Getenv(killPath)
	if path == "" {
		os.Exit(m.Run())
	}
	j, err := Open(path)
	for i := 0; err == nil; i++ {
		if err = j.AddPoll(Poll{Key: fmt.Sprint(os.Getpid(), "-", i), Role: "voter", AU: au, Started: day}); err == nil {
			_, err = fmt.Println(os.Getpid(), i)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// What was acknowledged before the process was killed is there afterwards.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.db")
	want := map[string]bool{}
	for round := range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), killPath+"="+path)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		n := 0
		for lines := bufio.NewScanner(out); lines.Scan(); {
			want[strings.ReplaceAll(lines.Text(), " ", "-")] = true
			if n++; n == 7*round+1 {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		if n < 7*round+1 {
			t.Fatalf("the helper ended by itself: %s", stderr.String())
		}
		j := openAt(t, path)
		polls, err := j.RunningPolls()
		must(t, err)
		got := map[string]bool{}
		for _, p := range polls {
			got[p.Key] = true
		}
		for key := range want {
			if !got[key] {
				t.Errorf("round %d: poll %s is lost", round, key)
			}
		}
		must(t, j.Close())
	}
}

func BenchmarkAddAction(b *testing.B) {
	j := openAt(b, filepath.Join(b.TempDir(), "node.db"))
	b.ReportAllocs()
	for b.Loop() {
		must(b, j.AddAction(Action{At: day, User: "ann", What: "look", Object: "status", Result: "done"}))
	}
}
